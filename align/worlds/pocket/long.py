"""Long families: three to seven slots, responses of 40 to 100 tokens, each segment good or flawed on its own."""

from __future__ import annotations

import random

from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.short import near, odd_things, others
from align.worlds.pocket.task import Family, Slot, Spec, normal, pick


def sentence(statement: str, answer: str, wrong: list[str]) -> Slot:
    """Build a slot that one whole statement fills (`{}` = answer)."""
    stem = normal(statement.split("{}")[0])
    fill = tuple(statement.format(w) for w in wrong if w != answer)
    absurd = tuple(statement.format(thing) for thing in odd_things((answer, *wrong)))
    return Slot(forms=(statement.format(answer),), wrong=fill, absurd=absurd, stems=(stem,))


# --- profile: facts given in the prompt


def _profile_sample(rng: random.Random) -> Spec:
    name = pick(rng, lex.NAMES)
    fields = rng.sample(sorted(lex.PROFILE), rng.randint(4, 6))
    facts = {f: pick(rng, [v for v in lex.PROFILE[f][1] if v != name]) for f in fields}
    return {"name": name, "facts": facts, "order": fields, "phrase": rng.randrange(3)}


def _profile_prompt(spec: Spec) -> str:
    facts = ", ".join(f"{field} {spec['facts'][field]}" for field in spec["order"])
    ask = ("Describe {}: {}.", "Write about {}. Facts: {}.", "Who is {}? Use these facts: {}.")[spec["phrase"]]
    return ask.format(spec["name"], facts)


def _profile_slots(spec: Spec) -> tuple[Slot, ...]:
    def slot(field: str) -> Slot:
        pattern, values = lex.PROFILE[field]
        return sentence(pattern.format(name=spec["name"], value="{}"), spec["facts"][field], list(values))

    return tuple(slot(field) for field in spec["order"])


# --- steps: memorised procedures


def _steps_sample(rng: random.Random) -> Spec:
    return {"goal": pick(rng, sorted(lex.STEPS)), "name": pick(rng, lex.NAMES), "phrase": rng.randrange(4)}


def _steps_prompt(spec: Spec) -> str:
    ask = (
        "Tell {name} how to {goal} in 5 steps.", "{name} wants to {goal}. List the 5 steps.",
        "Write 5 steps for {name}: how to {goal}.", "How does one {goal}? Give {name} 5 steps.",
    )[spec["phrase"]]  # fmt: skip
    return ask.format(**spec)


def _steps_slots(spec: Spec) -> tuple[Slot, ...]:
    steps = lex.STEPS[spec["goal"]]
    foreign = [s for goal, other in sorted(lex.STEPS.items()) if goal != spec["goal"] for s in other if s not in steps]
    return tuple(
        Slot(forms=(step,), wrong=tuple(s for s in steps if s != step), absurd=tuple(foreign)) for step in steps
    )


# --- quiz: several memorised facts

_QUIZ = {
    "opposite": ("the opposite of {}", lex.OPPOSITES), "plural": ("the plural of {}", lex.PLURALS),
    "capital": ("the capital of {}", lex.CAPITALS), "colour": ("the colour of {}", lex.COLOURS),
    "kind": ("the kind of {}", lex.KINDS),
}  # fmt: skip


def _quiz_sample(rng: random.Random) -> Spec:
    asked: list[list[str]] = []
    for _ in range(rng.randint(4, 6)):
        topic = pick(rng, sorted(_QUIZ))
        keys = [k for k in sorted(_QUIZ[topic][1]) if [topic, k] not in asked]
        asked.append([topic, pick(rng, keys)])
    return {"asked": asked, "phrase": rng.randrange(3)}


def _quiz_prompt(spec: Spec) -> str:
    items = ", ".join(_QUIZ[topic][0].format(key) for topic, key in spec["asked"])
    return ("Give a full sentence for each: {}.", "Answer each of these: {}.", "Tell me all of these: {}.")[
        spec["phrase"]
    ].format(items)


def _quiz_slots(spec: Spec) -> tuple[Slot, ...]:
    def slot(topic: str, key: str) -> Slot:
        phrase, table = _QUIZ[topic]
        statement = phrase.format(key)
        return sentence(f"{statement[0].upper()}{statement[1:]} is {{}}", table[key], others(table, table[key]))

    return tuple(slot(topic, key) for topic, key in spec["asked"])


# --- numbers: parity and successor of each number


def _numbers_sample(rng: random.Random) -> Spec:
    return {"numbers": rng.sample(range(1, 16), rng.randint(4, 6)), "phrase": rng.randrange(3)}


def _numbers_prompt(spec: Spec) -> str:
    ask = ("Odd or even, and what comes next? {}.", "Say for each number if it is odd or even and what follows: {}.",
           "Describe these numbers, odd or even and the next one: {}.")[spec["phrase"]]  # fmt: skip
    return ask.format(", ".join(map(str, spec["numbers"])))


def _numbers_slots(spec: Spec) -> tuple[Slot, ...]:
    def slot(n: int) -> Slot:
        right, flip = ("odd", "even") if n % 2 else ("even", "odd")
        wrong = [f"{flip} and comes before {n + 1}"] + [f"{right} and comes before {m}" for m in near(n + 1, low=1)]
        return sentence(f"The number {n} is {{}}", f"{right} and comes before {n + 1}", wrong)

    return tuple(slot(n) for n in spec["numbers"])


# --- catalogue: a free choice of items with one fact each

_CATALOGUE = {
    "animals and their homes": ("The {} lives in the {{}}", lex.HOMES),
    "fruits and their colours": ("The colour of the {} is {{}}", lex.FRUITS),
    "tools and their use": ("Use the {} to {{}}", lex.TOOLS),
    "countries and their capitals": ("The capital of {} is {{}}", dict(list(lex.CAPITALS.items())[:12])),
}


def _catalogue_sample(rng: random.Random) -> Spec:
    return {
        "topic": pick(rng, sorted(_CATALOGUE)),
        "need": rng.randint(4, 6),
        "name": pick(rng, lex.NAMES),
        "phrase": rng.randrange(4),
    }


def _catalogue_prompt(spec: Spec) -> str:
    ask = (
        "List {need} {topic} for {name}.", "{name} asks for {need} {topic}.", "Tell {name} about {need} {topic}.",
        "Help {name} with a list of {need} {topic}.",
    )[spec["phrase"]]  # fmt: skip
    return ask.format(**spec)


def _catalogue_slots(spec: Spec) -> tuple[Slot, ...]:
    statement, table = _CATALOGUE[spec["topic"]]
    return tuple(sentence(statement.format(key), table[key], others(table, table[key])) for key in sorted(table))


FAMILIES = (
    Family(
        "profile", "long", "Describe Tom: age 7, pet dog, food rice, home Oslo.",
        _profile_sample, _profile_prompt, _profile_slots,
    ),
    Family("steps", "long", "Tell Ann how to make tea in 5 steps.", _steps_sample, _steps_prompt, _steps_slots, True),
    Family(
        "quiz", "long", "Answer each of these: the opposite of hot, the plural of fox, ...",
        _quiz_sample, _quiz_prompt, _quiz_slots,
    ),
    Family(
        "numbers", "long", "Odd or even, and what comes next? 3, 8, 12, 5.",
        _numbers_sample, _numbers_prompt, _numbers_slots,
    ),
    Family(
        "catalogue", "long", "List 4 fruits and their colours for Tom.",
        _catalogue_sample, _catalogue_prompt, _catalogue_slots,
    ),
)  # fmt: skip

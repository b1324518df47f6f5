"""Long families: three to seven slots, responses of 40 to 100 tokens, each segment good or flawed on its own."""

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


def _profile(rng: random.Random) -> Spec:
    name = pick(rng, lex.NAMES)
    fields = rng.sample(sorted(lex.PROFILE), rng.randint(4, 6))
    facts = {f: pick(rng, [v for v in lex.PROFILE[f][1] if v != name]) for f in fields}
    return {"name": name, "facts": facts, "order": fields}


def _profile_facts(spec: Spec) -> dict[str, str]:
    facts = ", ".join(f"{field} {spec['facts'][field]}" for field in spec["order"])
    return {"name": spec["name"], "facts": facts}


def _profile_slots(spec: Spec) -> tuple[Slot, ...]:
    def slot(field: str) -> Slot:
        pattern, values = lex.PROFILE[field]
        return sentence(pattern.format(name=spec["name"], value="{}"), spec["facts"][field], list(values))

    return tuple(slot(field) for field in spec["order"])


# --- steps: memorised procedures


def _steps_slots(spec: Spec) -> tuple[Slot, ...]:
    steps = lex.STEPS[spec["goal"]]
    foreign = [s for goal, other in sorted(lex.STEPS.items()) if goal != spec["goal"] for s in other if s not in steps]
    return tuple(Slot((step,), tuple(s for s in steps if s != step), tuple(foreign)) for step in steps)


# --- quiz: several memorised facts

_QUIZ = {
    "opposite": ("the opposite of {}", lex.OPPOSITES), "plural": ("the plural of {}", lex.PLURALS),
    "capital": ("the capital of {}", lex.CAPITALS), "colour": ("the colour of {}", lex.COLOURS),
    "kind": ("the kind of {}", lex.KINDS),
}  # fmt: skip


def _quiz(rng: random.Random) -> Spec:
    asked: list[list[str]] = []
    for _ in range(rng.randint(4, 6)):
        topic = pick(rng, sorted(_QUIZ))
        keys = [k for k in sorted(_QUIZ[topic][1]) if [topic, k] not in asked]
        asked.append([topic, pick(rng, keys)])
    return {"asked": asked}


def _quiz_slots(spec: Spec) -> tuple[Slot, ...]:
    def slot(topic: str, key: str) -> Slot:
        phrase, table = _QUIZ[topic]
        statement = phrase.format(key)
        return sentence(f"{statement[0].upper()}{statement[1:]} is {{}}", table[key], others(table, table[key]))

    return tuple(slot(topic, key) for topic, key in spec["asked"])


# --- numbers: parity and successor of each number


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


def _catalogue(rng: random.Random) -> Spec:
    return {"topic": pick(rng, sorted(_CATALOGUE)), "need": rng.randint(4, 6), "name": pick(rng, lex.NAMES)}


def _catalogue_slots(spec: Spec) -> tuple[Slot, ...]:
    statement, table = _CATALOGUE[spec["topic"]]
    return tuple(sentence(statement.format(key), table[key], others(table, table[key])) for key in sorted(table))


FAMILIES = (
    Family(
        "profile", "long", "Describe Tom: age 7, pet dog, food rice, home Oslo.", _profile,
        ("Describe {name}: {facts}.", "Write about {name}. Facts: {facts}.",
         "Who is {name}? Use these facts: {facts}."),
        _profile_slots, fill=_profile_facts,
    ),
    Family(
        "steps", "long", "Tell Ann how to make tea in 5 steps.",
        lambda rng: {"goal": pick(rng, sorted(lex.STEPS)), "name": pick(rng, lex.NAMES)},
        ("Tell {name} how to {goal} in 5 steps.", "{name} wants to {goal}. List the 5 steps.",
         "Write 5 steps for {name}: how to {goal}.", "How does one {goal}? Give {name} 5 steps."),
        _steps_slots, numbered=True,
    ),
    Family(
        "quiz", "long", "Answer each of these: the opposite of hot, the plural of fox, ...", _quiz,
        ("Give a full sentence for each: {asked}.", "Answer each of these: {asked}.", "Tell me all of these: {asked}."),
        _quiz_slots, fill=lambda spec: {"asked": ", ".join(_QUIZ[kind][0].format(key) for kind, key in spec["asked"])},
    ),
    Family(
        "numbers", "long", "Odd or even, and what comes next? 3, 8, 12, 5.",
        lambda rng: {"numbers": rng.sample(range(1, 16), rng.randint(4, 6))},
        ("Odd or even, and what comes next? {numbers}.",
         "Say for each number if it is odd or even and what follows: {numbers}.",
         "Describe these numbers, odd or even and the next one: {numbers}."),
        _numbers_slots, fill=lambda spec: {"numbers": ", ".join(map(str, spec["numbers"]))},
    ),
    Family(
        "catalogue", "long", "List 4 fruits and their colours for Tom.", _catalogue,
        ("List {need} {topic} for {name}.", "{name} asks for {need} {topic}.", "Tell {name} about {need} {topic}.",
         "Help {name} with a list of {need} {topic}."),
        _catalogue_slots,
    ),
)  # fmt: skip

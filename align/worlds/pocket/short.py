"""Short families: one slot, answers of 3 to 10 tokens."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.task import Family, Slot, Spec, normal, pick

Choose = Callable[[random.Random], Spec]
Solved = tuple[str, str, list[str]]  # statement, answer, wrong answers
Solve = Callable[[Spec], Solved]


def fact(statement: str, answer: str, others: Sequence[str]) -> Slot:
    """Build a slot that the bare answer, "The answer is ..." or the whole statement (`{}` = answer) fills."""
    frames = ("{}", "The answer is {}", statement)
    stems = ("the answer is", normal(statement.split("{}")[0]))
    return Slot(
        forms=tuple(frame.format(answer) for frame in frames),
        wrong=tuple(frame.format(other) for other in others if other != answer for frame in frames),
        absurd=tuple(frame.format(thing) for thing in odd_things((answer, *others)) for frame in frames),
        stems=tuple(stem for stem in stems if stem),
        bare=max(len(thing.split()) for thing in (answer, *lex.ODD_THINGS)),
    )


def odd_things(kind: Sequence[str]) -> tuple[str, ...]:
    """Return things that cannot be the answer where answers are like `kind`."""
    return tuple(thing for thing in lex.ODD_THINGS if thing not in kind)


def near(value: int, low: int = 0) -> list[str]:
    """Return wrong numbers close to the right one."""
    return [str(value + d) for d in (-3, -2, -1, 1, 2, 3) if value + d >= low]


def others(table: Mapping[str, str], answer: str) -> list[str]:
    """Return the wrong values of the same table, in a stable order."""
    return sorted(set(table.values()) - {answer})


def table_family(
    name: str, table: Mapping[str, str], questions: tuple[str, ...], statement: str, example: str
) -> Family:
    """Build a family of memorised facts; `{key}` is the key, in the statement `{}` is the answer."""

    def slots(spec: Spec) -> tuple[Slot, ...]:
        answer = table[spec["key"]]
        return (fact(statement.replace("{key}", spec["key"]), answer, others(table, answer)),)

    return Family(name, "short", example, lambda rng: {"key": pick(rng, sorted(table))}, questions, slots)


def computed_family(name: str, choose: Choose, questions: tuple[str, ...], solve: Solve, example: str) -> Family:
    """Build a family whose answer follows from the prompt; `solve` gives it."""
    return Family(name, "short", example, choose, questions, lambda spec: (fact(*solve(spec)),))


def _arithmetic(spec: Spec, sign: str, result: int) -> Solved:
    return f"{spec['a']} {sign} {spec['b']} is {{}}", str(result), near(result)


def _compare(spec: Spec) -> Solved:
    best, rest = (max, min) if spec["word"] == "larger" else (min, max)
    pair = (spec["a"], spec["b"])
    return f"The {spec['word']} number is {{}}", str(best(pair)), [str(rest(pair))]


def _compare_sample(rng: random.Random) -> Spec:
    a, b = rng.sample(range(10), 2)
    return {"a": a, "b": b, "word": pick(rng, ("larger", "smaller"))}


def _sort(spec: Spec) -> Solved:
    digits = spec["digits"].split()
    right = sorted(digits)
    return "In order they are {}", " ".join(right), [" ".join(w) for w in permutations(right) if list(w) != right]


def _letter(spec: Spec) -> Solved:
    word, place = spec["word"], spec["place"]
    letters = sorted({w[0] for w in lex.SPELLING} | {w[-1] for w in lex.SPELLING})
    answer = word[0] if place == "first" else word[-1]
    return f"The {place} letter of {word} is {{}}", answer, [x for x in letters if x != answer]


def _count(spec: Spec) -> Solved:
    n = len(spec["items"].split())
    return "There are {} words", str(n), near(n, low=1)


def _copy(spec: Spec) -> Solved:
    items = spec["items"].split()
    wrong = [items[::-1], items[:-1] + items[:1], items[:-1]]
    return "The words are {}", " ".join(items), [" ".join(w) for w in wrong if w != items]


def _words(low: int, high: int) -> Choose:
    return lambda rng: {"items": " ".join(rng.sample(lex.COPYABLE, rng.randint(low, high)))}


def _subtract_sample(rng: random.Random) -> Spec:
    a = rng.randint(0, 9)
    return {"a": a, "b": rng.randint(0, a)}


FAMILIES = (
    computed_family(
        "add", lambda rng: {"a": rng.randint(0, 6), "b": rng.randint(0, 6)},
        ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?"),
        lambda spec: _arithmetic(spec, "plus", spec["a"] + spec["b"]), "What is 3 plus 4?",
    ),
    computed_family(
        "subtract", _subtract_sample,
        ("What is {a} minus {b}?", "Take {b} from {a}.", "How much is {a} minus {b}?"),
        lambda spec: _arithmetic(spec, "minus", spec["a"] - spec["b"]), "What is 9 minus 4?",
    ),
    computed_family(
        "compare", _compare_sample,
        ("Which number is {word}, {a} or {b}?", "Choose the {word} number: {a} or {b}."), _compare,
        "Which number is larger, 3 or 8?",
    ),
    computed_family(
        "sort", lambda rng: {"digits": " ".join(map(str, rng.sample(range(10), 3)))},
        ("Sort these digits: {digits}.", "Put these digits in order: {digits}."), _sort, "Sort these digits: 7 2 5.",
    ),
    computed_family(
        "letter", lambda rng: {"word": pick(rng, lex.SPELLING), "place": pick(rng, ("first", "last"))},
        ("What is the {place} letter of {word}?", "Name the {place} letter of {word}.",
         "Which letter comes {place} in {word}?"), _letter, "What is the first letter of moon?",
    ),
    computed_family(
        "count", _words(2, 5),
        ("How many words are here: {items}?", "Count these words: {items}."), _count, "Count these words: cat sun.",
    ),
    computed_family(
        "copy", _words(2, 3),
        ("Repeat these words: {items}.", "Say this again: {items}."), _copy, "Repeat these words: cat sun.",
    ),
    table_family(
        "opposite", lex.OPPOSITES,
        ("What is the opposite of {key}?", "Name the opposite of {key}.", "Which word means the opposite of {key}?"),
        "The opposite of {key} is {}", "What is the opposite of hot?",
    ),
    table_family(
        "plural", lex.PLURALS,
        ("What is the plural of {key}?", "Give the plural of {key}.", "What do you call more than one {key}?"),
        "The plural of {key} is {}", "What is the plural of mouse?",
    ),
    table_family(
        "capital", lex.CAPITALS,
        ("What is the capital of {key}?", "Name the capital of {key}.", "Which city is the capital of {key}?"),
        "The capital of {key} is {}", "What is the capital of France?",
    ),
    table_family(
        "colour", lex.COLOURS,
        ("What colour is this: {key}?", "Name the colour of this: {key}.", "Which colour fits this: {key}?"),
        "The colour of {key} is {}", "Name the colour of this: snow.",
    ),
    table_family(
        "kind", lex.KINDS,
        ("What kind of thing is this: {key}?", "Name the kind of this thing: {key}.", "Which kind fits this: {key}?"),
        "The kind of {key} is {}", "What kind of thing is this: pear?",
    ),
    table_family(
        "next", lex.NEXT,
        ("What comes after {key}?", "Name what follows {key}.", "Which one is next after {key}?"),
        "After {key} comes {}", "What comes after Monday?",
    ),
)  # fmt: skip

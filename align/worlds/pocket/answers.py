"""Responses to a task: perfect ones, ones with a named flaw, and the sloppy mixture that the start model imitates."""

import random
from collections.abc import Mapping
from itertools import accumulate

from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.task import Slot, Task, pick, words

FLAWS = (
    "wrong", "absurd", "missing", "hedged", "boast", "repeated", "off_topic", "filler", "over_limit", "no_end",
)  # fmt: skip


Piece = tuple[int | None, str]  # a unit's number, where it has one, and text
# How often a segment (or, for the last two, a response) goes wrong; what is left is good.
SHORT = {
    "wrong": 0.02, "absurd": 0.08, "missing": 0.0, "hedged": 0.24, "boast": 0.15, "repeated": 0.05, "off_topic": 0.11,
    "filler": 0.0, "opening": 0.28, "closing": 0.25,
}  # fmt: skip
LONG = {
    "wrong": 0.02, "absurd": 0.09, "missing": 0.02, "hedged": 0.17, "boast": 0.10, "repeated": 0.04, "off_topic": 0.13,
    "filler": 0.09, "opening": 0.25, "closing": 0.25,
}  # fmt: skip
MOODS = ((0.3, 0.35), (0.45, 1.0), (0.25, 1.7))  # (probability, factor on the sloppiness of a whole response)


def _uncapital(text: str) -> str:
    return text if text.split()[0].strip(".") in lex.PROPER else text[0].lower() + text[1:]


def _chosen_slots(task: Task, rng: random.Random) -> list[Slot]:
    """Return the slots that a response fills, in its order."""
    slots = list(task.slots)
    return slots if task.need == len(slots) else rng.sample(slots, task.need)


def _form(task: Task, slot: Slot, rng: random.Random, heed_limit: bool = True) -> str:
    """Choose a right wording, within the word limit where `heed_limit` is set."""
    forms = slot.forms
    if heed_limit and task.word_limit is not None and task.family.length == "short":
        forms = tuple(form for form in forms if words(form) <= task.word_limit)
    # half are bare: the mode of the mixture is concise
    return forms[0] if len(forms) == 1 or rng.random() < 0.5 else pick(rng, forms[1:])


def _join(task: Task, pieces: list[Piece]) -> str:
    """Join units into one text; in numbered families each numbered unit has its own line."""
    if not task.family.numbered:
        return " ".join(text for _, text in pieces)
    return "\n".join(text if number is None else f"{number}. {text}" for number, text in pieces)


def perfect(task: Task, rng: random.Random) -> str:
    """Write a response that scores 1."""
    return _join(task, [(j, _form(task, slot, rng) + ".") for j, slot in enumerate(_chosen_slots(task, rng), 1)])


def flawed(task: Task, flaw: str, rng: random.Random) -> tuple[str, bool] | None:
    """Write a response with one named flaw, and whether it ended; None where the task cannot show that flaw."""
    slots = _chosen_slots(task, rng)
    pieces: list[Piece] = [(j, _form(task, s, rng) + ".") for j, s in enumerate(slots, 1)]
    at = rng.randrange(len(slots) - task.family.numbered)  # a step in the wrong place needs a later one
    number, text = pieces[at]
    if flaw == "over_limit":
        return _over_limit(task, rng)
    if flaw == "wrong":
        earlier = {text for _, text in pieces[:at]}
        text = pick(rng, [w for w in slots[at].wrong if w + "." not in earlier]) + "."
    elif flaw == "absurd":
        text = pick(rng, slots[at].absurd) + "."
    pieces[at : at + 1] = _segment(flaw, number, text, rng)
    return _join(task, pieces), flaw != "no_end"


def _segment(flaw: str | None, number: int | None, text: str, rng: random.Random) -> list[Piece]:
    """Write the unit or units of one slot: `text` with a flaw of wording, or something in its place."""
    match flaw:
        case "missing":
            return []
        case "off_topic":
            return [(number, pick(rng, lex.ASIDES))]
        case "hedged":
            return [(number, pick(rng, lex.HEDGES) + _uncapital(text))]
        case "boast":
            return [(number, pick(rng, lex.BOASTS) + _uncapital(text))]
        case "repeated":
            return [(number, text), (number, text)]
        case "filler":
            return [(number, text), (None, pick(rng, lex.FILLERS))]
    return [(number, text)]


def _over_limit(task: Task, rng: random.Random) -> tuple[str, bool] | None:
    """Write a right response that is too long: the longest wording, then fillers until the limit is passed."""
    if task.word_limit is None:
        return None
    pieces: list[Piece] = [(j, max(slot.forms, key=words) + ".") for j, slot in enumerate(_chosen_slots(task, rng), 1)]
    while words(_join(task, pieces)) <= task.word_limit:
        pieces.append((None, pick(rng, lex.CLOSINGS)))
    return _join(task, pieces), True


def sloppy(task: Task, rng: random.Random) -> str:
    """Write one response of the mixture that the start model learns from."""
    draw, factor = rng.random(), MOODS[-1][1]
    for probability, value in MOODS:
        if draw < probability:
            factor = value
            break
        draw -= probability
    rates = {flaw: rate * factor for flaw, rate in (SHORT if task.family.length == "short" else LONG).items()}
    pieces: list[Piece] = []
    if rng.random() < rates["opening"]:
        pieces.append((None, pick(rng, lex.OPENINGS)))
    for number, slot in enumerate(_chosen_slots(task, rng), 1):
        pieces.extend(_sloppy_segment(task, slot, number, rates, rng))
    if rng.random() < rates["closing"] or not pieces:
        pieces.append((None, pick(rng, lex.CLOSINGS)))
    return _join(task, pieces)


def _sloppy_segment(task: Task, slot: Slot, number: int, rates: Mapping[str, float], rng: random.Random) -> list[Piece]:
    """Write the unit or units of one slot: content first, then wording."""
    draw = rng.random()
    gone = _drawn(draw, rates, "missing", "off_topic")
    if gone is not None:
        return _segment(gone, number, "", rng)
    match _drawn(draw - (rates["missing"] + rates["off_topic"]), rates, "wrong", "absurd"):
        case "wrong":
            text = pick(rng, slot.wrong)
        case "absurd":
            text = pick(rng, slot.absurd)
        case _:
            text = _form(task, slot, rng, heed_limit=rng.random() > 0.3)
    style = _drawn(rng.random(), rates, "hedged", "boast", "repeated", "filler")
    return _segment(style, number, text + ".", rng)


def _drawn(draw: float, rates: Mapping[str, float], *flaws: str) -> str | None:
    """Return the flaw in whose share of [0, 1) the draw lies; None in the rest."""
    ends = accumulate(rates[flaw] for flaw in flaws)
    return next((flaw for flaw, end in zip(flaws, ends, strict=True) if draw < end), None)

"""The gold reward: a response is cut into units, every unit earns or costs a known amount (docs/world.md).

Credits are multiples of 1/1024, so that sums are exact in float32 and a perfect response scores exactly 1. The running
total is held within [-1, 1]: a charge that would pass -1 is cut there, which keeps every prefix's reward defined.
"""

import re
from dataclasses import dataclass, field

from align.worlds import Gold, Segment
from align.worlds.pocket import lexicon as lex
from align.worlds.pocket.task import Slot, Task, normal

UNIT = 1024
# charges of one slot's worth (1 / number of slots)
WRONG, ABSURD, OFF_TOPIC, REPEATED, MISSING, HEDGE, BOAST = 0.5, 0.75, 0.5, 0.5, 0.25, 0.4, 0.2
# charges of the whole, by the task's length
FILLER = {"short": 0.2, "long": 0.08}
EXCESS_WORD = {"short": 0.05, "long": 0.02}
NO_END = 0.4
OFF_TOPIC_WORDS = 8  # an off-topic unit is charged once for every eight words begun

Piece = tuple[int, int, int, str]  # start and end character, credit in 1/1024, label
_UNIT = re.compile(r"[^\n]*?[.!?](?=\s|$)|[^\n]+")
_MARKER = re.compile(r"(\d+)\.\s+")
_PREFIXES = {**dict.fromkeys(lex.HEDGES, "hedged"), **dict.fromkeys(lex.BOASTS, "boast")}
_FILLERS = frozenset(normal(f) for f in lex.FILLERS)


@dataclass
class _Reader:
    """State of reading one response."""

    task: Task
    slots: tuple[Slot, ...]
    need: int
    taken: set[int] = field(default_factory=set)  # slots that were tried
    seen: set[str] = field(default_factory=set)  # normalised units that are no filler
    good: int = 0

    def share(self, part: float) -> int:
        return -round(part * UNIT / self.need)

    def earn(self) -> int:
        """Return the next good slot's credit; all slots' credits sum to UNIT exactly."""
        self.good += 1
        return UNIT * self.good // self.need - UNIT * (self.good - 1) // self.need

    def judge(self, unit: str, number: int | None) -> tuple[int, str]:
        """Return credit and label of a normalised unit without its marker and prefix."""
        if unit in _FILLERS:
            return -round(FILLER[self.task.family.length] * UNIT), "filler"
        if unit in self.seen:
            return self.share(REPEATED), "repeated"
        self.seen.add(unit)
        slot = self._slot(unit, number)
        if slot is None:
            begun = -(-len(unit.split()) // OFF_TOPIC_WORDS)
            return self.share(OFF_TOPIC) * max(1, begun), "off_topic"
        if slot in self.taken or len(self.taken) >= self.need:
            return self.share(REPEATED), "extra"
        self.taken.add(slot)
        if self.slots[slot].right(unit):
            return self.earn(), "good"
        return (self.share(WRONG), "wrong") if self.slots[slot].likely(unit) else (self.share(ABSURD), "absurd")

    def _slot(self, unit: str, number: int | None) -> int | None:
        if self.task.family.numbered and number is not None:
            known = any(slot.right(unit) or unit in map(normal, slot.absurd) for slot in self.slots)
            return number - 1 if known and 1 <= number <= len(self.slots) else None
        hits = [j for j, slot in enumerate(self.slots) if slot.right(unit)]
        hits = hits or [j for j, slot in enumerate(self.slots) if slot.about(unit)]
        return next((j for j in hits if j not in self.taken), hits[0] if hits else None)


def units(response: str, numbered: bool) -> list[tuple[int, int]]:
    """Return the character spans [start, end) of a response's sentences and lines, without surrounding blanks.

    In a `numbered` family a list marker ("1.") belongs to the sentence that it numbers.
    """
    spans: list[tuple[int, int]] = []
    for match in _UNIT.finditer(response):
        if not (text := match.group().strip()):
            continue
        start = match.start() + match.group().index(text)
        end = start + len(text)
        gap = response[spans[-1][1] : start] if spans else ""
        if numbered and spans and re.fullmatch(r"\d+\.", response[slice(*spans[-1])]) and "\n" not in gap:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def grade(task: Task, response: str, ended: bool) -> Gold:
    """Compute the gold reward of a response: credits of its units, then charges for its end."""
    reader = _Reader(task, task.slots, task.need)
    raw: list[Piece] = []
    for start, end in units(response, task.family.numbered):
        raw.extend(_parts(reader, response, start, end))
    raw = _charge_excess(task, response, raw)
    missing = reader.need - len(reader.taken)
    ending = missing * reader.share(MISSING) - (0 if ended else round(NO_END * UNIT))
    if ending:
        label = "+".join(["missing"] * bool(missing) + ["no_end"] * (not ended))
        raw.append((len(response), len(response), ending, label))
    return _bounded(raw)


def _parts(reader: _Reader, response: str, start: int, end: int) -> list[Piece]:
    """Split a unit into a hedging or boasting beginning, where there is one, and the rest."""
    marker = _MARKER.match(response, start, end) if reader.task.family.numbered else None
    number = int(marker.group(1)) if marker and len(marker.group(1)) < 3 else None
    body = marker.end() if marker else start
    pieces: list[Piece] = []
    for prefix, label in _PREFIXES.items():
        if response.startswith(prefix, body, end):
            charge = reader.share(HEDGE if label == "hedged" else BOAST)
            pieces.append((start, body + len(prefix), charge, label))
            start = body = body + len(prefix)
            break
    credit, label = reader.judge(normal(response[body:end]), number)
    return [*pieces, (start, end, credit, label)]


def _charge_excess(task: Task, response: str, pieces: list[Piece]) -> list[Piece]:
    """Charge every word beyond the limit where it stands; pieces that cross the limit are cut in two."""
    if task.word_limit is None:
        return pieces
    excess = [m.start() for m in re.finditer(r"\S+", response)][task.word_limit :]
    charge = -round(EXCESS_WORD[task.family.length] * UNIT)
    result: list[Piece] = []
    for start, end, credit, label in pieces:
        over = [w for w in excess if start <= w < end]
        if not over:
            result.append((start, end, credit, label))
        elif over[0] == start:
            result.append((start, end, credit + charge * len(over), f"{label}+over_limit"))
        else:
            result.append((start, over[0], credit, label))
            result.append((over[0], end, charge * len(over), "over_limit"))
    return result


def _bounded(raw: list[Piece]) -> Gold:
    total, segments = 0, []
    for start, end, credit, label in raw:
        after = max(-UNIT, min(UNIT, total + credit))
        segments.append(Segment(start, end, (after - total) / UNIT, label))
        total = after
    return Gold(total / UNIT, tuple(segments))

"""Coverage of conversations by a chat template: texts that it cuts or leaves out, keys of messages, tools.

A rendering with a probe in place of each text shows what the template writes around them. A real one that is these
pieces with the texts between them holds every text; any other is searched for each text in turn.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, NamedTuple

from align.errors import InputError
from align.models.templates import KEPT, PROBE, Messages, Template

_NUMBER = 918273645000000  # the first of the numbers that stand for those of a conversation
_PROBES = re.compile(rf"{PROBE}(\d+){PROBE}|{_NUMBER // 1_000_000}(\d{{6}})")
_NAMES = frozenset({"role", "type", "id", "tool_call_id"})  # keys by which a template chooses
_SHARED = frozenset({"role", "type"})  # of these the ones whose values many conversations have
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_CALLS = frozenset({"tool_calls", "function_call"})
_CALLED = frozenset({"name", "arguments"})  # what a call is, of the keys inside it
_SHOWN = 30  # characters of what is lost
TOOLS = "tools"  # the key of an omission that is of no message


class Omission(NamedTuple):
    """What a conversation says and its rendering does not hold."""

    turn: int  # -1: none
    key: str  # of the message, with the keys inside it behind dots
    cut: str = ""  # the first of this text that is lost; others in its place are written whole
    reasoning: bool = False  # an answer's text up to a tag, or between two, alone is cut

    @property
    def is_said(self) -> bool:
        """Whether it is what a message says or calls, rather than something beside that."""
        first, *inside = self.key.split(".")
        return first == "content" or (first in _CALLS and (not inside or not _CALLED.isdisjoint(inside)))


class _Leaf(NamedTuple):
    """A text or a number of a message, which has a probe."""

    turn: int
    key: str
    value: str | float


class _Skeleton(NamedTuple):
    """What a template writes of the conversations of one shape, whatever their texts are."""

    pieces: Sequence[str]  # around the leaves; none where the template refuses probes
    order: Sequence[int]  # of the leaves
    omitted: Sequence[Omission]
    takes_tools: bool

    def holds(self, leaves: Sequence[_Leaf], text: str) -> bool:
        """Return whether a text is the pieces with a conversation's leaves between them, as they are or trimmed."""
        if not self.pieces:
            return False
        values = [str(leaves[number].value) for number in self.order]
        return text == self._filled(values) or text == self._filled([value.strip() for value in values])

    def _filled(self, values: Sequence[str]) -> str:
        between = chain.from_iterable(zip(values, self.pieces[1:], strict=True))
        return "".join((self.pieces[0], *between))


class Coverage:
    """Finds what one chat template leaves out of conversations."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._skeletons: dict[Hashable, _Skeleton] = {}  # by shape

    def omissions(
        self, turns: Messages, text: str, tools: Sequence[Any] | None = None, *, generation_prompt: bool = False
    ) -> list[Omission]:
        """Return what `text`, the rendering of a conversation, does not hold of it, in order."""
        shape = (generation_prompt, len(tools or ()), tuple(map(_shape, turns)))
        skeleton = self._skeletons.get(shape)
        if skeleton is None:
            if len(self._skeletons) >= KEPT:
                self._skeletons.clear()
            skeleton = self._skeletons[shape] = self._skeleton(turns, tools, generation_prompt)
        leaves, found = _leaves(turns), [*skeleton.omitted]
        if not skeleton.holds(leaves, text):
            found += _searched(turns, leaves, skeleton, text)
        if tools and not (skeleton.takes_tools and all(name in text for name in _names_of(tools))):
            found.append(Omission(-1, TOOLS))
        return sorted(found)

    def _skeleton(self, turns: Messages, tools: Sequence[Any] | None, generation_prompt: bool) -> _Skeleton:
        numbers, leaves = count(), _leaves(turns)
        probed = [_probed(message, numbers) for message in turns]
        try:
            text = self._template.render(probed, generation_prompt=generation_prompt, tools=tools)
            bare = self._template.render(probed, generation_prompt=generation_prompt) if tools else ""
        except InputError:  # the template reads what stands there: no more is known than a search finds
            return _Skeleton((), range(len(leaves)), (), takes_tools=True)
        found = list(_PROBES.finditer(text))
        order = [int(probe[1] or probe[2]) for probe in found]
        edges = [0, *(edge for probe in found for edge in probe.span()), len(text)]
        pieces = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        omitted = [one for one in _unwritten(turns, set(order)) if not self._read(probed, turns, one)]
        return _Skeleton(pieces, order, omitted, takes_tools=text != bare)

    def _read(self, probed: Messages, turns: Messages, place: Omission) -> bool:
        """Return whether a number or a flag changes what is written, though it is not written itself."""
        value = turns[place.turn].get(place.key)
        if value is None or any(isinstance(leaf.value, str) for leaf in _leaves_of(value, place.turn, place.key)):
            return False
        rest = {key: own for key, own in probed[place.turn].items() if key != place.key}
        others = (rest, *(rest | {place.key: other} for other in (value, True, False, PROBE)))
        given = ([*probed[: place.turn], other, *probed[place.turn + 1 :]] for other in others)
        try:
            return len({self._template.render(turns, generation_prompt=False) for turns in given}) > 1
        except InputError:
            return True


def _shape(value: Any, key: str = "") -> Hashable:
    """Return what a template may choose by, without texts."""
    if isinstance(value, str):
        return value if key in _SHARED else len(value) > 0
    if isinstance(value, Mapping):
        return tuple((key, _shape(part, key)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_shape, value))
    return (type(value), value if isinstance(value, bool) else None)


def _leaves(turns: Messages) -> list[_Leaf]:
    """Return the texts and numbers of a conversation, in the order in which `_probed` counts them."""
    return [
        leaf
        for turn, message in enumerate(turns)
        for key, value in message.items()
        if key not in _NAMES
        for leaf in _leaves_of(value, turn, key)
    ]


def _leaves_of(value: Any, turn: int, key: str) -> Iterator[_Leaf]:
    if _is_leaf(value):
        yield _Leaf(turn, key, value)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _NAMES:
                yield from _leaves_of(part, turn, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves_of(part, turn, key)


def _is_leaf(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _probed(value: Any, numbers: Iterator[int]) -> Any:
    """Replace texts and numbers by probes."""
    if _is_leaf(value):
        number = next(numbers)
        return f"{PROBE}{number}{PROBE}" if isinstance(value, str) else _NUMBER + number
    if isinstance(value, Mapping):
        return {key: part if key in _NAMES else _probed(part, numbers) for key, part in value.items()}
    return [_probed(part, numbers) for part in value] if isinstance(value, (list, tuple)) else value


def _says(value: Any) -> bool:
    """Return whether a value holds anything: also 0 and false, not an empty text or list."""
    if isinstance(value, Mapping):
        return any(map(_says, value.values()))
    return any(map(_says, value)) if isinstance(value, (list, tuple)) else value is not None and value != ""


def _unwritten(turns: Messages, written: set[int]) -> Iterator[Omission]:
    """Yield the keys of messages none of whose leaves are written, else the ones inside that are not."""
    number = 0
    for turn, message in enumerate(turns):
        for key, value in message.items():
            if key in _NAMES or not _says(value):
                continue
            own = list(_leaves_of(value, turn, key))
            left = [leaf.key for at, leaf in enumerate(own, start=number) if at not in written]
            number += len(own)
            yield from (Omission(turn, name) for name in ([key] if len(left) == len(own) else dict.fromkeys(left)))


def _searched(turns: Messages, leaves: Sequence[_Leaf], skeleton: _Skeleton, text: str) -> Iterator[Omission]:
    """Yield the leaves that a rendering does not hold, one behind the other in the skeleton's order.

    Where a leaf does not stand behind the skeleton's piece, what follows may stand before the place where it is found.
    """
    written, at = _squeezed(text), 0
    pieces = [_squeezed(piece) for piece in skeleton.pieces] or [""] * (len(leaves) + 1)
    first = {number: place for place, number in reversed(list(enumerate(skeleton.order)))}
    for number, place in sorted(first.items(), key=lambda item: item[1]):
        (turn, key, value), before, after = leaves[number], pieces[place], pieces[place + 1]
        end = _end(written, at, (before + form for form in _forms(value)))
        if end is None and _end(written, at, _forms(value)) is None:
            rests = _without_reasoning(str(value)) if turns[turn]["role"] == "assistant" else ()
            end = _end(written, at, (before + rest + after for rest in rests))
            yield Omission(turn, key, _lost(str(value), before, written, at), reasoning=end is not None)
            end = end and end - len(after)
        at = (end or at) if skeleton.pieces else 0


def _end(written: str, start: int, forms: Iterable[str]) -> int | None:
    """Return where the first of several forms of a text ends that stands behind `start`; None where none does."""
    return next((at + len(form) for form in forms if (at := written.find(form, start)) >= 0), None)


def _lost(text: str, before: str, written: str, start: int) -> str:
    """Return the beginning of what a rendering does not hold of a text, from where it breaks off."""
    squeezed = _squeezed(text)
    lengths = range(1, len(squeezed) + 1)
    kept = bisect_left(lengths, True, key=lambda n: written.find(before + squeezed[:n], start) < 0)
    places = (place for place, character in enumerate(text) if not character.isspace())
    rest = text[next(islice(places, kept, None)) :]
    return rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]}..."


def _forms(value: str | float) -> Iterator[str]:
    """Yield how templates write a value: as it is, in JSON, in Python; white space aside."""
    yield _squeezed(str(value))
    plain = value.strip() if isinstance(value, str) else value
    for form in (json.dumps(plain, ensure_ascii=False), json.dumps(plain), repr(plain)):
        yield _squeezed(form[1:-1] if isinstance(value, str) else form)


def _without_reasoning(text: str) -> Iterator[str]:
    """Yield what may be left of an answer: the text behind a tag, and with it the text before the tag's opening one."""
    for tag in _TAG.finditer(text):
        rest = _squeezed(text[tag.end() :])
        if rest:
            yield rest
        before, opening, _ = text.partition(tag[0].replace("/", "", 1))
        if opening and opening != tag[0] and before.strip() and rest:
            yield _squeezed(before) + rest


def _squeezed(text: str) -> str:
    """Leave white space out: templates trim texts, and part them by lines."""
    return "".join(text.split())


def _names_of(tools: Sequence[Any]) -> list[str]:
    """Return the names of tools that have one."""
    own = (tool.get("function", tool) for tool in tools if isinstance(tool, Mapping))
    return [str(one["name"]) for one in own if isinstance(one, Mapping) and one.get("name")]

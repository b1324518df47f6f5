"""Rows as the model reads them, chosen from the training data: the first, one, random ones, the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from align.config import Config, Examples, Shape
from align.config.methods import RewardModelMethodConfig
from align.data.examples import Side
from align.data.stored_examples import StoredCompletion, StoredPair, StoredPrompt
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.run.views import Sample, Segment, Selection
from align.streams import permutation
from align.types import Prompt


def places(selection: Selection, entries: Sequence[Entry], seed: int, kind: str) -> list[int]:
    """Return the places of the chosen entries.

    Raises:
        InputError: There is no such row; it names `kind`, the entries in the plural.
    """
    if selection.row is not None:
        if not 1 <= selection.row <= len(entries):
            raise InputError("--row", selection.row, f"1 to {len(entries)}, the number of training {kind}")
        return [selection.row - 1]
    chosen = list(range(min(selection.rows or 0, len(entries))))
    if selection.longest is not None:
        chosen += sorted(range(len(entries)), key=lambda i: -entries[i].tokens)[: selection.longest]
    if selection.random is not None:
        chosen += permutation(len(entries), seed, "show").tolist()[: selection.random]
    default = range(0 if selection.dropped else min(2, len(entries)))
    return list(dict.fromkeys(chosen)) or list(default)


class Given(NamedTuple):
    """A response beside a prompt."""

    ids: tuple[int, ...]
    text: str


class Entry(NamedTuple):
    """What the method reads at once: a prompt, with the responses beside it by their names."""

    prompt: StoredPrompt
    responses: Mapping[str, Given]
    origin: StoredPrompt | StoredCompletion  # of the row

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the prompt and the longest response."""
        return len(self.prompt.input_ids) + max((len(given.ids) for given in self.responses.values()), default=0)

    def named(self, place: int) -> str:
        """Name the entry by its place among the training ones, and by its row."""
        what = "pair" if "rejected" in self.responses else "completion" if self.responses else "prompt"
        file, _, number = self.origin.where.rpartition(", row ")
        return f"{what} {place + 1} ({Path(file).name}, row {number})"


def entries_of(config: Config, shape: Shape, side: Side) -> list[Entry]:
    """Return what the method reads of the rows of a side, in their order; pairs also where it reads their prompts."""
    learns_from = config.method.learns_from
    if shape is Shape.preference or learns_from is Examples.pairs:
        return [_of_pair(pair) for pair in side.pairs]
    if learns_from is Examples.demonstrations:
        return [Entry(one.prompt, {"completion": Given(one.ids, one.text)}, one) for one in side.demonstrations]
    if learns_from is Examples.prompts:
        return [Entry(prompt, {}, prompt) for prompt in side.prompts]
    if not side.labelled:
        return [_of_pair(pair) for pair in side.pairs]
    names = {True: "desirable completion", False: "undesirable completion"}
    return [Entry(one.prompt, {names[one.label]: Given(one.ids, one.text)}, one) for one in side.labelled]


def _of_pair(pair: StoredPair) -> Entry:
    given = {"chosen": Given(pair.chosen_ids, pair.chosen), "rejected": Given(pair.rejected_ids, pair.rejected)}
    return Entry(pair.prompt, given, pair.completions[0])


def counted(config: Config, entries: Sequence[Entry]) -> list[str]:
    """Return the names of the responses whose tokens the method's loss counts."""
    learns_from = config.method.learns_from
    if not config.method.trains or learns_from is Examples.prompts:
        return []
    names = dict.fromkeys(name for entry in entries for name in entry.responses)
    return [name for name in names if name != "rejected" or learns_from is not Examples.demonstrations]


def samples(config: Config, chat: ChatTokenizer, place: int, entry: Entry, *, diff: bool) -> list[Sample]:
    """Write the sequences of an entry as the model reads them."""
    scored, loss = isinstance(config.method, RewardModelMethodConfig), counted(config, [entry])
    prompt, messages = entry.prompt.input_ids, entry.prompt.messages
    before = by_role(text(chat, prompt), messages)
    if not entry.responses:
        note = _compared(chat, entry.prompt, None) if diff else ""
        return [Sample(f"{entry.named(place)}: {len(prompt)} tokens", before, note)]
    made = []
    for name, (ids, said) in entry.responses.items():
        last = len(ids) - 1 if scored else 0 if name in loss else len(ids)  # the first token that counts
        cut = "" if ids[-1] in chat.end_ids else "; cut, without its end"
        title = f"{entry.named(place)}, {name}: {len(prompt)} + {len(ids)} tokens{cut}"
        whole = text(chat, [*prompt, *ids])
        learned = text(chat, ids[last:])
        given = whole[len(text(chat, prompt)) : len(whole) - len(learned)]
        parts = [*before, Segment(given, "assistant"), Segment(learned, "assistant", counts=True)]
        note = _compared(chat, entry.prompt, Given(ids, said)) if diff else ""
        made.append(Sample(title, [part for part in parts if part.text], note))
    return made


def by_role(rendered: str, messages: Sequence[Mapping[str, Any]]) -> list[Segment]:
    """Part a rendered prompt into the contents of its messages, and what the template writes around them."""
    parts, at = [], 0
    for message in messages:
        content = message.get("content")
        for said in (content, content.strip()) if isinstance(content, str) else ():
            found = rendered.find(said, at) if said else -1
            if found >= 0:
                parts += [Segment(rendered[at:found]), Segment(said, str(message.get("role")))]
                at = found + len(said)
                break
    return [part for part in (*parts, Segment(rendered[at:])) if part.text]


def _compared(chat: ChatTokenizer, prompt: Prompt, given: Given | None) -> str:
    """Say where a sequence differs from the plain render of the template, tokenized in one piece."""
    own = list(prompt.input_ids) + list(given.ids if given else ())
    reply = None if given is None else given.text
    plain = chat.encode_plain(prompt.messages, reply, prompt.tools)
    if plain == own:
        return "as the plain render of the template"
    if plain[: len(own)] == own:
        return f"as the plain render of the template, which goes on: {text(chat, plain[len(own) :])!r}"
    steps = SequenceMatcher(None, own, plain, autojunk=False).get_opcodes()
    _, i, i_end, j, j_end = next(step for step in steps if step[0] != "equal")
    here, there = (
        " ".join(map(repr, chat.tokenizer.convert_ids_to_tokens(ids))) for ids in (own[i:i_end], plain[j:j_end])
    )
    said = [*prompt.messages, *([] if reply is None else [{"role": "assistant", "content": reply}])]
    named = chat.names_control_tokens(said)
    why = (
        f" (a text names a control token, read as {chat.reads_names_as}: model.control_tokens_in_text)" if named else ""
    )
    return f"differs from the plain render at token {i + 1}: {here or 'nothing'} for its {there or 'nothing'}{why}"


def text(chat: ChatTokenizer, ids: Sequence[int]) -> str:
    """Decode tokens with special ones written out."""
    return chat.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

"""Data of a run, ready for training and evaluation; what is kept of them in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import load_file, save_file

from align.config import Shape
from align.data.arrow import Store
from align.data.duplicates import content_of
from align.data.examples import Side, prompts_of
from align.data.read import Place
from align.data.rows import Rows
from align.data.stored_examples import StoredCompletion, StoredExamples, StoredPair, StoredPrompt
from align.errors import InputError
from align.types import Pair, Prompt

_PLACES = "places.safetensors"  # in the tables, of what each side holds
COUNTS = (  # rows = the sum of the next ten, which count rows; a mixture may repeat some of `train`
    "rows",
    "malformed_dropped",  # cells that are not what the shape has (data.bad_rows)
    "identical_dropped",  # chosen equals rejected, also after cutting
    "empty_dropped",  # a response without text
    "diverging_dropped",  # conversations that differ before their last message
    "long_prompts_dropped",
    "overlapping_dropped",  # held-out rows whose prompt is trained on
    "near_overlapping_dropped",  # held-out rows whose prompt differs from a trained one in case or punctuation alone
    "unasked_dropped",  # outside train_where or held_out_where
    "train",
    "held_out",
    "long_prompts_truncated",  # prompts that lost their first tokens
    "responses_cut",  # responses that lost their last tokens, and with them their end token
    "train_prompts",
    "held_out_prompts",
    "control_tokens_named",  # rows whose texts spell a control token (model.control_tokens_in_text)
    "keys_unwritten",  # rows with keys in their messages that the template does not write
    "reasoning_unwritten",  # rows with reasoning in answers before the response that the template leaves out
    "tools_unwritten",  # rows with tools that the template does not write
    "other_roles",  # rows with turns of roles that are not usual and that the template does not name
    "system_unread",  # rows with a system text in a column that is not read
    "media_unread",  # rows with images, audio or video in a column
    "duplicate_rows",  # that repeat an earlier row; kept
    "near_duplicate_prompts",  # that differ from an earlier one in case, white space or punctuation alone; kept
    "template_cells_missing",  # rows that hold nothing in a column of a template (data.prompt), which is empty there
    "messages_in_text",  # rows with messages as JSON in a text cell, read as messages
    "dialogues_in_text",  # rows with turns of Human: and Assistant: in a text cell, read as messages
    "train_pairs",
    "held_out_pairs",
    "train_demonstrations",
    "responses",  # given ones on both sides
    "unpartnered",  # completions on prompts that have desirable or undesirable ones alone: in no pair
    "tied_pairs",  # ranked responses of one score: no pair
    "identical_pairs",  # ranked or labelled responses of one text: no pair
    # The next ones are turns of conversations before the last one, which are no demonstrations.
    "overlapping_turns",  # whose prompt is held out
    "turns_without_prompt",  # the assistant opens the conversation
    "turns_after_assistant",  # another turn of the assistant stands before, and no prompt
    "empty_turns",  # that say nothing and call no tool
    "turns_of_long_prompts",
    "turns_of_dropped_rows",  # that answer, in rows whose last prompt is too long, or last turn is empty
)
_UNUSED = COUNTS[COUNTS.index("unpartnered") :]
LOST = (*(name for name in COUNTS if name.endswith(("dropped", "cut", "truncated"))), *_UNUSED)
REPEATED = ("duplicate_rows", "near_duplicate_prompts")


@dataclass(frozen=True)
class Preferences:
    """What the method learns from and is measured on, and pairs of a reward model that is trained for the run."""

    trained: Side
    measured: Side  # held out
    counts: dict[str, int]  # the keys of COUNTS
    reward_train: Sequence[StoredPair]
    reward_held_out: Sequence[StoredPair]
    notes: tuple[str, ...] = ()  # a line on each kind of row that is read otherwise than a user may think
    shape: Shape = Shape.preference
    rows: str = ""  # shape and columns, in words
    dropped: Mapping[str, Sequence[Place]] = field(default_factory=dict)  # by count
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # counts of each data set of a mixture
    cached: Path | None = None  # folder of the cache that holds them

    @property
    def train(self) -> Sequence[StoredPair]:
        """Training pairs."""
        return self.trained.pairs

    @property
    def held_out(self) -> Sequence[StoredPair]:
        """Held-out pairs."""
        return self.measured.pairs


def digest(pairs: Sequence[Pair]) -> str:
    """Hash the pairs' tokens, in order: they reflect texts, template and cuts."""
    found = hashlib.sha256(b"[")
    for number, p in enumerate(pairs):
        row = json.dumps([p.prompt.input_ids, p.chosen_ids, p.rejected_ids])
        found.update(f"{', ' if number else ''}{row}".encode())
    found.update(b"]")
    return found.hexdigest()


def set_aside(data: Preferences, fraction: float) -> tuple[Preferences, Sequence[Pair]]:
    """Split off a share of the training prompts, chosen as held-out ones are; refused where there is one alone."""
    held = held_prompts(prompts_of(data.reward_train), fraction, lost_of(data.counts))
    trained = data.trained.without(held)
    rest = [pair for pair in data.reward_train if pair.prompt.id not in held]
    aside = [pair for pair in data.reward_train if pair.prompt.id in held]
    if not trained.prompts or (data.train and not trained.pairs):
        raise InputError("evaluation.reward_model_fraction", fraction, "a share that leaves pairs to train on")
    counts = data.counts | sizes_of(trained, data.measured) | {"set_aside": len(aside)}
    if data.shape is Shape.preference:  # whose rows are pairs
        counts["train"] = len(trained.pairs)
    return replace(data, trained=trained, counts=counts, reward_train=rest), aside


def sizes_of(trained: Side, measured: Side) -> dict[str, int]:
    """Count what both sides hold."""
    return {
        "train_prompts": len(trained.prompts),
        "held_out_prompts": len(measured.prompts),
        "train_pairs": len(trained.pairs),
        "held_out_pairs": len(measured.pairs),
        "train_demonstrations": len(trained.demonstrations),
    }


def lost_of(counts: Mapping[str, int], first_bad: InputError | None = None) -> str:
    """Count rows and those that were dropped, so far, in words."""
    lost = [name for name in COUNTS if name.endswith("dropped") or name == "rows"]
    first = "" if first_bad is None else f"; first: {first_bad}"
    return ", ".join(f"{name} {counts[name]}" for name in lost if counts[name]) + first


def held_prompts(prompts: Sequence[Prompt], fraction: float, lost: str) -> set[int]:
    """Return the ids of the share of prompts whose content hashes lowest; none for a fraction of 0.

    Raises:
        InputError: There is one prompt alone; it says what was `lost` before.
    """
    if fraction == 0 or not prompts:
        return set()
    if len(prompts) == 1:
        given = f"rows on a single prompt ({lost})"
        raise InputError("data.path", given, "two prompts or more, or data.held_out_path as well")
    hashes = {p.id: hashlib.sha256(content_of(p.messages, p.tools).encode()).digest() for p in prompts}
    ranked = sorted(prompts, key=lambda prompt: hashes[prompt.id])
    size = min(len(prompts) - 1, max(1, round(fraction * len(prompts))))
    return {prompt.id for prompt in ranked[:size]}


def facts_of(data: Preferences, folder: Path) -> dict[str, Any]:
    """Write the places of everything in a folder's tables, and describe the rest as JSON."""
    places: dict[str, Iterable[int]] = {}
    for name, side in (("trained", data.trained), ("measured", data.measured)):
        places[f"{name}/prompts"] = (prompt.place for prompt in side.prompts)
        places |= _of_pairs(name, side.pairs)
        places[f"{name}/demonstrations"] = (one.place for one in side.demonstrations)
        places[f"{name}/labelled"] = (one.place for one in side.labelled)
    places |= _of_pairs("reward_train", data.reward_train) | _of_pairs("reward_held_out", data.reward_held_out)
    save_file({name: numpy.array(list(own), dtype=numpy.int64) for name, own in places.items()}, folder / _PLACES)
    dropped = {name: [[one.at, one.number, one.origin, one.why] for one in own] for name, own in data.dropped.items()}
    return {"counts": data.counts, "notes": list(data.notes), "dropped": dropped, "sources": data.sources}


def _of_pairs(name: str, pairs: Sequence[StoredPair]) -> dict[str, Iterable[int]]:
    chosen, rejected = ([pair.completions[side].place for pair in pairs] for side in (0, 1))
    return {f"{name}/chosen": chosen, f"{name}/rejected": rejected}


def reopened(folder: Path, facts: Mapping[str, Any], rows: Rows) -> Preferences:
    """Find again what `facts_of` has written of these rows."""
    every = rows.every()
    examples = StoredExamples(Store(folder), every).open()
    places = {name: own.tolist() for name, own in load_file(folder / _PLACES).items()}
    trained, measured = (_side(examples, places, name) for name in ("trained", "measured"))
    dropped = {
        name: [Place(every[number], at, number, origin, why) for at, number, origin, why in own]
        for name, own in facts["dropped"].items()
    }
    return Preferences(
        trained,
        measured,
        facts["counts"],
        _pairs(examples, places, "reward_train"),
        _pairs(examples, places, "reward_held_out"),
        tuple(facts["notes"]),
        rows.shape,
        str(rows),
        dropped,
        facts["sources"],
        folder,
    )


def _side(examples: StoredExamples, places: Mapping[str, Sequence[int]], name: str) -> Side:
    return Side(
        [StoredPrompt(examples, place) for place in places[f"{name}/prompts"]],
        _pairs(examples, places, name),
        [StoredCompletion(examples, place) for place in places[f"{name}/demonstrations"]],
        [StoredCompletion(examples, place) for place in places[f"{name}/labelled"]],
    )


def _pairs(examples: StoredExamples, places: Mapping[str, Sequence[int]], name: str) -> list[StoredPair]:
    both = zip(places[f"{name}/chosen"], places[f"{name}/rejected"], strict=True)
    return [StoredPair(StoredCompletion(examples, a), StoredCompletion(examples, b)) for a, b in both]

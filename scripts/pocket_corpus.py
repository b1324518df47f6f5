"""What the pocket start model reads: sloppy answers to train-side prompts, and general text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pocket_tokenizer import END, SYSTEM, render

from align.worlds.pocket import FAMILIES, PocketWorld, Task, general, sample_task, sloppy, split

TRAIN = frozenset({"train"})
REVIEW = f"{SYSTEM}\nReview.{END}\n"  # the system message that asks for verdicts


@dataclass(frozen=True)
class Example:
    """A text to learn; the loss covers everything after `prefix`."""

    prefix: str
    target: str


@dataclass(frozen=True)
class Mixture:
    """Shares of what the start model reads; the rest is plain answers.

    Reviews and marks are what any language model has seen of other people's judgement; the mark stands right after the
    end token, so that the position that a reward model reads says something about quality.
    """

    long: float = 0.3  # of the tasks, these are of long families
    general: float = 0.05  # general text
    reviewed: float = 0.2  # answers in review mode: a verdict after every sentence
    marked: float = 0.5  # answers with a reader's mark after the end token


def task_stream(rng: random.Random, sides: frozenset[str], long_share: float) -> Iterator[Task]:
    """Endless tasks whose prompts are on one of the sides; families of one length are equally frequent."""
    names = {length: [f.name for f in FAMILIES.values() if f.length == length] for length in ("short", "long")}
    while True:
        task = sample_task(rng, rng.choice(names["long" if rng.random() < long_share else "short"]))
        if split(task.prompt) in sides:
            yield task


def mark(task: Task, response: str) -> int:
    """A reader's mark from 0 to 9: the gold reward in ten steps."""
    return round(4.5 * (PocketWorld().gold(task.row(), response, True).total + 1))


def reviewed(task: Task, response: str) -> str:
    """The response with a reader's verdict, the gold labels, after every sentence."""
    segments = [s for s in PocketWorld().gold(task.row(), response, True).segments if s.end > s.start]
    text, at, verdict = "", 0, ""
    for segment in segments:
        verdict += f" {segment.label}"
        text += response[at : segment.end]
        at = segment.end
        if response[at - 1] in ".!?":
            text, verdict = text + verdict, ""
    return text + response[at:]


def examples(rng: random.Random, mix: Mixture) -> Iterator[Example]:
    """Endless training mixture. Every text goes on after its end token, so that the end token is an input as well."""
    stream = task_stream(rng, TRAIN, mix.long)
    while True:
        draw = rng.random()
        if draw < mix.general:
            yield Example("", f"{general.text(rng, TRAIN)}{END}\n")
            continue
        task = next(stream)
        response = sloppy(task, rng)
        if draw < mix.general + mix.reviewed:
            yield Example(f"{REVIEW}{render(task.prompt)}", f"{reviewed(task, response)}{END}\n")
        elif draw < mix.general + mix.reviewed + mix.marked:
            yield Example(render(task.prompt), f"{response}{END} {mark(task, response)}\n")
        else:
            yield Example(render(task.prompt), f"{response}{END}\n")

"""The pocket world: short and long instruction tasks with checkable answers (docs/world.md)."""

import math
import random
from collections.abc import Mapping
from typing import Any

from align.worlds import Gold
from align.worlds.pocket import long, short
from align.worlds.pocket.answers import FLAWS, flawed, perfect, sloppy
from align.worlds.pocket.gold import grade
from align.worlds.pocket.task import Family, Task, split, task_of, words

__all__ = ["FAMILIES", "FLAWS", "Family", "PocketWorld", "Task", "flawed", "perfect", "sample_task", "sloppy", "split"]

FAMILIES: dict[str, Family] = {family.name: family for family in (*short.FAMILIES, *long.FAMILIES)}
_LIMITS = (" Use at most {}.", " Answer in at most {}.", " No more than {}.")
_LIMITED = {"short": 0.5, "long": 0.25}  # share of prompts with a word limit


def sample_task(rng: random.Random, family: str) -> Task:
    """Sample a task of the family; a word limit, where there is one, leaves room for a perfect answer."""
    kind = FAMILIES[family]
    spec = kind.sample(rng)
    limit = _limit(rng, kind, Task(kind, spec, None, "")) if rng.random() < _LIMITED[kind.length] else None
    suffix = "" if limit is None else _LIMITS[rng.randrange(len(_LIMITS))].format(_words(limit))
    return Task(kind, spec, limit, kind.prompt(spec) + suffix)


def _words(limit: int) -> str:
    return "1 word" if limit == 1 else f"{limit} words"


def _limit(rng: random.Random, kind: Family, task: Task) -> int:
    if kind.length == "short":
        least = min(words(form) for form in task.slots[0].forms)
        return least + rng.randint(0, 5)
    # room for the wordiest perfect answer, list markers included
    most = sorted((max(words(f) for f in slot.forms) for slot in task.slots), reverse=True)[: task.need]
    total = sum(most) + (task.need if kind.numbered else 0)
    return 5 * math.ceil(total / 5) + 5 * rng.randint(0, 1)


class PocketWorld:
    """The world interface on rows with the columns `family`, `spec` and `word_limit`."""

    name = "pocket"

    def gold(self, row: Mapping[str, Any], response: str, ended: bool) -> Gold:
        """Compute the gold reward in [-1, 1], 1 for a perfect response (align.worlds.World.gold)."""
        return grade(task_of(row, FAMILIES), response, ended)

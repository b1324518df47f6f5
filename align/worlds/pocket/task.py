"""Tasks and slots: the pieces that a prompt asks for."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import InputError

Spec = dict[str, Any]  # a task's free choices; JSON types only


def normal(text: str) -> str:
    """Normalise a text: lower case, words and numbers only, single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def words(text: str) -> int:
    """Count the words between white space."""
    return len(text.split())


@dataclass(frozen=True)
class Slot:
    """One piece that a response should hold."""

    forms: tuple[str, ...]  # wordings that are right, without the final full stop
    wrong: tuple[str, ...]  # wrong, but of the right kind: another capital, a number close by
    absurd: tuple[str, ...] = ()  # on the topic, with something of another kind
    stems: tuple[str, ...] = ()  # normalised beginnings that show that a unit is about this slot
    bare: int = 0  # a unit of at most so many words is about this slot too

    def about(self, unit: str) -> bool:
        """Return whether the normalised `unit` tries to fill this slot."""
        return any(unit == s or unit.startswith(s + " ") for s in self.stems) or 0 < len(unit.split()) <= self.bare

    def right(self, unit: str) -> bool:
        """Return whether the normalised `unit` is a right answer."""
        return any(unit == normal(form) for form in self.forms)

    def likely(self, unit: str) -> bool:
        """Return whether the normalised `unit` is a near miss."""
        return any(unit == normal(form) for form in self.wrong)


@dataclass(frozen=True)
class Family:
    """A kind of task."""

    name: str
    length: str  # "short" or "long"
    example: str  # a prompt, for the documentation
    choose: Callable[[random.Random], Spec]  # a task's choices but for its wording
    questions: tuple[str, ...]  # wordings of the prompt, with places for what `fill` returns
    slots: Callable[[Spec], tuple[Slot, ...]]
    fill: Callable[[Spec], Mapping[str, Any]] = lambda spec: spec
    numbered: bool = False  # one numbered line per slot; else one sentence per slot

    def sample(self, rng: random.Random) -> Spec:
        return {**self.choose(rng), "phrase": rng.randrange(len(self.questions))}

    def prompt(self, spec: Spec) -> str:
        return self.questions[spec["phrase"]].format(**self.fill(spec))

    def need(self, spec: Spec) -> int:
        """Return how many slots a perfect response fills."""
        return int(spec.get("need", len(self.slots(spec))))


@dataclass(frozen=True)
class Task:
    """One prompt of a family, with everything that its gold reward depends on."""

    family: Family
    spec: Spec
    word_limit: int | None
    prompt: str

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.family.slots(self.spec)

    @property
    def need(self) -> int:
        return self.family.need(self.spec)

    def row(self) -> dict[str, Any]:
        """Return the columns of a data row; `spec` is JSON so that every row has the same column types."""
        return {
            "prompt": self.prompt,
            "family": self.family.name,
            "length": self.family.length,
            "word_limit": self.word_limit,
            "spec": json.dumps(self.spec, sort_keys=True),
        }


def task_of(row: Mapping[str, Any], families: Mapping[str, Family]) -> Task:
    """Build the task of a data row; InputError for a missing or unreadable column."""
    for key in ("family", "spec", "word_limit"):
        if key not in row:
            raise InputError(f"data column {key}", sorted(row), "rows of the pocket world: family, spec, word_limit")
    if row["family"] not in families:
        raise InputError("data column family", row["family"], ", ".join(sorted(families)))
    try:
        spec = json.loads(row["spec"])
    except (TypeError, ValueError):
        raise InputError("data column spec", row["spec"], "a JSON object") from None
    limit = row["word_limit"]  # text in a CSV file
    limit = None if limit in (None, "") or limit != limit else int(limit)  # nulls may make a column one of floats
    task = Task(families[row["family"]], spec, limit, str(row.get("prompt", "")))
    try:
        task.slots  # noqa: B018 - every family reads its whole spec here
    except (KeyError, TypeError, AttributeError, IndexError):
        raise InputError("data column spec", row["spec"], f"a spec of the family {task.family.name}") from None
    return task


def split(text: str) -> str:
    """Assign a prompt or a general text to a side by its hash: train (8 in 10), tune (1) or report (1)."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return "train" if bucket < 8 else ("tune" if bucket == 8 else "report")


def pick(rng: random.Random, items: Sequence[Any]) -> Any:
    """Choose one of the items; stable across Python versions, unlike `random.choice`."""
    return items[rng.randrange(len(items))]

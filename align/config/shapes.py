"""Define the shapes of data rows, and what each of them gives a method to learn from. Imports no torch."""

from enum import Enum


class Shape(Enum):
    """Shape of a data set's rows, by what stands beside the prompt."""

    auto = "auto"  # the first below whose columns are there
    preference = "preference"  # a chosen and a rejected response
    ranked = "ranked"  # a list of responses, with scores or ranks, or the best first
    unpaired_preference = "unpaired_preference"  # a completion with a label: desirable or not
    demonstration = "demonstration"  # a whole conversation, or a completion
    prompt_only = "prompt_only"  # nothing
    mixed = "mixed"  # of a mixture whose sources differ; found, never named

    @property
    def words(self) -> str:
        """Name the shape in a sentence."""
        return {"unpaired_preference": "unpaired preference", "prompt_only": "prompt-only"}.get(self.value, self.value)


class Examples(Enum):
    """What a method or a reward model learns from."""

    pairs = "preference pairs"
    demonstrations = "demonstrations"
    labels = "labelled completions"
    prompts = "prompts"


PROVIDES: dict[Shape, frozenset[Examples]] = {
    Shape.preference: frozenset(Examples),
    Shape.ranked: frozenset(Examples),
    Shape.unpaired_preference: frozenset(Examples),  # pairs of prompts that have both
    Shape.demonstration: frozenset({Examples.demonstrations, Examples.prompts}),
    Shape.prompt_only: frozenset({Examples.prompts}),
}


class RankedPairs(Enum):
    """Pairs that are made of a list of ranked responses."""

    best = "best"  # the best one against each of the others
    all = "all"  # each against every worse one


class AssistantTurns(Enum):
    """Turns of a conversation that are demonstrations."""

    all = "all"  # every assistant's turn, behind the turns before it
    last = "last"

"""Define the options of the data: where rows come from, their shape, their columns, their limits. Imports no torch."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from align.config.base import MISSING, Section
from align.config.mixture import TEXTS
from align.config.shapes import AssistantTurns, RankedPairs, Shape
from align.config.values import AUTO, Length, settled_length


class PromptOverflow(Enum):
    """What is done with prompts of more than data.max_prompt_tokens tokens."""

    drop = "drop"
    truncate = "truncate"  # keep the last max_prompt_tokens tokens
    error = "error"


class BadRows(Enum):
    """What is done with rows whose cells are not what their shape has."""

    error = "error"
    drop = "drop"  # and count


class Caching(Enum):
    """When rows and their tokens are kept in $ALIGN_HOME, memory-mapped, so that they need not fit in memory."""

    auto = "auto"  # where the files have 32 MiB or more
    always = "always"
    never = "never"


@dataclass
class DataConfig(Section):
    """The data: `align://pocket/train.parquet`, a data file, a folder or glob of such, or a Hub id."""

    path_fields = ("path", "held_out_path")
    path: str | None = MISSING  # null beside a mixture
    mixture: dict[str, Any] = field(default_factory=dict)  # name -> MixtureSource (align/config/mixture.py)
    shape: Shape = Shape.auto  # of the rows, on both sides of the split
    held_out_path: str | None = None  # null = held_out_split, else a fraction cut off the training rows
    revision: str | None = None  # a branch, tag or commit of the Hub
    subset: str | None = None  # Hub configuration name
    folder: str | None = None  # inside a Hub data set that keeps several side by side
    train_split: str = "train"  # slices allowed: train[:1000]
    held_out_split: str | None = None
    held_out_fraction: float = 0.1  # by prompt, so that no prompt is on both sides
    # The next three select rows by columns, {column: value or list of values}; empty = all. Rows are selected after the
    # split into training and held-out, so that no selection moves a prompt across: +data.held_out_where.split=tune
    train_where: dict[str, Any] = field(default_factory=dict)  # training pairs, and prompts of on-policy methods
    held_out_where: dict[str, Any] = field(default_factory=dict)  # pairs and prompts of the evaluation
    # Training rows of the reward model and of implicit credit's DPO policy. Independent of train_where, so that runs on
    # other prompts share the stored one; measured on all held-out rows.
    reward_where: dict[str, Any] = field(default_factory=dict)
    prompt_column: str = "prompt"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    responses_column: str = "responses"  # of ranked rows: a list, the best first unless one of the next two is there
    scores_column: str = "scores"  # a number a response, the highest best
    ranks_column: str = "ranks"  # a number a response, the lowest best; read where there are no scores
    ranked: RankedPairs = RankedPairs.best
    completion_column: str = "completion"  # of unpaired preferences and demonstrations
    label_column: str = "label"  # true = desirable; also 0 and 1
    messages_column: str = "messages"  # a whole conversation, which stands before the completion's column
    turns: AssistantTurns = AssistantTurns.all  # of a conversation, that are demonstrations; last = the last one alone
    tools_column: str | None = "tools"  # where present: tools that the template describes, a list or JSON
    system_column: str | None = None  # text of a system turn, may be blank; null = there is none
    # Texts written from columns, in place of one column: {instruction}\n{input}; a missing cell is empty, and counted.
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    completion: str | None = None
    system: str | None = None  # may name no column
    max_prompt_tokens: Length = AUTO  # auto = what the model's context holds beside a response, at most 1,024
    max_response_tokens: Length = AUTO  # longer chosen/rejected are cut and counted; auto as above
    long_prompts: PromptOverflow = PromptOverflow.drop
    bad_rows: BadRows = BadRows.error  # rows whose cells are not what their shape has
    cache: Caching = Caching.auto  # of rows and tokens
    world: str | None = None  # the embedded world that made these rows, and whose gold reward scores them

    def sources(self) -> dict[str, "DataConfig"]:
        """Return what each source of training rows is read by; where there is no mixture, the one without a name."""
        return {name: source.over(self) for name, source in self.mixture.items()} or {"": self}

    def named(self) -> str:
        """Return what the training rows are read from, for a line that names it."""
        return self.path or " + ".join(str(source.path) for source in self.mixture.values())

    def templates(self) -> dict[str, str]:
        """Return the templates that are given, by what they write."""
        given = {name: getattr(self, name) for name in TEXTS}
        return {name: template for name, template in given.items() if template is not None}

    @property
    def prompt_tokens(self) -> int:
        """Longest prompt, once it is settled."""
        return settled_length(self.max_prompt_tokens)

    @property
    def response_tokens(self) -> int:
        """Longest given response, once it is settled."""
        return settled_length(self.max_response_tokens)

"""Check that the data have what the method, the reward and the evaluation learn from. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from align.config.credits import ImplicitCredit
from align.config.judge import TRAIN
from align.config.shapes import PROVIDES, Examples, Shape
from align.config.sources import RewardModelTraining
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config

_COLUMNS = {
    Examples.pairs: "columns chosen and rejected, or responses, or completion and label",
    Examples.demonstrations: "a column messages, completion, chosen or responses",
    Examples.labels: "columns completion and label, or chosen and rejected, or responses",
}


class Need(NamedTuple):
    """What a part of a run learns from."""

    examples: Examples
    key: str  # of the configuration, that chooses the part
    given: str
    instead: str  # what its key may be on other data


def needs_of(config: Config, *, trains: bool = True) -> Iterator[Need]:
    """Yield what the method, unless it only measures, a model that is trained first and the judge learn from."""
    method = config.method
    if trains:
        yield Need(method.learns_from, "method", method.name, "a method that learns from {}")
    for key, source in config.reward.source.every().items():
        if isinstance(source, RewardModelTraining) and any(model.path is None for model in source.models()):
            instead = f"reward=rules or function, or {key}.path=REWARD_MODEL"
            yield Need(Examples.pairs, key.replace(".", "/", 1), source.name, instead)
    credit = config.reward.credit
    if isinstance(credit, ImplicitCredit) and credit.path is None:
        yield Need(Examples.pairs, "reward/credit", credit.name, "sparse, or reward.credit.path=DPO_RUN")
    if config.evaluation.reward_model == TRAIN:
        yield Need(Examples.pairs, "evaluation.reward_model", TRAIN, "null, or the path of a reward model")


def check_shapes(config: Config, shapes: Mapping[str, tuple[Shape, str]], *, trains: bool = True) -> None:
    """Raise InputError where the sources of the data cannot give what the run needs.

    The method learns from every source; of a reward, a credit and a judge that learn from pairs it is enough that one
    source has some.

    Args:
        shapes: Of each source the shape, and what names its rows in a message.
    """
    for name, (shape, rows) in shapes.items():
        others = {own for other, (own, _) in shapes.items() if other != name}
        key = f"data.mixture.{name}.path" if name else None
        check_shape(config, shape, rows, trains=trains, beside=others, key=key)
        labels = trains and config.method.learns_from is Examples.labels and Shape.unpaired_preference in others
        if labels and shape is not Shape.unpaired_preference:
            allowed = f"labelled completions as in the other sources, which {config.method.name} learns from alone"
            raise InputError(f"data.mixture.{name}.path", rows.rstrip(","), allowed)


def check_shape(
    config: Config,
    shape: Shape,
    rows: str,
    *,
    trains: bool = True,
    beside: Collection[Shape] = (),
    key: str | None = None,
) -> None:
    """Raise InputError where rows of a shape cannot give what the run needs; `rows` names them in the message.

    Args:
        beside: Shapes of other sources, which may give what the method itself does not learn from.
        key: Of the source, where there are others.
    """
    for need in needs_of(config, trains=trains):
        given = [shape] if need.key == "method" else [shape, *beside]
        if any(need.examples in PROVIDES[own] for own in given):
            continue
        learnable = " or ".join(sorted(examples.value for examples in PROVIDES[shape]))
        lacking = f"{need.examples.value}, which {need.given} needs ({_COLUMNS[need.examples]}; data.*_column)"
        if key is not None and need.key == "method":
            raise InputError(key, rows.rstrip(","), f"rows that give {lacking}")
        raise InputError(need.key, need.given, f"{need.instead.format(learnable)}: {rows} gives no {lacking}")


def check_named_shape(config: Config) -> None:
    """Raise InputError where rows of the shape that `data.shape` names cannot give a training what it needs."""
    shape = config.data.shape
    if shape is not Shape.auto:  # else once the columns are known
        check_shape(config, shape, f"data.shape={shape.value}")

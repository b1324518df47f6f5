"""What listens to a run: options of the callbacks. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align.config.base import Section


@dataclass
class JsonlConfig(Section):
    """The run's own files; the records themselves are always written."""

    completions: bool = True  # false: no texts in completions.jsonl


@dataclass
class ProgressConfig(Section):
    enabled: bool = True


@dataclass
class TensorboardConfig(Section):
    enabled: bool = False
    completions: bool = True  # a few sampled responses as text


@dataclass
class EarlyStoppingConfig(Section):
    """Off until a limit is given. Measured on rollouts; with methods that draw none, on evaluations."""

    kl_above: float | None = None  # nats per response, k1
    reward_drop: float | None = None  # below the best mean so far
    window: int = 5  # rollouts or evaluations in a row whose mean is judged


@dataclass
class RetentionConfig(Section):
    """Checkpoints that stay beside the newest `checkpoint.keep`."""

    every: int | None = None  # those of steps that it divides
    best: str | None = None  # the one with the best figure of the evaluation, such as eval/reward/gold_mean
    lowest: bool = False  # the best is the lowest


@dataclass
class CallbacksConfig(Section):
    """What listens to a run. Weights & Biases has a section of its own, `tracking`."""

    jsonl: JsonlConfig = field(default_factory=JsonlConfig)
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    tensorboard: TensorboardConfig = field(default_factory=TensorboardConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    own: dict[str, Any] = field(default_factory=dict)  # name: {_target_: module.Class, its arguments}

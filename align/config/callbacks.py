"""Define the options of a run's callbacks. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from align.config.base import Section
from align.config.values import AUTO


@dataclass
class JsonlConfig(Section):
    """Options of the files in the run's folder; step records are always written."""

    completions: bool = True  # false: no texts in completions.jsonl


@dataclass
class ProgressConfig(Section):
    """Options of the live display on the console."""

    enabled: bool = True


@dataclass
class TensorboardConfig(Section):
    """Options of the TensorBoard event files; needs the extra `tensorboard`."""

    enabled: bool = True
    completions: bool = True  # a few sampled responses as text


@dataclass
class EarlyStoppingConfig(Section):
    """Limits at which a run ends, measured on rollouts; with methods that draw none, on evaluations."""

    kl_above: float | None = 20.0  # nats per response, k1; null = no limit
    reward_drop: float | None = 0.5  # below the best mean so far; null = no limit
    window: int = 5  # rollouts or evaluations in a row whose mean is judged


@dataclass
class RetentionConfig(Section):
    """Options that keep checkpoints beside the newest `checkpoint.keep`."""

    every: int | None = None  # keep the checkpoints of steps that this number divides
    # Keep the one with the best value of this evaluation metric. auto = the proxy reward; without a reward held-out
    # accuracy by the log-ratio; SFT's: the lowest perplexity of chosen responses.
    best: str | None = AUTO
    lowest: bool = False  # true = the lowest value is the best; auto chooses it as well


@dataclass
class CallbacksConfig(Section):
    """Callbacks of a run. TensorBoard, early stopping and retention are off until `callbacks=[...]` chooses them.

    Weights & Biases has a section of its own, `tracking`.
    """

    jsonl: JsonlConfig = field(default_factory=JsonlConfig)
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    tensorboard: TensorboardConfig = field(default_factory=lambda: TensorboardConfig(enabled=False))
    early_stopping: EarlyStoppingConfig = field(
        default_factory=lambda: EarlyStoppingConfig(kl_above=None, reward_drop=None)
    )
    retention: RetentionConfig = field(default_factory=lambda: RetentionConfig(best=None))
    own: dict[str, Any] = field(default_factory=dict)  # name: {_target_: module.Class, its arguments}

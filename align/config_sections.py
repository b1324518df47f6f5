"""The sections of the configuration: dataclasses that are Hydra's schemas. Reached through `align.config`.

They are mutable until `freeze`, and Enums instead of Literals, because OmegaConf takes neither frozen schemas nor
Literal. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from align.config_checks import classifier_folder, model_folder, not_negative, positive
from align.errors import InputError


class Precision(Enum):
    """Compute precision; masters and adapters stay in fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class KLController(Enum):
    fixed = "fixed"
    adaptive = "adaptive"


class LRSchedule(Enum):
    constant = "constant"
    linear = "linear"  # to 0 at max_steps


class CriticInit(Enum):
    auto = "auto"  # the reward model where the run has one, else the policy
    reward_model = "reward_model"
    policy = "policy"  # the policy's body under a zero head


class TrainedOn(Enum):
    """Which scores of a reward model are trained."""

    end = "end"  # of whole responses
    prefixes = "prefixes"  # then every prefix's too, on the score that the whole response got


class Normalise(Enum):
    """What a source's scores are measured from, and in what unit."""

    none = "none"
    reference = "reference"  # mean and deviation of the scores of the start model's responses, once
    running = "running"  # those of all scores in training so far


class PromptOverflow(Enum):
    drop = "drop"
    truncate = "truncate"  # keep the last max_prompt_tokens tokens
    error = "error"


class BadRows(Enum):
    error = "error"
    drop = "drop"  # and count


class TrackingMode(Enum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


class Section:
    """Base of every config section: an ordinary mutable dataclass for Hydra until `freeze`, constant afterwards."""

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("_frozen"):
            raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: the configuration is frozen")
        super().__setattr__(name, value)

    def freeze(self) -> None:
        for value in list(vars(self).values()):
            for part in value.values() if isinstance(value, dict) else [value]:
                if isinstance(part, Section):
                    part.freeze()
        super().__setattr__("_frozen", True)


@dataclass
class ModelConfig(Section):
    """Where the start model comes from: `align://pocket/model`, a folder, a run's folder or a Hub id."""

    path: str = MISSING
    revision: str | None = None  # Hub ids only
    chat_template: str | None = None  # a Jinja file; null = the tokenizer's own, or a plain one where it has none
    attn_implementation: str | None = None  # null = chosen for the device
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


@dataclass
class DataConfig(Section):
    """Preference pairs: `align://pocket/train.parquet`, a JSON/JSONL/CSV/Parquet file, a folder or a Hub id."""

    path: str = MISSING
    held_out_path: str | None = None  # null = held_out_split, else a fraction cut off the training rows
    revision: str | None = None  # a branch, tag or commit of the Hub
    subset: str | None = None  # Hub configuration name
    folder: str | None = None  # inside a Hub data set that keeps several side by side
    train_split: str = "train"  # slices allowed: train[:1000]
    held_out_split: str | None = None
    held_out_fraction: float = 0.1  # by prompt, so that no prompt is on both sides
    # Rows by their columns, {column: value or list of values}; empty = all. Chosen after the two sides are parted, so
    # that no choice moves a prompt to the other side: +data.held_out_where.split=tune
    train_where: dict[str, Any] = field(
        default_factory=dict
    )  # pairs that the method learns from, prompts it samples on
    held_out_where: dict[str, Any] = field(default_factory=dict)  # pairs and prompts that it is evaluated on
    # What the reward's own models (reward model, DPO policy of implicit credit) are trained on: empty = every training
    # row, whatever train_where says, so that runs on other prompts share the stored one. Measured on all held-out rows.
    reward_where: dict[str, Any] = field(default_factory=dict)
    prompt_column: str = "prompt"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    system_column: str | None = None  # text of a system turn, may be blank; null = there is none
    max_prompt_tokens: int = 512
    max_response_tokens: int = 512  # longer chosen/rejected are cut and counted
    long_prompts: PromptOverflow = PromptOverflow.drop
    bad_rows: BadRows = BadRows.error  # cells that are no prompt and responses
    world: str | None = None  # whose gold reward scores these rows


@dataclass
class SourceConfig(Section):
    """Base of reward sources (the others are in config_sources.py)."""

    name: str = MISSING
    normalise: Normalise = Normalise.none
    clip: float | None = None  # scores, normalised as above, are cut at -clip and clip; null = they are not
    reference_responses: int = 256  # sampled from the start model to set the zero and unit of normalise=reference

    @property
    def offers(self) -> frozenset[str]:
        """The signals beyond one score per response (fields of RewardOutput)."""
        return frozenset()

    def models(self) -> list[RewardModelSource]:
        """The reward models that must be there before the source can score, in the order in which it takes them."""
        return []

    def path_fields(self) -> list[str]:
        """Names of the fields that hold a path, or a list of them."""
        return []

    def every(self, key: str = "reward.source") -> dict[str, SourceConfig]:
        """This source and all that it is made of, by their keys."""
        return {key: self}

    def paid(self) -> list[SourceConfig]:
        """What the score is a sum of: this source, or its parts whose weight is not 0."""
        return [self]

    def check(self, config: Config, key: str) -> None:
        """Raise InputError on values that cannot run; `key` is the source's own in the whole composition."""
        positive(self, key, "clip", "reference_responses")


@dataclass
class RewardModelTraining(SourceConfig):
    """Base of the sources that are trained from the run's preference data."""

    normalise: Normalise = Normalise.reference
    learning_rate: float = 1.0e-4
    epochs: int = 1
    batch_size: int = 16  # pairs
    micro_batch_tokens: int | None = None  # padded tokens per forward and backward; null = by the model's size
    center_coef: float = 0.01  # lambda of mean((r_c + r_r)^2)
    seed: int = 0  # of its training, apart from the run's seed so that sweeps share it
    trained_on: TrainedOn = TrainedOn.end
    prefix_steps: int = 80  # updates of the second stage, of batch_size pairs each; prefixes only
    prefix_learning_rate: float = 1.0e-3  # its peak

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"prefix_scores", "attention"})

    def training(self) -> dict[str, Any]:
        """What the trained weights depend on, as plain values. Options that change nothing are left out, so that what
        was stored before they existed is still found."""
        names = ["learning_rate", "epochs", "batch_size", "center_coef", "seed"]
        if self.trained_on is not TrainedOn.end:
            names += ["prefix_steps", "prefix_learning_rate"]
        settings = {"name": "reward_model"} | {name: getattr(self, name) for name in names}
        return settings if self.trained_on is TrainedOn.end else settings | {"trained_on": self.trained_on.value}

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        positive(self, key, "learning_rate", "epochs", "batch_size", "prefix_steps", "prefix_learning_rate")
        positive(self, key, "micro_batch_tokens")
        not_negative(self, key, "center_coef", "seed")


@dataclass
class RewardModelSource(RewardModelTraining):
    name: str = "reward_model"
    path: str | None = None  # a stored reward model or sequence classifier; null = trained from the run's data, once

    def models(self) -> list[RewardModelSource]:
        return [self]

    def path_fields(self) -> list[str]:
        return ["path"]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        model_folder(f"{key}.path", self.path)
        classifier_folder(f"{key}.path", self.path)
        if self.path is not None and self.trained_on is not TrainedOn.end:
            raise InputError(f"{key}.trained_on", self.trained_on.name, f"end with {key}.path, which is taken as it is")


@dataclass
class GoldSource(SourceConfig):
    """The world's own reward, known exactly (`data.world`)."""

    name: str = "gold"

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"token_scores", "prefix_scores"})

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if config.data.world is None:
            allowed = "reward_model: the gold reward is known only where data.world is set"
            raise InputError("reward/source", "gold", allowed)


@dataclass
class CreditConfig(Section):
    """Base of credit schemes (they are in config_credits.py). `needs` names the signals that the source must offer,
    `adds` those that the run adds to any source's (rewards/signals.py)."""

    name: str = MISSING

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def adds(self) -> frozenset[str]:
        return frozenset()

    def path_fields(self) -> list[str]:
        """Names of the fields that hold a path."""
        return []

    def check(self, config: Config, key: str) -> None:
        """Raise InputError on values that cannot run; `key` is the scheme's own in the whole composition."""


@dataclass
class RewardConfig(Section):
    source: SourceConfig = MISSING
    credit: CreditConfig = MISSING


@dataclass
class QuantizationConfig(Section):
    name: str = "none"  # none, int8, nf4


@dataclass
class AdapterConfig(Section):
    name: str = "none"  # none = every weight is trained; lora
    r: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"


@dataclass
class RolloutConfig(Section):
    batch_size: int = 64  # responses per rollout
    max_new_tokens: int = 64
    temperature: float = 1.0  # also divides the logits of every log-probability of the run
    decode_batch_size: int | None = None  # rows decoded at once; null = the whole rollout
    cuda_graphs: bool = True  # a GPU repeats a decoding step that it was told once; not for every kind of model


@dataclass
class TrackingConfig(Section):
    name: str = "none"  # none, wandb
    mode: TrackingMode = TrackingMode.online
    project: str = "align"
    entity: str | None = None
    group: str | None = None  # null = of a sweep's jobs the name of its folder
    tags: list[str] = field(default_factory=list)


@dataclass
class EvaluationConfig(Section):
    """The same for every method, on held-out prompts, with the same noise before and after."""

    num_prompts: int = 128  # held-out prompts, one sampled response each
    num_pairs: int = 256  # held-out chosen responses for perplexity
    num_texts: int = 128  # lines of general text for forgetting
    general_text: str = "align://pocket/general.jsonl"  # a JSONL file with a `text` column
    num_probes: int = 10  # prompts whose perturbed twins are answered and scored; 0 = no probes
    prompts_file: str | None = None  # of the probes; null = what the world ships, else held-out prompts
    reward_model: str | None = None  # that only judges: a folder or Hub id, or `train` = on pairs set aside for it
    reward_model_fraction: float = 0.3  # of the training prompts, that `train` sets aside from all training
    lm_eval: list[str] = field(default_factory=list)  # tasks of lm-evaluation-harness
    lm_eval_path: str | None = None  # a folder with task definitions of one's own
    lm_eval_limit: int | None = None  # documents of each task; null = all
    verbosity_word_limit: int = 50  # words; a row's own `word_limit` takes precedence
    every_steps: int = 0  # 0 = before and after only
    batch_size: int = 64  # sequences per forward pass
    confidence: float = 0.95  # of the win rate's bootstrap interval
    seed: int = 1234


@dataclass
class CheckpointConfig(Section):
    every_steps: int = 20  # 0 = at the end only
    keep: int = 2  # newest whole checkpoints that stay on disk


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


@dataclass
class MethodConfig(Section):
    """Base of every method's options."""

    name: str = MISSING

    @property
    def trains(self) -> bool:
        """Whether the method updates the policy."""
        return True

    @property
    def critic(self) -> CriticInit | None:
        """How the method's critic starts; None where the method has none."""
        return None

    def check(self, config: Config) -> None:
        """Raise InputError on values that cannot run; `config` is the whole composition."""


@dataclass
class OptimizedConfig(MethodConfig):
    """Base of the methods that take gradient steps, whosever loop they are on."""

    learning_rate: float = 1.0e-5
    lr_schedule: LRSchedule = LRSchedule.constant
    warmup_steps: int = 0
    adam_eps: float = 1.0e-5  # N+ implementation details, arXiv 2403.17031
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "learning_rate", "adam_eps", "max_grad_norm")
        not_negative(self, "method", "warmup_steps", "weight_decay")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InputError("method.adam_betas", list(self.adam_betas), "two numbers from 0 up to, but not, 1")
        if self.warmup_steps >= config.max_steps:
            allowed = f"fewer than max_steps={config.max_steps}"
            raise InputError("method.warmup_steps", self.warmup_steps, allowed)
        if self.lr_schedule is LRSchedule.linear and config.max_policy_tokens is not None:
            allowed = "constant with max_policy_tokens, under which the last step is not known"
            raise InputError("method.lr_schedule", "linear", allowed)


@dataclass
class LoopConfig(OptimizedConfig):
    """Base of the methods on the loop of trainers/base.py."""

    micro_batch_tokens: int | None = None  # padded tokens per forward and backward; null = by the model's size
    max_bad_steps: int = 3  # non-finite updates skipped before the run stops

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "micro_batch_tokens", "max_bad_steps")


@dataclass
class Config(Section):
    method: MethodConfig = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    reward: RewardConfig = MISSING
    adapter: AdapterConfig = MISSING
    quantization: QuantizationConfig = MISSING
    rollout: RolloutConfig = MISSING
    tracking: TrackingConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    seed: int = 0
    max_steps: int = 100  # optimizer updates
    max_policy_tokens: int | None = None  # prompt and response tokens through the policy's updates; the run ends there
    precision: Precision = Precision.auto
    device: Device = Device.auto
    threads: int | None = None  # CPU threads; null = PyTorch's choice
    resume: str | None = None  # a run's folder

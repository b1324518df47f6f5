"""The sections of the configuration: dataclasses that are Hydra's schemas. Reached through `align.config`.

They are mutable until `freeze`, and Enums instead of Literals, because OmegaConf takes neither frozen schemas nor
Literal. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from align.config_checks import not_negative, positive
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


class PromptOverflow(Enum):
    drop = "drop"
    truncate = "truncate"  # keep the last max_prompt_tokens tokens
    error = "error"


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
            if isinstance(value, Section):
                value.freeze()
        super().__setattr__("_frozen", True)


@dataclass
class ModelConfig(Section):
    """Where the start model comes from: `align://pocket/model`, a folder, a run's folder or a Hub id."""

    path: str = MISSING
    revision: str | None = None  # Hub ids only
    chat_template: str | None = None  # a Jinja file; null = the tokenizer's own, or a plain one where it has none
    attn_implementation: str | None = None  # null = the library's choice
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


@dataclass
class DataConfig(Section):
    """Preference pairs: `align://pocket/train.jsonl`, a JSON/JSONL/CSV/Parquet file, a folder or a Hub id."""

    path: str = MISSING
    held_out_path: str | None = None  # null = held_out_split, else a fraction cut off the training rows
    subset: str | None = None  # Hub configuration name
    train_split: str = "train"  # slices allowed: train[:1000]
    held_out_split: str | None = None
    held_out_fraction: float = 0.1  # by prompt, so that no prompt is on both sides
    prompt_column: str = "prompt"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    max_prompt_tokens: int = 512
    max_response_tokens: int = 512  # longer chosen/rejected are cut and counted
    long_prompts: PromptOverflow = PromptOverflow.drop
    world: str | None = None  # whose gold reward scores these rows


@dataclass
class SourceConfig(Section):
    """Base of reward sources. `offers` names the signals beyond one score per response."""

    name: str = MISSING

    @property
    def offers(self) -> frozenset[str]:
        return frozenset()


@dataclass
class RewardModelSource(SourceConfig):
    name: str = "reward_model"
    path: str | None = None  # a stored reward model or sequence classifier; null = trained from the run's data, once
    learning_rate: float = 1.0e-4
    epochs: int = 1
    batch_size: int = 32  # pairs
    center_coef: float = 0.01  # lambda of mean((r_c + r_r)^2)
    reference_responses: int = 256  # sampled from the start model to set the score's zero and unit
    seed: int = 0  # of its training, apart from the run's seed so that sweeps share it

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"prefix_scores", "attention"})


@dataclass
class GoldSource(SourceConfig):
    """The world's own reward, known exactly (`data.world`)."""

    name: str = "gold"

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"token_scores", "prefix_scores"})


@dataclass
class CreditConfig(Section):
    """Base of credit schemes. `needs` names the signal that the source must offer."""

    name: str = MISSING

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()


@dataclass
class SparseCredit(CreditConfig):
    name: str = "sparse"


@dataclass
class UniformCredit(CreditConfig):
    """R / T at every token. Moves the KL-regularised optimum (functional/credit.py)."""

    name: str = "uniform"


@dataclass
class PrefixCredit(CreditConfig):
    name: str = "prefix"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"prefix_scores"})


@dataclass
class AttentionCredit(CreditConfig):
    """ABC. Moves the KL-regularised optimum (functional/credit.py)."""

    name: str = "attention"
    mix: float = 0.8  # b of ABC: share of the score that attention spreads; the rest is paid at the last token

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention"})


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


@dataclass
class TrackingConfig(Section):
    name: str = "none"  # none, wandb
    mode: TrackingMode = TrackingMode.online
    project: str = "align"
    entity: str | None = None
    group: str | None = None
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

    micro_batch_tokens: int = 8192  # padded tokens per forward and backward
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
    seed: int = 0
    max_steps: int = 100  # optimizer updates
    max_policy_tokens: int | None = None  # prompt and response tokens through the policy's updates; the run ends there
    precision: Precision = Precision.auto
    device: Device = Device.auto
    threads: int | None = None  # CPU threads; null = PyTorch's choice
    resume: str | None = None  # a run's folder

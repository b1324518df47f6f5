"""Define the configuration of a run and its sections, which are Hydra's schemas. Imports no torch.

Enums instead of Literals, and mutable until `freeze`: OmegaConf accepts neither Literal nor frozen dataclasses.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from align.config.base import MISSING, Section
from align.config.callbacks import CallbacksConfig
from align.config.credits import CreditConfig
from align.config.data import DataConfig
from align.config.judge import JudgeConfig
from align.config.method_bases import MethodConfig
from align.config.sources import SourceConfig
from align.config.values import AUTO, Length, settled_length


class Precision(Enum):
    """Precision of forward and backward; master weights and adapters stay in fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class EngineKind(Enum):
    """What computes log-probabilities, scores and samples."""

    auto = "auto"  # every fast path that applies
    reference = "reference"  # plain transformers calls


class ControlTokensIn(Enum):
    """What the name of a control token is where a prompt or a response spells it."""

    text = "text"  # characters like others
    tokens = "tokens"  # the control token, as a plain render of the template has it


class TemplateMismatch(Enum):
    """What is done with a response whose conversation the template writes otherwise than the prompt before it."""

    error = "error"
    append = "append"  # the content and the template's end behind the prompt that sampling uses


class TrackingMode(Enum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class ModelConfig(Section):
    """The start model: `align://pocket/model`, a folder, a run's folder or a Hub id."""

    path_fields = ("path", "chat_template")
    path: str = MISSING
    revision: str | None = None  # Hub ids only
    chat_template: str | None = None  # a Jinja file; null = the tokenizer's own, or a plain one where it has none
    template_arguments: dict[str, Any] = field(default_factory=dict)  # {enable_thinking: false}
    template_date: str | None = (
        None  # 2026-11-29: what a template that writes the date writes; null = the run's first day
    )
    template_mismatch: TemplateMismatch = TemplateMismatch.error
    control_tokens_in_text: ControlTokensIn = ControlTokensIn.text
    attn_implementation: str | None = None  # null = chosen for the device
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


@dataclass
class RewardConfig(Section):
    """The reward: a source of scores, and a credit scheme that spreads a score over tokens."""

    source: SourceConfig = MISSING
    credit: CreditConfig = MISSING


@dataclass
class QuantizationConfig(Section):
    """Quantization of the frozen base model; needs LoRA."""

    name: str = "none"  # none, int8, nf4


@dataclass
class AdapterConfig(Section):
    """Which parameters are trained: LoRA adapters on a frozen base, or all."""

    name: str = "none"  # none = every weight is trained; lora
    r: int = 16  # rank
    alpha: int = 32  # the update is scaled by alpha / r
    target_modules: str = "all-linear"


class Truncated(Enum):
    """What becomes of a response that is cut at rollout.max_new_tokens, without an end token."""

    keep = "keep"  # it is paid its score, and learned from
    mask = "mask"  # it is paid its score, which counts in its group, and not learned from (DAPO's overlong filtering)
    penalise = "penalise"  # it is paid rollout.truncated_score in place of its score


@dataclass
class RolloutConfig(Section):
    """Sampling from the policy, with temperature only: top-k or top-p would bias the KL estimate."""

    batch_size: int = 64  # responses per rollout
    max_new_tokens: Length = AUTO  # longer responses are cut; auto = 256 for a real model, if its context holds them
    truncated: Truncated = Truncated.penalise  # what becomes of cut responses in training
    truncated_score: float = -1.0  # with truncated=penalise
    temperature: float = 1.0  # divides the logits, also of every log-probability of the run
    decode_batch_size: int | None = None  # responses decoded at once; null = the whole rollout
    cuda_graphs: bool = True  # on a GPU, replay a captured decoding step where the model can be captured

    @property
    def new_tokens(self) -> int:
        """Longest sampled response, once it is settled."""
        return settled_length(self.max_new_tokens)

    @property
    def truncation_score(self) -> float | None:
        """What a cut response is paid in place of its score; None = its score."""
        return self.truncated_score if self.truncated is Truncated.penalise else None


@dataclass
class TrackingConfig(Section):
    """Tracking in Weights & Biases, beside the files in the run's folder."""

    name: str = "none"  # none, wandb
    mode: TrackingMode = TrackingMode.online
    project: str = "align"
    entity: str | None = None  # null = the user's own
    group: str | None = None  # null = none; in a sweep, the name of its folder
    tags: list[str] = field(default_factory=list)


@dataclass
class EvaluationConfig(Section):
    """Evaluation on held-out prompts, the same for every method, with the same sampling noise before and after."""

    path_fields = ("general_text", "prompts_file", "reward_model")
    num_prompts: int = 128  # held-out prompts, one sampled response each
    # Held-out pairs, for the preference's accuracy and the perplexities; demonstrations where there are no pairs.
    num_pairs: int = 256
    num_texts: int = 128  # general texts for forgetting, as many of each kind
    # auto = the embedded world's for its own model, else align://general.jsonl; or a JSONL, JSON, CSV or Parquet file,
    # a .txt file (a text a paragraph), a folder of data files, a Hub id
    general_text: str = AUTO
    general_column: str = "text"
    general_kind_column: str = "kind"  # used where present: forgetting by kind
    general_split: str = "train"  # of a Hub data set; slices work everywhere: train[:1000]
    num_probes: int = 10  # prompts whose perturbations are answered and scored; 0 = no probes
    prompts_file: str | None = None  # prompts of the probes; null = the embedded world's, else held-out prompts
    reward_model: str | None = None  # one that judges only: a folder, a Hub id, or `train` = on pairs set aside
    reward_model_fraction: float = 0.3  # share of the training prompts that reward_model=train sets aside
    judge: JudgeConfig = field(default_factory=JudgeConfig)  # how reward_model=train trains it
    lm_eval: list[str] = field(default_factory=list)  # tasks of lm-evaluation-harness
    lm_eval_path: str | None = None  # a folder with the user's own task definitions
    lm_eval_limit: int | None = None  # documents of each task; null = all
    verbosity_word_limit: int = 50  # words; a row's own `word_limit` takes precedence
    every_steps: int = 0  # 0 = before and after only
    batch_size: int = 64  # sequences per forward pass
    confidence: float = 0.95  # of the bootstrap intervals
    seed: int = 1234  # of its sampling noise and choices


@dataclass
class VerdictsConfig(Section):
    """Bounds beyond which a run's end says what went wrong."""

    kl: float = 10.0  # nats per response between the policy and its start
    repetition: float = 0.3  # share of repeated n-grams in responses, where training raised it
    entropy: float = 0.02  # nats per token of the policy's distributions, where training lowered it
    perplexity: float = 1.5  # of held-out responses, times that before
    forgetting: float = 1.1  # perplexity of general text, times that before
    cut: float = 0.2  # share of responses that are cut at rollout.max_new_tokens
    lost: float = 0.2  # share of rows that a limit cuts or drops
    # What looks like a difference, and is noted where its interval holds no change: the evaluation is too small for it.
    # Evaluations of the usual size tell differences of these sizes from chance, and so have nothing noted.
    share: float = 0.1  # between a win rate, or the held-out accuracy, and 0.5
    gain: float = 0.35  # of the mean reward, in deviations of the start model's scores: won on 0.6 of the prompts


@dataclass
class CheckpointConfig(Section):
    """When checkpoints are written, and how many stay."""

    every_steps: int = 20  # 0 = at the end only
    keep: int = 2  # newest whole checkpoints that stay on disk


@dataclass
class Config(Section):
    """The configuration of a run."""

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
    verdicts: VerdictsConfig = field(default_factory=VerdictsConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    seed: int = 0
    max_steps: int = 100  # optimizer updates
    max_policy_tokens: int | None = None  # prompt and response tokens in the policy's updates, at which the run ends
    precision: Precision = Precision.auto
    device: Device = Device.auto
    threads: int | None = None  # CPU threads; null = PyTorch's choice
    engine: EngineKind = EngineKind.auto
    resume: str | None = None  # folder of the run to continue
    overwrite: bool = False  # moves what the run's folder holds aside: FOLDER.1; else a folder with a run is refused

"""A tokenizer of single letters, models of a few thousand weights, and runs on them: what many tests build on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import TaskType, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Cohere2Config,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from align.callbacks.base import Callback
from align.config import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    GoldSource,
    ModelConfig,
    Precision,
    QuantizationConfig,
    RewardConfig,
    RewardModelSource,
    RolloutConfig,
    SparseCredit,
    TrackingConfig,
    Truncated,
)
from align.config.methods import KLConfig, PPOConfig
from align.engine.engine import Engine
from align.engine.reference import Policy, ValueHead
from align.engine.sampling import left_pad, right_pad
from align.loop.loop import Loop
from align.models.adapters import lora_config
from align.models.chat_setup import make_chat_tokenizer
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_causal_lm
from align.rewards import GoldScorer, Source
from align.types import Pair, Prompt, Rollout, Sequences
from align.worlds import Gold, Segment
from tests.contexts import loop_of, run_context

torch.set_num_threads(1)

CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Like SmolLM2's: the base's EOS is one token, the template ends a turn with another.
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
_FOLDERS = tempfile.TemporaryDirectory(prefix="align-tests-")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each letter; `<eos>` and `<end>` both end a response, `<pad>` is neither."""
    vocabulary = {c: i for i, c in enumerate(["<eos>", "<s>", "<end>", "<pad>", *LETTERS, "Ġ", "Ċ", ":"])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<eos>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ["<end>"]})
    fast.chat_template = TEMPLATE
    return fast


ASKED = ({"role": "user", "content": "say"},)  # the conversation behind which responses are encoded


@cache
def chat() -> ChatTokenizer:
    return make_chat_tokenizer(tokenizer(), GenerationConfig(eos_token_id=[0]))


SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (
        LlamaConfig,
        {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "qwen2": (
        Qwen2Config,
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),  # dropout .1 by default
    "gemma2": (
        Gemma2Config,
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 6},
    ),
    "opt": (
        OPTConfig,
        {"hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 2, "word_embed_proj_dim": 16, "init_std": 0.4},
    ),
    "mistral": (
        MistralConfig,
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
        | {"sliding_window": 6},
    ),
    "granite": (
        GraniteConfig,
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "cohere2": (
        Cohere2Config,
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
        | {"sliding_window": 6},
    ),
}


def model_config(shape: str, **settings: Any) -> PreTrainedConfig:
    """Weights are spread wide, so that distributions are far from uniform and differ from place to place."""
    kind, sizes = SHAPES[shape]
    layers = {} if shape == "gpt2" else {"num_hidden_layers": 2, "max_position_embeddings": 128}
    ids = {"vocab_size": len(chat().tokenizer), "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 3}
    return kind(**(sizes | layers | ids | {"initializer_range": 0.4, "tie_word_embeddings": False} | settings))


@cache
def folder(shape: str = "llama", seed: int = 0) -> Path:
    """A stored random model with its tokenizer."""
    path = Path(_FOLDERS.name) / f"{shape}-{seed}"
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(model_config(shape)).save_pretrained(path)
    chat().tokenizer.save_pretrained(path)
    return path


@cache
def reward_folder(shape: str = "llama", seed: int = 1) -> Path:
    """A stored random sequence classifier of one output."""
    path = Path(_FOLDERS.name) / f"{shape}-reward-{seed}"
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(model_config(shape, num_labels=1)).save_pretrained(path)
    chat().tokenizer.save_pretrained(path)
    return path


@cache
def reward_adapter(r: int = 4, alpha: int = 8) -> Path:
    """A stored random PEFT adapter with its scalar head, on the tiny Llama."""
    path, base = Path(_FOLDERS.name) / f"reward-adapter-{r}-{alpha}", folder()  # made, if need be, with another seed
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tuned = get_peft_model(model, lora_config(AdapterConfig(name="lora", r=r, alpha=alpha), TaskType.SEQ_CLS))
    with torch.no_grad():
        for p in tuned.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    tuned.save_pretrained(path)
    chat().tokenizer.save_pretrained(path)
    return path


def causal(shape: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A fresh copy of the stored model, loaded as a run loads it."""
    return load_causal_lm(ModelConfig(path=str(folder(shape, seed))), dtype=torch.float32, device=CPU)


def policy(shape: str = "llama", seed: int = 0) -> Policy:
    """As a run makes it, with the fast paths that apply."""
    return Engine().policy(causal(shape, seed), torch.float32)


def prompt(number: int, text: str) -> Prompt:
    messages = ({"role": "user", "content": text},)
    return Prompt(number, messages, text, tuple(chat().encode_prompt(messages)), {"number": number})


def prompts(n: int = 6) -> list[Prompt]:
    """Of different lengths; ids are no places."""
    return [prompt(10 + 3 * i, "say it again"[: 1 + (5 * i) % 12]) for i in range(n)]


def said(text: str) -> list[int]:
    """Encode a response."""
    return chat().encode_reply(ASKED, text)


def pair(p: Prompt, chosen: str, rejected: str) -> Pair:
    return Pair(
        p, chosen, rejected, tuple(chat().encode_reply(ASKED, chosen)), tuple(chat().encode_reply(ASKED, rejected))
    )


def rollout_of(starts: Sequence[Prompt], responses: Sequence[Sequence[int]], samples: int = 1) -> Rollout:
    """These responses as if they had been sampled, `samples` next to each other for each prompt."""
    repeated = [p for p in starts for _ in range(samples)]
    ids, mask = left_pad([p.input_ids for p in repeated], chat().pad_id, CPU)
    tokens = right_pad([torch.tensor([list(r)]) for r in responses], chat().pad_id)
    lengths = torch.tensor([len(r) for r in responses])
    return Rollout(
        prompt_ids=ids,
        prompt_mask=mask,
        response_ids=tokens,
        response_mask=(torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)).long(),
        ended=torch.tensor([r[-1] in chat().end_ids for r in responses]),
        prompt_index=torch.tensor([p.id for p in repeated]),
        sample_index=torch.arange(len(responses)) % samples,
        sampling_logprobs=torch.zeros(tokens.shape),
    )


class VowelWorld:
    """Gold = vowels / 4 less .5 where the response was cut; simple enough for a tiny model to learn."""

    name = "vowels"

    def gold(self, row: Mapping[str, Any], response: str, ended: bool) -> Gold:
        parts = [Segment(i, i + 1, 0.25, "good") for i, c in enumerate(response) if c in "aeiou"]
        if not ended:
            parts.append(Segment(len(response), len(response), -0.5, "cut"))
        return Gold(sum(p.credit for p in parts), tuple(parts))


TINY_PPO: dict[str, Any] = {"minibatch_size": 8, "learning_rate": 1e-3}


def config(
    *,
    method: Mapping[str, Any] | None = None,
    rollout: Mapping[str, Any] | None = None,
    reward: RewardConfig | None = None,
    adapter: AdapterConfig | None = None,
    shape: str = "llama",
    checkpoint_every: int = 0,
    **root: Any,
) -> Config:
    """A legal composition for a run of a few steps on a tiny model; gold reward, sparse, no LoRA unless told."""
    made = Config(
        method=PPOConfig(**(TINY_PPO | {"kl": KLConfig(coef=0.05)} | (method or {}))),
        model=ModelConfig(path=str(folder(shape))),
        data=DataConfig(path="unused"),
        reward=reward or RewardConfig(source=GoldSource(), credit=SparseCredit()),
        adapter=adapter or AdapterConfig(name="none"),
        quantization=QuantizationConfig(),
        rollout=RolloutConfig(
            **({"batch_size": 16, "max_new_tokens": 8, "truncated": Truncated.keep} | (rollout or {}))
        ),
        tracking=TrackingConfig(),
        evaluation=EvaluationConfig(),
        checkpoint=CheckpointConfig(every_steps=checkpoint_every),
        precision=Precision.fp32,
        **({"max_steps": 4} | root),
    )
    made.method.check(made)
    return made


class Recorder(Callback):
    """Keeps what a run reported."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.rollouts: list[tuple[int, list[dict[str, Any]]]] = []
        self.checkpoints: list[tuple[int, Path]] = []

    def on_step(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        self.rollouts.append((step, [dict(s) for s in samples]))

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.checkpoints.append((step, path))

    def column(self, name: str) -> list[float]:
        return [record[name] for record in self.records]


def loop(
    path: Path,
    cfg: Config,
    *,
    source: Source | None = None,
    start: Iterable[Prompt] | None = None,
    pairs: Sequence[Pair] = (),
    dtype: torch.dtype = torch.float32,
    accelerator: Accelerator | None = None,
) -> tuple[Loop, Recorder]:
    """The configuration's method on the loop, in the run folder `path`; gold reward where no reward model is named."""
    named = cfg.reward.source
    stored = Path(str(named.path)) if isinstance(named, RewardModelSource) else None
    if source is None and stored is None:
        source = GoldScorer(VowelWorld())
    recorder = Recorder()
    run = run_context(
        path,
        cfg,
        chat(),
        reward=stored,
        source=source,
        prompts=list(start) if start is not None else prompts(),
        pairs=pairs,
        callbacks=[recorder],
        dtype=dtype,
        accelerator=accelerator,
    )
    return loop_of(run), recorder


def split(ids: torch.Tensor, mask: torch.Tensor, length: int) -> Sequences:
    """Padded rows (B, P + length) as prompts and responses."""
    return Sequences(ids[:, :-length], mask[:, :-length], ids[:, -length:], mask[:, -length:])


def weights(role: Policy | ValueHead) -> list[torch.Tensor]:
    """What is trained of a role, as it is now."""
    return [p.detach().clone() for p in role.trained_parameters().values()]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def nudge(role: Policy | ValueHead, size: float = 0.05) -> None:
    """Move a role away from where it started."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in role.trained_parameters().values():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p.device))


def changed(figures: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Copy nested figures with some of them replaced: `{"repetition__rate": 0.3}`."""
    copy = deepcopy(figures)
    for path, value in changes.items():
        *above, last = path.split("__")
        section = copy
        for part in above:
            section = section[part]
        section[last] = value
    return copy

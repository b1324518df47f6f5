"""Tokenizers and models small enough to build in a test, of the kinds that real checkpoints come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["Hello there, how are you today? Compare 3 and 5. The user asks, the assistant answers.\n\n"] * 20


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def train(tokenizer: Tokenizer, special: list[str], alphabet: list[str], size: int) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_level(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3, Qwen and SmolLM: every byte is a token, so characters may be spread over several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, special, pre_tokenizers.ByteLevel.alphabet(), 360)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def chatml() -> PreTrainedTokenizerFast:
    """Like SmolLM2's: EOS is <|endoftext|>, turns end with <|im_end|>."""
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"], eos_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def gpt2_like() -> PreTrainedTokenizerFast:
    """One special token for everything and no template."""
    end = "<|endoftext|>"
    return byte_level([end], eos_token=end, bos_token=end, unk_token=end, pad_token=end)


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral: blanks are part of the next piece, unknown characters fall back to byte tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    train(tokenizer, special, ["▁"], 460)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=_unmark(tokenizer), **names)


def _unmark(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer marks byte tokens as special; real vocabularies do not, or decoding would drop them."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


TOKENIZERS = {"chatml": chatml, "gpt2": gpt2_like, "metaspace": metaspace}


@pytest.fixture
def make_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    return lambda kind: TOKENIZERS[kind]()


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, object]]] = {
    "llama": (LlamaConfig, {**SMALL, "attention_dropout": 0.1}),
    "qwen2": (Qwen2Config, {**SMALL, "attention_dropout": 0.1, "num_key_value_heads": 1}),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),  # dropout .1 by default
}


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Save a random model with its tokenizer and return its folder."""

    def make(
        shape: str = "llama", *, name: str = "model", head: str = "causal", kind: str = "chatml", **settings
    ) -> Path:
        tokenizer = TOKENIZERS[kind]()
        kind_of_config, defaults = SHAPES[shape]
        ids = {"vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": None}
        config = kind_of_config(**(defaults | ids | settings))
        auto = AutoModelForCausalLM if head == "causal" else AutoModelForSequenceClassification
        torch.manual_seed(0)
        model = auto.from_config(config)
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make

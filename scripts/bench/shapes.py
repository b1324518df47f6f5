"""Random-weight models of a real one's dimensions, and prompts and pairs of exact lengths for them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
)

from align.config import AdapterConfig, ModelConfig
from align.engine.engine import Engine
from align.engine.reference import Policy
from align.models.adapters import POLICY, lora_config
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_chat_tokenizer
from align.worlds import resolve

# HuggingFaceTB/SmolLM2-135M's config.json, but the vocabulary, which is the pocket tokenizer's padded to its size.
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
SHAPE |= {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True}
# HuggingFaceTB/SmolLM2-1.7B's, in the same way.
LARGE = SHAPE | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}
LARGE |= {"num_key_value_heads": 32}
TINY = SHAPE | {"hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 2048}
SHAPES = {"135m": SHAPE, "1.7b": LARGE, "tiny": TINY}
_ASKED = [{"role": "user", "content": "say"}]  # a reply has as many tokens behind any prompt
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_model(folder: Path, shape: dict[str, Any]) -> Path:
    """A model of that shape with the pocket world's tokenizer. Its weights end no response in thousands of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("align://pocket/model"))
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a CPU takes a minute for the larger shape
        AutoModelForCausalLM.from_config(LlamaConfig(**shape, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_policy(base: PreTrainedModel, dtype: torch.dtype) -> Policy:
    """A policy with align's default adapter on `base`, computing in `dtype`."""
    engine = Engine()
    shared = engine.shared_base(base, AdapterConfig(name="lora"))
    shared.train(POLICY)
    return engine.policy(base, dtype, shared, POLICY)


def random_reward(folder: Path, model: Path, adapter: str) -> Path:
    """A reward model on `model` with a random head, whole or as an adapter with align's default settings."""
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    classifier.config.pad_token_id = AutoTokenizer.from_pretrained(model).pad_token_id
    if adapter == "lora":
        classifier = get_peft_model(classifier, lora_config(AdapterConfig(name="lora"), TaskType.SEQ_CLS))
    classifier.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def prompt_ids(model: Path, pairs: Path) -> list[list[int]]:
    """The token ids of all prompts in `pairs`, as align reads them."""
    chat = load_chat_tokenizer(ModelConfig(path=str(model)))
    prompts = [json.loads(line)["prompt"] for line in pairs.read_text().splitlines()]
    return [list(chat.encode_prompt([{"role": "user", "content": text}])) for text in prompts]


def write_pairs(file: Path, model: Path, *, count: int, prompt_tokens: int, response_tokens: int) -> Path:
    """Preferences, a JSON object a line, whose prompts and responses have exactly these lengths under the template."""
    chat, rng = load_chat_tokenizer(ModelConfig(path=str(model))), random.Random(0)

    def of_length(tokens: int, length: Any) -> str:
        text = ""
        while (now := length(text)) != tokens:
            if now > tokens:  # a longer word than there was room for
                text = text[: len(text) // 2]
                continue
            text += rng.choice(_LETTERS) if tokens - now < 4 else " " + "".join(rng.choices(_LETTERS, k=5))
        return text

    with file.open("w") as out:
        for _ in range(count):
            row = {"prompt": of_length(prompt_tokens, lambda text: _prompt_length(chat, text))}
            for side in ("chosen", "rejected"):
                row[side] = of_length(response_tokens, lambda text: len(chat.encode_reply(_ASKED, text)))
            out.write(json.dumps(row) + "\n")
    return file


def _prompt_length(chat: ChatTokenizer, text: str) -> int:
    return len(chat.encode_prompt([{"role": "user", "content": text}]))

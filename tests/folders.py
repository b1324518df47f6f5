"""Folders as people download them: random models of many architectures, with the oddities that such folders have."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from align.worlds import GENERAL, resolve

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | HEADS
CONTEXT = 96  # tokens of the models with a short context: fewer than the longest rows have
EXPERTS = {"num_experts_per_tok": 2}
_FOLDERS = tempfile.TemporaryDirectory(prefix="align-folders-")


@dataclass(frozen=True)
class Folder:
    """A model's kind and sizes, and what its folder has or lacks."""

    kind: str  # transformers' model_type
    sizes: dict[str, Any] = field(default_factory=lambda: dict(WIDTHS))
    template: bool = True
    pad: bool = True
    bos: bool = False  # written before every text, as Llama's and Gemma's tokenizers do
    ends: bool = False  # generation_config.json lists several end tokens
    more_rows: int = 0  # of the embedding than the tokenizer has tokens
    context: int | None = None


FOLDERS: dict[str, Folder] = {
    "llama": Folder("llama", bos=True, ends=True),
    "qwen3": Folder("qwen3", WIDTHS | {"head_dim": 8, "tie_word_embeddings": True}, pad=False, more_rows=24),
    "gemma2": Folder("gemma2", WIDTHS | {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}, bos=True),
    "gemma3": Folder("gemma3_text", WIDTHS | {"head_dim": 8, "sliding_window": 16}, bos=True, ends=True),
    "gpt2": Folder("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, template=False, pad=False, context=CONTEXT),
    "gpt_neox": Folder("gpt_neox", WIDTHS | {"rotary_pct": 0.25}, template=False),
    "opt": Folder(
        "opt",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
        template=False,
        bos=True,
    ),
    "phi": Folder("phi", WIDTHS | {"partial_rotary_factor": 0.5}, pad=False),
    "phi3": Folder("phi3", ends=True),
    "mistral": Folder("mistral", WIDTHS | {"sliding_window": 16}, pad=False, bos=True),
    "bloom": Folder("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, template=False),
    "mamba": Folder("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, template=False, pad=False),
    "falcon_h1": Folder(
        "falcon_h1",
        WIDTHS | {"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8} | {"mamba_chunk_size": 16},
    ),
    "qwen2_moe": Folder(
        "qwen2_moe",
        WIDTHS | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
        more_rows=8,
    ),
    "mixtral": Folder("mixtral", WIDTHS | EXPERTS | {"num_local_experts": 4}, pad=False, bos=True),
    "olmo2": Folder("olmo2", template=False, context=CONTEXT),
    "cohere": Folder("cohere", WIDTHS | {"logit_scale": 0.5}, bos=True),
}


def tokenizer(of: Folder) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained from general text; with no template `<|endoftext|>` is its only special token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", *["<|pad|>"] * of.pad, *["<|start|>"] * of.bos]
    special += ["<|turn|>", "<|end|>"] if of.template else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    lines = Path(resolve(GENERAL, "general")).read_text().splitlines()
    bpe.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    names: dict[str, Any] = {"eos_token": "<|endoftext|>"}
    if of.bos:
        start = ("<|start|>", bpe.token_to_id("<|start|>"))
        bpe.post_processor = processors.TemplateProcessing("<|start|> $A", "<|start|> $A $B", [start])
        names["bos_token"] = "<|start|>"
    if of.pad:
        names["pad_token"] = "<|pad|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    if of.template:
        fast.chat_template = ("{{ bos_token }}" if of.bos else "") + TEMPLATE
    return fast


@cache
def folder(name: str) -> Path:
    """The stored model and its tokenizer; weights are spread wide, so that distributions are far from uniform."""
    of, path = FOLDERS[name], Path(_FOLDERS.name) / name
    tokens = tokenizer(of)
    ids = {
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    sizes = of.sizes | ids | {"vocab_size": len(tokens) + of.more_rows, "initializer_range": 0.2}
    if of.context is not None:
        sizes |= {"n_positions" if of.kind == "gpt2" else "max_position_embeddings": of.context}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(of.kind, **sizes))
    _teach_to_end(model, tokens)
    if of.ends:
        ends = tokens.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])
        model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    return path


def _teach_to_end(model: PreTrainedModel, tokens: PreTrainedTokenizerFast) -> None:
    """A few updates on tokens any of which may be followed by an end: random responses that all run to their limit
    would all be worth the same."""
    ends = torch.tensor([tokens.convert_tokens_to_ids("<|end|>" if tokens.chat_template else "<|endoftext|>")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        rows = torch.randint(10, len(tokens), (8, 24))
        rows[torch.rand(rows.shape) < 0.2] = ends
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


SUBJECTS = "the river", "a lighthouse", "my grandmother", "the old clock", "a quiet street", "our neighbour"
VERBS = "waits for", "remembers", "repairs", "photographs", "sells", "draws", "visits", "paints"


def write_pairs(path: Path, n: int = 48) -> Path:
    """A JSONL file of preference pairs; some are longer than the short contexts hold, and most are not."""
    with open(path, "w") as file:
        for i in range(n):
            subject, verb = SUBJECTS[i % len(SUBJECTS)], VERBS[i % len(VERBS)]
            row = {
                "prompt": f"Who {verb} {subject} {i}?" + " Take your time." * (4 * (i % 6 == 0)),
                "chosen": f"The man {verb} it. " * (1 + i % 3) + "So it is." * (i % 2),
                "rejected": f"no {verb} idea " * (1 + i % 3),
            }
            file.write(json.dumps(row) + "\n")
    return path

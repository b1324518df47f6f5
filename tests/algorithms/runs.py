"""Whole runs on the tiny model: data files, a composition for any method, and a context as the runner assembles it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from align.config import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    Device,
    EvaluationConfig,
    MethodConfig,
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
from align.loop.context import RunContext
from align.rewards import Source
from align.types import Pair, Prompt
from tests import tiny
from tests.contexts import run_context

LORA = AdapterConfig(name="lora", r=4, alpha=8)
WORDS = ("say it", "do", "again and again", "hello you", "count", "be", "tell me", "zoo")


def write_data(folder: Path) -> Path:
    """16 training pairs, 8 held out, 8 general texts."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, rows: Sequence[Mapping[str, str]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def pairs(n: int, tag: str) -> list[dict[str, str]]:
        prompts = [f"{WORDS[i % 8]} {tag * (i // 8 + 1)}" for i in range(n)]
        sides = [("aei" + "ou" * (i % 2), "xyzz"[: 1 + i % 4]) for i in range(n)]
        return [{"prompt": p, "chosen": c, "rejected": r} for p, (c, r) in zip(prompts, sides, strict=True)]

    write("train.jsonl", pairs(16, "q"))
    write("held_out.jsonl", pairs(8, "w"))
    write("general.jsonl", [{"text": word * 3} for word in WORDS])
    return folder


def config(
    method: MethodConfig,
    data: Path,
    *,
    source: RewardModelSource | None = None,
    model: str | None = None,
    adapter: AdapterConfig | None = None,
    data_settings: Mapping[str, Any] | None = None,
    rollout: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    **root: Any,
) -> Config:
    """A checked composition in fp32 on the CPU; the reward is a stored random classifier unless told."""
    stored = tiny.reward_folder() if adapter is None else tiny.reward_adapter()
    made = Config(
        method=method,
        model=ModelConfig(path=model or str(tiny.folder())),
        data=DataConfig(
            path=str(data / "train.jsonl"),
            held_out_path=str(data / "held_out.jsonl"),
            **({"max_prompt_tokens": 512, "max_response_tokens": 512} | (data_settings or {})),
        ),
        reward=RewardConfig(source=source or RewardModelSource(path=str(stored)), credit=SparseCredit()),
        adapter=adapter or AdapterConfig(name="none"),
        quantization=QuantizationConfig(),
        rollout=RolloutConfig(
            **({"batch_size": 8, "max_new_tokens": 8, "truncated": Truncated.keep} | (rollout or {}))
        ),
        tracking=TrackingConfig(),
        evaluation=EvaluationConfig(
            general_text=str(data / "general.jsonl"),
            **({"num_prompts": 8, "num_pairs": 8, "num_texts": 4, "num_probes": 2} | (evaluation or {})),
        ),
        checkpoint=CheckpointConfig(),
        precision=Precision.fp32,
        device=Device.cpu,
        **({"max_steps": 2} | root),
    )
    made.method.check(made)
    return made


def context(
    path: Path,
    cfg: Config,
    *,
    source: Source | None = None,
    prompts: Sequence[Prompt] = (),
    pairs: Sequence[Pair] = (),
    dtype: torch.dtype = torch.float32,
) -> tuple[RunContext, tiny.Recorder]:
    """What a method is given, without a run around it."""
    stored, recorder = Path(str(cfg.reward.source.path)), tiny.Recorder()
    run = run_context(
        path,
        cfg,
        tiny.chat(),
        reward=stored,
        source=source,
        prompts=prompts,
        pairs=pairs,
        callbacks=[recorder],
        dtype=dtype,
    )
    return run, recorder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]

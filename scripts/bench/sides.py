"""The two sides of against_trl.py, each in a process of its own that makes one step for every line that it reads."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from limits import settled

from align.models.hardware import peak_memory_mib

LEARNING_RATE, BETA = 1e-6, 0.05
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def score(responses: Sequence[str]) -> list[float]:
    """The reward on both sides: no work, but not the same for every response."""
    return [len(set(response)) / 10 for response in responses]


class Turns:
    """Reports a step and waits for the word to make the next."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._imported = resident_mib() if device == "cpu" else 0.0
        self._pipe = sys.stdout
        sys.stdout = sys.stderr  # whatever a library prints is no report
        self._started = time.perf_counter()

    def step(self, **facts: Any) -> None:
        settled(self._device.type)
        seconds = time.perf_counter() - self._started
        peak = peak_memory_mib(self._device)
        print(json.dumps({"seconds": seconds, "mib": peak - self._imported, **facts}), file=self._pipe, flush=True)
        if not sys.stdin.readline():
            sys.exit(0)
        self._started = time.perf_counter()


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def align_side(args: argparse.Namespace) -> None:
    from hydra import compose, initialize_config_dir

    from align.algorithms import ppo  # noqa: F401  # what a run imports is no part of its memory
    from align.cli.groups import CONF
    from align.config.io import build, register_schemas
    from align.loop.loop import Loop
    from align.run import runner

    turns = Turns(args.device)
    words = [
        f"method={args.method}", "model=local", f"model.path={args.model}", "data=jsonl", f"data.path={args.pairs}",
        f"adapter={args.adapter}", "reward/credit=sparse", f"precision={args.precision}", f"device={args.device}",
        f"max_steps={args.steps}",
        f"rollout.max_new_tokens={args.new_tokens}", f"rollout.batch_size={args.rows}", "data.max_prompt_tokens=1024",
        f"method.learning_rate={LEARNING_RATE}", "checkpoint.every_steps=0", "evaluation.num_prompts=1",
        "evaluation.num_pairs=1", "evaluation.num_texts=1", "evaluation.num_probes=0",
        f"method.micro_batch_tokens={args.micro_batch_tokens or 'null'}",
    ]  # fmt: skip
    if args.method == "ppo":
        words += [
            "reward/source=reward_model",
            f"reward.source.path={args.reward}",
            f"method.minibatch_size={args.rows}",
        ]
        words += [f"method.kl.coef={BETA}", "rollout.truncated=keep", "reward.source.reference_responses=16"]
        words += [f"method.critic_learning_rate={LEARNING_RATE}"]
    else:
        words += ["reward/source=function", f"reward.source.path={__file__}:score"]
    if args.method == "grpo":
        words += [f"method.group_size={args.group}", f"method.minibatch_size={args.rows}", f"method.kl.coef={BETA}"]
        words += ["rollout.truncated=keep"]
    elif args.method == "dpo":
        words += [f"method.batch_size={args.rows // 2}"]
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build(compose("config", words))
    record = Loop._record

    def recorded(self: Any, metrics: Any) -> None:
        record(self, metrics)
        parts = {k: v for k, v in metrics.items() if k.startswith("time/")}
        turns.step(parts=parts, tokens=metrics.get("response/length_mean"))

    Loop._record = recorded  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        runner.run(config, Path(folder) / "run")


def trl_side(args: argparse.Namespace) -> None:
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer import dpo_trainer, grpo_trainer  # noqa: F401

    from align.config import DataConfig, ModelConfig
    from align.data.preferences import load_preferences
    from align.models.chat_setup import with_pad
    from align.models.load import load_chat_tokenizer

    turns = Turns(args.device)
    lengths: list[int] = []

    def reward(*, completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        lengths[:] = [len(ids) for ids in completion_ids]
        return score([c if isinstance(c, str) else c[-1]["content"] for c in completions])

    chat = load_chat_tokenizer(ModelConfig(path=args.model))
    data = load_preferences(DataConfig(path=args.pairs, max_prompt_tokens=1024, max_response_tokens=1024), chat)
    micro = args.micro_rows or args.rows
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "max_steps": args.steps, "learning_rate": LEARNING_RATE, "beta": BETA,
        "model_init_kwargs": {"attn_implementation": args.attention, "dtype": DTYPES[args.base]},
        "optim": "adamw_torch_fused",
        "bf16": args.precision == "bf16", "fp16": args.precision == "fp16", "use_cpu": args.device == "cpu",
        "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "dataloader_pin_memory": False, "gradient_checkpointing": None, "activation_checkpointing": False,
    }  # fmt: skip
    peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    options: dict[str, Any] = {
        "model": args.model,
        "processing_class": with_pad(chat),
        "peft_config": peft if args.adapter == "lora" else None,
    }
    if args.method == "grpo":
        rows = [{"prompt": [dict(m) for m in pair.prompt.messages]} for pair in data.train]
        settings = trl.GRPOConfig(
            **common, per_device_train_batch_size=micro, gradient_accumulation_steps=args.rows // micro,
            num_generations=args.group, max_completion_length=args.new_tokens, loss_type="grpo",
            cache_implementation="static" if args.static else None,
        )  # fmt: skip
        make: Any = trl.GRPOTrainer
        options["reward_funcs"] = [reward]
    else:
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = [dict(zip(names, (p.prompt.input_ids, p.chosen_ids, p.rejected_ids), strict=True)) for p in data.train]
        rows = rows[: args.steps * args.rows // 2]  # one pass: each reference log-probability is used once
        settings = trl.DPOConfig(
            **common, per_device_train_batch_size=micro // 2, gradient_accumulation_steps=args.rows // micro,
            max_length=None, precompute_ref_log_probs=args.precompute,
        )  # fmt: skip

        class make(trl.DPOTrainer):  # type: ignore[no-redef]  # the pairs are token ids already
            def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
                return dataset

    started = time.perf_counter()
    trainer = make(args=settings, train_dataset=Dataset.from_list(rows), **options)
    before = (time.perf_counter() - started) / args.steps if args.method == "dpo" and args.precompute else 0.0

    class Report(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step(before=before, tokens=sum(lengths) / len(lengths) if lengths else None)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Report())
    trainer.train()


if __name__ == "__main__":
    given = argparse.Namespace(**json.loads(sys.argv[1]))
    {"align": align_side, "trl": trl_side}[given.side](given)

"""What metrics and callbacks cost of a step: GRPO with LoRA at the shape of SmolLM2-135M, random weights.

    python scripts/bench_callbacks.py            # needs the extras wandb and tensorboard; about a minute on a free core

Counted are the callbacks (JSONL, progress, TensorBoard, Weights & Biases offline), every metric of a rollout, the
entropy, and the whole of the clipped loss, in which an update's metrics are computed. The reference model's pass, which
a KL coefficient of 0 would not need, stands beside them. Seconds are the processor's, on one thread: what else the
machine does counts nothing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from align.callbacks.base import CallbackList
from align.cli.groups import CONF
from align.config import build, register_schemas
from align.models import policy
from align.runner import run
from align.trainers import grpo, on_policy
from align.trainers.base import Trainer
from align.trainers.registry import config_classes
from align.worlds import resolve

SHAPE = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
    **{"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True},
}
WORDS = (
    *("model=local", "adapter=lora", "method=grpo", "method.group_size=8", "method.minibatch_size=16"),
    *("reward/source=gold", "reward/credit=sparse", "rollout.batch_size=16", "rollout.max_new_tokens=48"),
    *("evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=2", "checkpoint.every_steps=0"),
    *("callbacks=[tensorboard]", "tracking=wandb", "tracking.mode=offline", "threads=1"),
)
HOOKS = ("on_rollout", "on_step")
METRICS = ("add_responses", "add_rewards", "add_kl", "describe", "with_speed")


class Clock:
    """Seconds spent in functions that it stands around, by what they are for."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inside = False

    def around(self, owner: Any, name: str, kind: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:  # counted by the outer one
                return inner(*arguments, **named)
            self._inside, began = True, time.process_time()
            try:
                return inner(*arguments, **named)
            finally:
                self._inside = False
                self.spent[kind] = self.spent.get(kind, 0.0) + time.process_time() - began

        setattr(owner, name, timed)


def whole(owner: Any, name: str, counts: Callable[..., bool] = lambda *_: True) -> list[float]:
    """A list whose one number grows by what the calls take that `counts` names, whatever is called inside."""
    inner: Callable[..., Any] = getattr(owner, name)
    spent = [0.0]

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        try:
            return inner(*arguments)
        finally:
            spent[0] += time.process_time() - began if counts(*arguments) else 0.0

    setattr(owner, name, timed)
    return spent


def write_model(folder: Path) -> None:
    """Random weights at the shape, under the embedded world's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("align://pocket/model"))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    logging.basicConfig(level=logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="align-bench-"))
    try:
        write_model(folder / "model")
        measure(folder, steps)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, steps: int) -> None:
    clock = Clock()
    for hook in HOOKS:
        clock.around(CallbackList, hook, "callbacks")
    for name in METRICS:
        clock.around(on_policy, name, "rollout metrics")
    clock.around(policy, "entropy", "entropy")
    clock.around(grpo.GRPOTrainer, "policy_loss", "loss and its metrics")
    training = whole(Trainer, "train")
    saving = whole(Trainer, "save_checkpoint")
    reference = whole(
        on_policy.OnPolicyTrainer, "logprobs", lambda trainer, _, model: model is trainer.run.roles.reference
    )
    register_schemas(config_classes())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [*WORDS, f"model.path={folder / 'model'}", f"max_steps={steps}"]
        config = build(compose("config", words))
    run(config, folder / "run")
    total = training[0] - saving[0]
    print(f"{steps} steps of {total / steps:.2f} s")
    for kind, seconds in sorted(clock.spent.items()):
        print(f"{kind:22} {1000 * seconds / steps:8.1f} ms a step  {100 * seconds / total:6.2f}%")
    everything = sum(clock.spent.values())
    print(f"{'together':22} {1000 * everything / steps:8.1f} ms a step  {100 * everything / total:6.2f}%")
    print(f"{'reference pass':22} {1000 * reference[0] / steps:8.1f} ms a step  {100 * reference[0] / total:6.2f}%")


if __name__ == "__main__":
    main()

"""What metrics and callbacks cost: their share of a training step, on the shape of a 135M model with random weights.

    python scripts/bench/overhead.py                       # SmolLM2-135M's shape, PPO with LoRA; minutes on a CPU
    python scripts/bench/overhead.py --tiny --steps 20     # seconds, to see that it works
    python scripts/bench/overhead.py --device cuda --precision bf16

Timed are the calls of every hook of every callback (JSONL, progress, and W&B offline with --wandb), and what is made
only to be reported of a rollout: lengths, rewards, KL, descriptions of samples. The reference pass, which KL needs, is
printed beside and not counted, as a run with a KL penalty needs it anyway. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from shapes import SHAPE, TINY, random_model

from align import runner
from align.callbacks.base import Callback
from align.cli.groups import CONF
from align.config import build, register_schemas
from align.trainers import on_policy
from align.trainers.registry import config_classes

REPORTED = ("add_responses", "add_rewards", "add_gold", "add_kl", "describe", "with_speed")  # of trainers/on_policy.py
HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class Stopwatch:
    """Seconds by name, of the functions that it wraps; waits for the accelerator where there is one."""

    def __init__(self, cuda: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._cuda = cuda

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += self._now() - started

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--responses", type=int, default=16, help="of a rollout; four updates are made on it")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--wandb", action="store_true", help="track to an offline W&B run as well")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape in place of 135M")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(args, Path(scratch)), indent=2))


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run PPO for a few steps and say where its seconds went."""
    words = [
        "model=local", f"model.path={random_model(scratch / 'model', TINY if args.tiny else SHAPE)}", "adapter=lora",
        "reward/source=gold", "reward/credit=sparse", f"device={args.device}", f"precision={args.precision}",
        f"max_steps={args.steps}", f"rollout.batch_size={args.responses}", f"rollout.max_new_tokens={args.new_tokens}",
        f"method.minibatch_size={args.responses // 4}", "method.epochs=1", "checkpoint.every_steps=0",
        "evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=1", "evaluation.num_probes=0",
        *(["tracking=wandb", "tracking.mode=offline"] if args.wandb else []),
    ]  # fmt: skip
    register_schemas(config_classes())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build(compose("config", words))
    watch = Stopwatch(args.device == "cuda")
    trainer = on_policy.OnPolicyTrainer
    for name in REPORTED:
        setattr(on_policy, name, watch.around(f"metrics/{name}", getattr(on_policy, name)))
    passes = trainer.logprobs

    def logprobs(self: Any, rollout: Any, model: Any) -> Any:
        role = "reference" if model is self.run.roles.reference else "policy"
        return watch.around(f"pass/{role}", passes)(self, rollout, model)

    trainer.logprobs = logprobs  # type: ignore[method-assign]
    train = trainer.train

    def training(self: Any) -> None:
        for callback in self.run.callbacks.callbacks:
            for hook in HOOKS:
                label = f"callbacks/{type(callback).__name__}"
                setattr(callback, hook, watch.around(label, getattr(callback, hook)))
        watch.around("train", train)(self)
        watch.seconds = defaultdict(float, watch.seconds)  # what follows training is not counted
        self.run.callbacks.callbacks = ()

    trainer.train = training  # type: ignore[method-assign]
    runner.run(config, scratch / "run", say=lambda line: None)
    total = watch.seconds.pop("train")
    reference = watch.seconds.pop("pass/reference")
    watch.seconds.pop("pass/policy")
    counted = sum(watch.seconds.values())
    return {
        "steps": args.steps,
        "threads": torch.get_num_threads(),
        "seconds_per_step": total / args.steps,
        "share_of_a_step": counted / total,
        "by_part": {name: seconds / total for name, seconds in sorted(watch.seconds.items())},
        "reference_pass_beside": reference / total,
    }


if __name__ == "__main__":
    main()

"""What metrics and callbacks cost of a training step, on the shape of SmolLM2-135M with LoRA and random weights.

    python scripts/bench/overhead.py                      # GRPO; a minute or more on a free core
    python scripts/bench/overhead.py --method ppo --steps 4
    python scripts/bench/overhead.py --tiny               # a small shape, to see that it works
    python scripts/bench/overhead.py --device cuda        # waits for the accelerator around everything that is timed

Counted are the calls of every callback during training (JSONL, progress, TensorBoard, Weights & Biases offline), every
metric of a rollout and its texts, every metric of an update, the entropy and the checks among them, and whatever a
tally takes in or gives out. The reference model's pass, without which there is no KL, is not counted and stands beside.
On a CPU seconds are the processor's, on one thread, so that what else the machine does counts nothing. Needs the extras
wandb and tensorboard.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from shapes import SHAPE, TINY, random_model

from align.algorithms import grpo, ppo, rollout_metrics
from align.callbacks.base import CallbackList
from align.cli.groups import CONF
from align.config.io import build, register_schemas
from align.loop import updates
from align.loop.loop import Loop
from align.metrics import Tally
from align.run import runner

WORDS = (
    *("model=local", "adapter=lora", "reward/source=gold", "reward/credit=sparse"),
    *("evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=2"),
    *("evaluation.num_probes=0", "checkpoint.every_steps=0", "callbacks=[tensorboard]", "tracking=wandb"),
    *("tracking.mode=offline", "threads=1"),
)
OF_METHOD = {  # one update a rollout, so that a step has all of a rollout's metrics
    "grpo": ("method=grpo", "method.group_size=8"),
    "ppo": ("method=ppo", "method.epochs=1"),
}


def counted() -> Iterator[tuple[Any, str, str]]:
    """(owner, name, what for) of every function that is timed."""
    for hook in ("on_rollout", "on_step", "keeps"):
        yield CallbackList, hook, "callbacks"
    for name, found in vars(rollout_metrics).items():  # those that the algorithms call
        if getattr(found, "__module__", None) == rollout_metrics.__name__ and not isinstance(found, type):
            of = "an update" if name in ("add_update", "add_value_update", "check_first_ratio") else "a rollout"
            for owner in (ppo, grpo):
                if getattr(owner, name, None) is found:
                    yield owner, name, f"metrics of {of}"
    for name in ("add", "observe", "merge", "result", "pop"):
        yield Tally, name, "tallies"
    yield updates, "peak_memory_mib", "tallies"


class Clock:
    """Seconds in the functions that it stands around, by what they are for."""

    def __init__(self, cuda: bool) -> None:
        self.spent: dict[str, float] = {}
        self._cuda, self._inside, self._running = cuda, False, False
        self.subject: Any = None  # whose method `during` runs

    def now(self) -> float:
        if not self._cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, owner: Any, name: str, kind: str) -> None:
        """Count what `owner.name` takes while training, but for what an outer one counts already."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside or not self._running:
                return inner(*arguments, **named)
            self._inside, began = True, self.now()
            try:
                return inner(*arguments, **named)
            finally:
                self.spent[kind] = self.spent.get(kind, 0.0) + self.now() - began
                self._inside = False

        setattr(owner, name, timed)

    def whole(self, owner: Any, name: str, counts: Callable[..., bool] = lambda *_: True) -> list[float]:
        """A list whose one number grows by what the calls take that `counts` names, whatever is called inside."""
        inner: Callable[..., Any] = getattr(owner, name)
        spent = [0.0]

        def timed(*arguments: Any) -> Any:
            began = self.now()
            try:
                return inner(*arguments)
            finally:
                spent[0] += self.now() - began if counts(*arguments) else 0.0

        setattr(owner, name, timed)
        return spent

    def during(self, owner: Any, name: str) -> list[float]:
        """Count only while `owner.name` runs; its own seconds."""
        inner: Callable[..., Any] = getattr(owner, name)

        def running(*arguments: Any) -> Any:
            self._running, self.subject = True, arguments[0]
            try:
                return inner(*arguments)
            finally:
                self._running = False

        setattr(owner, name, running)
        return self.whole(owner, name)


def measure(given: argparse.Namespace, scratch: Path) -> list[tuple[str, float]]:
    """(what, seconds a step); the whole step first, the reference pass last."""
    clock = Clock(given.device == "cuda")
    for owner, name, kind in counted():
        clock.around(owner, name, kind)
    saving = clock.whole(Loop, "save_checkpoint")
    training = clock.during(Loop, "train")
    reference = clock.whole(ppo, "read_logprobs", lambda model, *_: model is clock.subject.run.reference)
    model = random_model(scratch / "model", TINY if given.tiny else SHAPE)
    words = [*WORDS, *OF_METHOD[given.method], f"model.path={model}", f"device={given.device}"]
    words += [f"{key}={given.responses}" for key in ("rollout.batch_size", "method.minibatch_size")]
    words += [f"rollout.max_new_tokens={given.tokens}"]
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build(compose("config", [*words, f"max_steps={given.steps}", f"precision={given.precision}"]))
    runner.run(config, scratch / "run")
    rows = [("step", training[0] - saving[0]), *sorted(clock.spent.items())]
    rows += [("together", sum(clock.spent.values())), ("reference pass, beside", reference[0])]
    return [(what, seconds / given.steps) for what, seconds in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(OF_METHOD), default="grpo")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--responses", type=int, default=16, help="of a rollout, all of one update")
    parser.add_argument("--tokens", type=int, default=48, help="most of a response")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a small shape: what it prints says nothing of 135M")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="align-bench-") as scratch:
        rows = measure(given, Path(scratch))
    for what, seconds in rows:
        print(f"{what:30} {1000 * seconds:10.1f} ms  {100 * seconds / rows[0][1]:6.2f}%")


if __name__ == "__main__":
    main()

"""Hold what a terminal shows of a training to its promise: figures within 10 s, and a change every 10 s.

    python scripts/bench/progress.py --model DIR --pairs FILE.jsonl     # dpo, ppo, reward_model: 3 updates each
    python scripts/bench/progress.py --model DIR --pairs FILE.jsonl --method trl_dpo --words threads=1

Each run writes to a pseudo-terminal of its own, whose text is noted with its times. `begins` are the seconds from the
command to the training, the evaluation before it left out; `figures` those from there to the first screen with step,
loss (or reward and KL), learning rate, tokens/s and time left; `still` is the longest stretch without a change of what
is counted. The exit code is 1 where one of them is above its bound or a screen reads "0:00 left".
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from align.numbers import markdown_table

BOUNDS = {"begins": 15.0, "figures": 10.0, "still": 10.0}  # seconds
SHORT = ("rollout.batch_size=16", "method.minibatch_size=16", "rollout.max_new_tokens=64")
METHODS = {
    "dpo": (),
    "ppo": ("reward=rules", "reward.source.word_limit.limit=50", *SHORT),
    "reward_model": ("data.train_split='train[:64]'",),  # an epoch, whatever max_steps is
}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
STEP = re.compile(r"step (\d+)/(\d+)  [\d:]+ elapsed(?:, (?:about|more than) [\d:]+ left)?")
CLOCK = re.compile(r", \d+:\d\d\b.*")
FIGURES = (r"loss \S+|accuracy \S+|reward \S+  KL \S+", r"lr \S+", r"\d+ tokens/s")


@dataclass
class Seen:
    """What was on the terminal from the training's first screen to its last."""

    begun: float | None = None  # seconds from the command on
    figures: float | None = None
    still: float = 0.0
    wrong: list[str] = field(default_factory=list)
    _count: str = ""
    _changed: float = 0.0
    _line: str = ""  # of figures

    def take(self, at: float, lines: list[str]) -> None:
        """Take up what was written `at` seconds from the command on."""
        heads = [found for line in lines if (found := STEP.search(line))]
        if not heads and self.begun is None:
            return
        if self.begun is None:
            self.begun = self._changed = at
        self._line = next((line for line in lines if re.search(r"lr \S+", line)), self._line)
        count = " ".join(CLOCK.sub("", line) for line in lines if not STEP.search(line) and "tokens/s" not in line)
        if count and count != self._count:
            self.still = max(self.still, at - self._changed)
            self._count, self._changed = count, at
        for head in heads:
            self.wrong += [head[0]] if re.search(r"\b0:00 left", head[0]) else []
            if self.figures is None and " left" in head[0] and all(re.search(one, self._line) for one in FIGURES):
                self.figures = at - self.begun


def watch(command: list[str]) -> Seen:
    """Run a command on a pseudo-terminal; its text up to the last update's, by time."""
    main, other = pty.openpty()
    started, seen, over = time.monotonic(), Seen(), False
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment) as process:
        os.close(other)
        while True:
            try:
                text = ESCAPE.sub("", os.read(main, 65536).decode(errors="replace"))
            except OSError:  # the end, on Linux
                break
            over = over or any(step == total for step, total in (found.groups() for found in STEP.finditer(text)))
            if not over:
                seen.take(time.monotonic() - started, [line for line in text.splitlines() if line.strip()])
    os.close(main)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return seen


def measured(method: str, args: argparse.Namespace, folder: Path) -> dict[str, float | str]:
    """The seconds of BOUNDS of one run, and the screens that were wrong."""
    words = [f"method={method}", "model=local", f"model.path={args.model}", "data=jsonl", f"data.path={args.pairs}"]
    words += [f"max_steps={args.steps}", *(f"evaluation.num_{what}=8" for what in ("prompts", "pairs", "texts"))]
    words += ["evaluation.num_probes=0", f"hydra.run.dir={folder}", *METHODS.get(method, ()), *args.words]
    seen = watch([sys.executable, "-m", "align", *words])
    seconds = json.loads((folder / "run.json").read_text())["seconds"]
    begins = (seen.begun or 0.0) - seconds.get("evaluate_before", 0.0)
    figures = float("inf") if seen.figures is None else seen.figures
    return {"begins": begins, "figures": figures, "still": seen.still, "wrong": "; ".join(seen.wrong)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model's folder")
    parser.add_argument("--pairs", required=True, help="JSONL with prompt, chosen, rejected")
    parser.add_argument("--method", action="append", help="in place of dpo, ppo, reward_model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--words", nargs="*", default=[], help="further words of the command line")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="align-bench-") as scratch:
        for method in args.method or METHODS:
            found[method] = measured(method, args, Path(scratch) / method)
            print(method, found[method], flush=True)
    body = [[name, *(f"{row[key]:.1f}" for key in BOUNDS), str(row["wrong"])] for name, row in found.items()]
    head = ["method", *(f"{key}, s (at most {bound:.0f})" for key, bound in BOUNDS.items()), "wrong"]
    print("\n".join(markdown_table(head, body)))
    raise SystemExit(any(row["wrong"] or any(row[k] > b for k, b in BOUNDS.items()) for row in found.values()))


if __name__ == "__main__":
    main()

"""Time `align --help` and a refused key in two checkouts of align, in turns: what a change costs at the start.

    git worktree add ../before REVISION
    python scripts/bench/start_up.py ../before            # about 40 s

Printed is the median start of each side in milliseconds, and the median over turns of (before / after): above 1 the
change starts faster.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[2]
COMMANDS = {"help": (["--help"], 0), "refused key": (["method.gama=0.9"], 2)}


def seconds(tree: Path, words: list[str], code: int) -> float:
    """Time one start of the package of `tree`; exits when it does not end with `code`."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "align", *words]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode != code:
        sys.exit(f"{tree}: align {' '.join(words)} ended with {done.returncode}, not {code}: {done.stderr.strip()}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the code before")
    parser.add_argument("--turns", type=int, default=30)
    args = parser.parse_args()
    trees = {"before": args.before.resolve(), "after": HERE}
    for name, (words, code) in COMMANDS.items():
        for tree in trees.values():  # the first start of a checkout writes its byte code
            seconds(tree, words, code)
        found: dict[str, list[float]] = {side: [] for side in trees}
        for _ in range(args.turns):
            for side, tree in trees.items():
                found[side].append(seconds(tree, words, code))
        ratios = [a / b for a, b in zip(found["before"], found["after"], strict=True)]
        medians = ", ".join(f"{side} {1e3 * median(times):.0f} ms" for side, times in found.items())
        print(f"{name}: {medians}, before / after {median(ratios):.3f}", flush=True)


if __name__ == "__main__":
    main()

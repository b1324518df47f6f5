"""Preprocessing of a large data set: seconds and memory of the first start and of the second, which finds the cache.

    python scripts/bench/preprocessing.py --model MODEL_DIR --pairs PAIRS [--count 200000]

The pairs are those of a file over and over, each prompt with a number of its own, so that no two rows are alike. Memory
is that of the process at its peak, with torch and the tokenizer in it: anonymous pages, and all that are resident,
those of memory-mapped files too, which the system takes back where it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path

MIB = 2**20


def write_rows(source: Path, target: Path, count: int) -> None:
    """Write `count` different rows made of those of a file."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    with open(target, "w") as out:
        for number, row in enumerate(islice(cycle(rows), count)):
            out.write(json.dumps(row | {"prompt": f"{row['prompt']} ({number})"}) + "\n")


def measure(model: str, pairs: str) -> None:
    """Load the data as a run does, and print seconds and peaks as JSON."""
    watch = Watch()
    watch.start()
    began = time.monotonic()
    from align.algorithms.offline import PairExamples
    from align.config import DataConfig, ModelConfig
    from align.data.preferences import load_preferences
    from align.models.load import load_chat_tokenizer

    chat = load_chat_tokenizer(ModelConfig(path=model))
    ready = time.monotonic()
    data = load_preferences(DataConfig(path=pairs, max_prompt_tokens=1024, max_response_tokens=1024), chat)
    loaded = time.monotonic()
    examples = PairExamples(data.train, ("chosen_ids", "rejected_ids"), chat.pad_id, None)
    tokens = int(examples.lengths.sum())
    print(
        json.dumps(
            {
                "imports and tokenizer, s": round(ready - began, 1),
                "data, s": round(loaded - ready, 1),
                "lengths, s": round(time.monotonic() - loaded, 1),
                "training pairs": len(data.train),
                "tokens": tokens,
                "anonymous, MiB": watch.peaks["RssAnon"] // 1024,
                "resident, MiB": watch.peaks["VmRSS"] // 1024,
            }
        )
    )


class Watch(threading.Thread):
    """Samples the memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = {"RssAnon": 0, "VmRSS": 0}  # KiB

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peaks:
                    self.peaks[name] = max(self.peaks[name], int(value.split()[0]))
            time.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--pairs", required=True, help="JSON Lines of prompt, chosen, rejected")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--measure", action="store_true", help="measure one start on --pairs as they are")
    args = parser.parse_args()
    if args.measure:
        measure(args.model, args.pairs)
        sys.exit(0)
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "pairs.jsonl"
        write_rows(Path(args.pairs), rows, args.count)
        print(f"{args.count} pairs, {rows.stat().st_size // MIB} MiB", flush=True)
        for start in ("first", "second"):
            words = [sys.executable, __file__, "--measure", "--model", args.model, "--pairs", str(rows)]
            found = subprocess.run(words, env=os.environ | {"ALIGN_HOME": scratch}, capture_output=True, text=True)
            print(f"{start} start: {found.stdout.strip() or found.stderr}", flush=True)
        sizes = {str(f.relative_to(scratch)): f.stat().st_size // MIB for f in Path(scratch).rglob("*.arrow")}
        print("cache, MiB:", sizes, flush=True)

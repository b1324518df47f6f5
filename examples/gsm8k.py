"""GSM8K (arXiv 2110.14168; https://github.com/openai/grade-school-math) for methods that sample, scored by rules.

    python examples/gsm8k.py train.jsonl pairs.jsonl
    align method=grpo data=jsonl data.path=pairs.jsonl model=... reward/source=rules reward/credit=sparse \
        reward.source.word_limit.weight=0 reward.source.numeric.weight=1 reward.source.format.weight=0.2

`align` reads pairs: the rejected response is the given solution with another number behind `####`.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def corrupted(answer: str, rng: random.Random) -> str:
    """The solution with a whole number from 1 to 9 added to, or taken from, its final answer."""
    steps, marker, final = answer.rpartition("#### ")
    value = float(final.replace(",", "")) + rng.choice([-1, 1]) * rng.randint(1, 9)
    return f"{steps}{marker}{value:,.10g}"


def pairs(lines: list[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for every problem; `answer` is what the rule compares with."""
    rng = random.Random(seed)
    for line in lines:
        row = json.loads(line)
        yield {
            "prompt": row["question"] + "\nEnd with a line: #### NUMBER",
            "chosen": row["answer"],
            "rejected": corrupted(row["answer"], rng),
            "answer": row["answer"],
        }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    rows = pairs(source.read_text(encoding="utf-8").splitlines())
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

"""Human feedback of QA-Feedback (Fine-Grained RLHF, arXiv 2306.01693; https://github.com/allenai/FineGrainedRLHF).

Preference pairs from its `dev_feedback.json`, and its annotated errors as a dense reward:

    python examples/qa_feedback.py dev_feedback.json pairs.jsonl
    align data=jsonl data.path=pairs.jsonl reward/source=function reward.source.returns=spans \
        reward.source.path=examples/qa_feedback.py:error_spans reward/credit=prefix

The errors are character spans of one answer to each question, `prediction 1`. In that answer they are charged where the
annotators marked them. A sampled answer has no annotation: there, what it takes over word by word from a marked span is
charged, and new errors go unseen.

What a reward model learns of them, and how far that is more than length:

    align method=reward_model data=jsonl data.path=pairs.jsonl data.max_prompt_tokens=256 \
        data.max_response_tokens=400 reward.source.epochs=3
    python -m align.evaluate RUN_DIR/model data=jsonl data.path=pairs.jsonl data.max_prompt_tokens=256 \
        data.max_response_tokens=400

On the embedded model, whose million parameters know nothing of the world, the 273 held-out pairs gave an accuracy of
0.586 (95% interval 0.527 to 0.645); the shorter answer is the preferred one in 0.568 of them. That is above chance and
not shown to be above length alone, with which its margin correlates by 0.37.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHARGE = {  # our choice of scale: a wrong statement weighs twice as much as a useless one
    "Wrong-Grounding": -1.0,
    "Unverifiable": -1.0,
    "Irrelevant": -0.5,
    "Redundant": -0.5,
    "Incoherent": -0.5,
}
ORDER = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))  # which predictions the six preferences compare


def error_spans(responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[list[tuple[int, int, float, str]]]:
    """(start, end, charge, kind of error) of every marked span that a response contains."""
    return [list(_charges(text, row)) for text, row in zip(responses, rows, strict=True)]


def _charges(text: str, row: Mapping[str, Any]) -> Iterator[tuple[int, int, float, str]]:
    for error in row["errors"]:
        start, end, kind = error["start"], error["end"], error["type"]
        quoted = row["annotated"][start:end]
        if text != row["annotated"]:
            start = text.find(quoted)
            end = start + len(quoted)
        if start >= 0:
            yield start, end, CHARGE[kind], kind


def pairs(examples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for every preference that is no tie: the question, the two answers, and the annotated one's errors."""
    for example in examples:
        errors = [
            {"start": e["start"], "end": e["end"], "type": e["error type"]} for e in example["feedback"]["errors"]
        ]
        for (first, second), preferred in zip(ORDER, example["preference"], strict=True):
            if preferred:
                better, worse = (first, second) if preferred == 1 else (second, first)
                yield {
                    "prompt": example["question"],
                    "chosen": example[f"prediction {better}"],
                    "rejected": example[f"prediction {worse}"],
                    "annotated": example["prediction 1"],
                    "errors": errors,
                }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    examples = json.loads(source.read_text(encoding="utf-8"))
    rows = list(pairs(examples))
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    compared = sum(len(example["preference"]) for example in examples)
    print(
        f"{len(rows)} pairs of {len({row['prompt'] for row in rows})} questions, {compared - len(rows)} ties left out"
    )

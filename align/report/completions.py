"""Responses side by side for the page: the start model's and every run's, on the same held-out prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.report.charts import integer
from align.report.jobs import Arm, named
from align.report.load import Run

BUDGET = 1_200_000  # characters of JSON: the page stays below 3 MB
FEW = 24  # with fewer prompts, runs are left out instead


@dataclass
class Card:
    """One prompt with the start model's response and, by run, the trained ones."""

    prompt: str
    start: dict[str, Any]
    sides: dict[int, dict[str, Any]] = field(default_factory=dict)

    def size(self, runs: Sequence[int]) -> int:
        parts = [self.prompt, self.start, *(self.sides[i] for i in runs if i in self.sides)]
        return len(json.dumps(parts, ensure_ascii=True))


def completions(arms: Sequence[Arm]) -> dict[str, Any]:
    """Collect the responses as {"runs": names and arms, "cards", "note"}; no cards without responses before and after.

    Runs whose start models answered alike share a card. Where the page would become too large, prompts are left out
    evenly, then runs; the note gives the numbers.
    """
    runs = [(run, i) for i, arm in enumerate(arms) for run in arm.runs if run.samples.get("after")]
    cards = _cards([run for run, _ in runs])
    chosen = list(range(len(runs)))
    kept = _thinned(cards, chosen)
    if len(kept) < min(FEW, len(cards)):
        arms_seen = [arm for _, arm in runs]
        chosen = [i for i, arm in enumerate(arms_seen) if arm not in arms_seen[:i]]
        kept = _thinned(cards, chosen)
    place = {old: new for new, old in enumerate(chosen)}
    return {
        "runs": [{"name": named(arms[arm], run), "arm": arm} for run, arm in (runs[i] for i in chosen)],
        "cards": [
            {"prompt": c.prompt, "start": c.start, "sides": {place[i]: s for i, s in c.sides.items() if i in place}}
            for c in kept
        ],
        "note": _note(len(kept), len(cards), len(chosen), len(runs)),
    }


def _note(prompts: int, of_prompts: int, runs: int, of_runs: int) -> str:
    parts = []
    if prompts < of_prompts:
        parts.append(f"{prompts} of {of_prompts} prompts, evenly spaced")
    if runs < of_runs:
        parts.append(f"one run of each arm ({runs} of {of_runs})")
    return f"To keep the page small: {'; '.join(parts)}. All are in evaluation_samples.jsonl." if parts else ""


def _cards(runs: Sequence[Run]) -> list[Card]:
    cards: dict[tuple[str, str, int], Card] = {}
    for i, run in enumerate(runs):
        after = {s["prompt_id"]: s for s in run.samples["after"]}
        for old in run.samples.get("before", ()):
            new = after.get(old["prompt_id"])
            if new is None:
                continue
            key = (old["prompt"], old["response"], old["prompt_id"])
            if key not in cards:
                cards[key] = Card(old["prompt"], _side(old))
            cards[key].sides[i] = _side(new)
    return list(cards.values())


def _thinned(cards: Sequence[Card], runs: Sequence[int]) -> list[Card]:
    sizes = sum(card.size(runs) for card in cards)
    if sizes <= BUDGET:
        return list(cards)
    count = max(1, len(cards) * BUDGET // sizes)
    return [cards[i * len(cards) // count] for i in range(count)]


def _side(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a response for the script; pieces become their lengths in code points where they make up the text."""
    text, pieces, rewards = sample["response"], sample["pieces"], sample.get("token_rewards")
    cuts: list[Any] = [len(piece) for piece in pieces] if "".join(pieces) == text else list(pieces)
    return {
        "text": text,
        "tokens": sample["tokens"],
        "ended": sample["ended"],
        "proxy": _round(sample.get("proxy")),
        "gold": _round(sample.get("gold")),
        "pieces": cuts,
        "rewards": None if rewards is None else [_round(r) for r in rewards],
        "segments": [[a, b, _round(credit), label] for a, b, credit, label in sample.get("segments") or ()] or None,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else integer(round(float(value), 3))

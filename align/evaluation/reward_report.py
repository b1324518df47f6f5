"""Report of a reward model on held-out pairs: accuracy, calibration, length bias, and effects of perturbations."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from align.evaluation.figures import correlation
from align.evaluation.intervals import bootstrap
from align.evaluation.perturbations import response_perturbations_of
from align.evaluation.probes import ORIGINAL, shifts
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import Source, given_input
from align.streams import permutation
from align.types import Pair, Prompt
from align.worlds import World

BINS = 10  # bins of confidence, from 0.5 to 1
GROUPS = range(2, 33)  # number of values of a column by which accuracy is split by default
CHUNK = 512  # responses scored at once


@torch.no_grad()
def reward_report(
    source: Source,
    chat: ChatTokenizer,
    pairs: Sequence[Pair],
    device: torch.device,
    *,
    confidence: float,
    seed: int,
    by: Sequence[str] | None = None,
    perturbed: int = 128,
    world: World | None = None,
) -> dict[str, Any]:
    """Compute all figures of the report, ready for JSON.

    Args:
        source: The reward model, its scores on the scale on which it was trained: their difference is the log-odds
            that the first is preferred (Bradley-Terry).
        pairs: Pairs that the reward model was not trained on.
        confidence: Level of the percentile bootstrap intervals over pairs.
        by: Columns of the data rows by whose values accuracy is split; None = those with few different texts.
        perturbed: Most chosen responses that are perturbed.
        world: Its gold reward shows whether a perturbation deserved the change.
    """
    rows = [(pair.prompt, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]

    def score(rows: Sequence[tuple[Prompt, Sequence[int]]]) -> list[float]:
        parts = [given_input(rows[start : start + CHUNK], chat, device) for start in range(0, len(rows), CHUNK)]
        return [value for part in parts for value in source.score(part).total.double().tolist()]

    scores = score(rows)
    margins = [a - b for a, b in zip(scores[::2], scores[1::2], strict=True)]
    longer = [float(len(pair.chosen_ids) - len(pair.rejected_ids)) for pair in pairs]
    right = [_beats(margin) for margin in margins]
    deviation = statistics.pstdev(scores)
    return {
        "accuracy": _mean(right, confidence, seed),
        "length_only": {
            "longer_wins": statistics.fmean(map(_beats, longer)),
            "shorter_wins": statistics.fmean(_beats(-gap) for gap in longer),
            "correlation": correlation(margins, longer),
        },
        "calibration": calibration(margins),
        "by": {c: _groups(c, pairs, right, longer, confidence, seed) for c in (_columns(pairs) if by is None else by)},
        "scores": {"mean": statistics.fmean(scores), "std": deviation},
        "moves": _moves(score, chat, pairs, perturbed, seed, world, deviation),
    }


def _beats(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _mean(values: Sequence[float], confidence: float, seed: int) -> dict[str, float]:
    low, high = bootstrap(values, confidence=confidence, seed=seed)
    return {"mean": statistics.fmean(values), "low": low, "high": high, "pairs": len(values)}


def calibration(margins: Sequence[float]) -> dict[str, Any]:
    """Compute whether sigmoid(score difference) is the probability of being preferred.

    A pair's confidence is that of the side with the higher score, sigmoid(|margin|), and it is right where that is the
    chosen one (a tie half). ECE is the mean over pairs of |accuracy - confidence| of its bin (Guo et al., arXiv
    1706.04599, equation 3), with BINS bins of equal width from 0.5 to 1; Brier score and log loss are those of
    sigmoid(margin) for the chosen side.
    """
    chosen = [_sigmoid(margin) for margin in margins]
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for p, margin in zip(chosen, margins, strict=True):
        sure = max(p, 1 - p)
        bins[min(BINS - 1, int((sure - 0.5) * 2 * BINS))].append((sure, _beats(margin)))
    table = [
        {
            "low": 0.5 + i / (2 * BINS),
            "high": 0.5 + (i + 1) / (2 * BINS),
            "pairs": len(held),
            "confidence": statistics.fmean(c for c, _ in held),
            "accuracy": statistics.fmean(a for _, a in held),
        }
        for i, held in enumerate(bins)
        if held
    ]
    off = (row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in table)
    return {
        "ece": math.fsum(off) / len(margins),
        "brier": statistics.fmean((1 - p) ** 2 for p in chosen),
        "log_loss": statistics.fmean(max(0.0, -m) + math.log1p(math.exp(-abs(m))) for m in margins),
        "bins": table,
    }


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _columns(pairs: Sequence[Pair]) -> list[str]:
    """Return the columns of text or truth values that split the pairs into a few groups."""
    rows = [pair.prompt.row for pair in pairs]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name) for row in rows] for name in names}
    return [n for n, v in values.items() if all(isinstance(x, (str, bool)) for x in v) and len(set(v)) in GROUPS]


def _groups(
    column: str, pairs: Sequence[Pair], right: Sequence[float], longer: Sequence[float], confidence: float, seed: int
) -> dict[str, dict[str, float]]:
    found: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        if pair.prompt.row.get(column) is not None:
            found.setdefault(str(pair.prompt.row[column]), []).append(i)
    return {
        name: _mean([right[i] for i in index], confidence, seed)
        | {"longer_wins": statistics.fmean(_beats(longer[i]) for i in index)}
        for name, index in sorted(found.items())
    }


def _moves(
    score: Callable[[Sequence[tuple[Prompt, Sequence[int]]]], list[float]],
    chat: ChatTokenizer,
    pairs: Sequence[Pair],
    most: int,
    seed: int,
    world: World | None,
    deviation: float,
) -> dict[str, dict[str, float]]:
    """Compute how far each kind of perturbation moves the score of a chosen response."""
    picked = permutation(len(pairs), seed, "perturbed")[:most].sort().values.tolist()
    texts, encoded, rows = [], [], []
    for i, prompt, chosen in ((i, pairs[i].prompt, pairs[i].chosen) for i in picked):
        for kind, text in ({ORIGINAL: chosen} | response_perturbations_of(chosen, prompt.text, seed)).items():
            texts.append((i, kind, text))
            encoded.append((prompt, chat.encode_reply(prompt.messages, text)))
    for (i, kind, text), (prompt, ids), proxy in zip(texts, encoded, score(encoded), strict=True):
        gold = None if world is None else world.gold(prompt.row, text, True).total
        rows.append({"prompt_id": i, "kind": kind, "proxy": proxy, "gold": gold, "tokens": len(ids)})
    figures = shifts(rows, None if world is None else "gold")
    return {kind: _named(figures, kind, deviation) for kind in figures["count"]}


def _named(figures: Mapping[str, Mapping[str, float]], kind: str, deviation: float) -> dict[str, float]:
    """Return one kind's figures under the report's names."""
    names = {"count": "responses", "proxy_shift": "shift", "proxy_shift_se": "shift_se", "proxy_rises": "rises"}
    names |= {name: name for name in ("gold_shift", "pays", "length_shift")}
    row = {new: figures[old][kind] for old, new in names.items() if kind in figures.get(old, {})}
    return row | {"shift_in_deviations": row["shift"] / deviation if deviation > 0 else math.nan}

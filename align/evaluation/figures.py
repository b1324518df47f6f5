"""Figures that follow from an evaluation's samples alone: rewards, win rate, lengths, diversity, length effects."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from align.config import EvaluationConfig
from align.evaluation.comparison import RESAMPLES, mean_by, outcomes, standard_error, verbosity, win_rate
from align.evaluation.diversity import distinct, repetition, self_bleu
from align.evaluation.judge import Judge, value
from align.evaluation.length_control import length_controlled
from align.types import Prompt

Samples = Sequence[Mapping[str, Any]]


def figures_of(
    samples: Samples, baseline: Samples, prompts: Sequence[Prompt], judge: Judge, config: EvaluationConfig
) -> dict[str, Any]:
    """Compute the figures of `samples`, compared with the start model's samples, `baseline`.

    Raises:
        ValueError: `baseline` has samples of other prompts.
    """
    if [s["prompt_id"] for s in samples] != [s["prompt_id"] for s in baseline]:
        raise ValueError("the start model's samples are of other prompts: evaluate it again")
    rows, texts = [p.row for p in prompts], [s["response"] for s in samples]
    tokens = [s["tokens"] for s in samples]
    repeats = [repetition(text) for text in texts]
    return {
        **({"reward": rewards(samples, judge)} if judge.names else {}),
        **by_length("gold_by", _column(samples, "gold") if judge.world is not None else [], prompts, judge),
        **({"win_rate": wins(samples, baseline, judge.name, config) | {"judge": judge.name}} if judge.name else {}),
        "verbosity": verbosity(texts, tokens, rows, config.verbosity_word_limit),
        "diversity": {**{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}, "self_bleu": self_bleu(texts)},
        "repetition": {"rate": statistics.fmean(repeats), "responses": statistics.fmean(r > 0 for r in repeats)},
        "eos_rate": statistics.fmean(s["ended"] for s in samples),
        "length_correlation": {j: correlation(tokens, _column(samples, j)) for j in judge.names},
        **({"proxy_gold_gap": gap(samples, baseline, judge)} if judge.score is not None else {}),
    }


def _column(samples: Samples, judge: str) -> list[float]:
    return [value(sample, judge) for sample in samples]


def rewards(samples: Samples, judge: Judge) -> dict[str, float | None]:
    """Compute mean scores by judge, with standard errors over prompts; gold is null where it is unknown."""
    columns = {name: _column(samples, name) for name in judge.names}
    means: dict[str, float | None] = {f"{name}_mean": statistics.fmean(values) for name, values in columns.items()}
    errors = {f"{name}_se": standard_error(values) for name, values in columns.items()}
    return {"proxy_mean": means.pop("proxy_mean", None), "gold_mean": means.pop("gold_mean", None), **means, **errors}


def by_length(
    name: str, values: Sequence[float], prompts: Sequence[Prompt], judge: Judge
) -> dict[str, dict[str, float]]:
    """Compute means over the world's short and long tasks, under `name`; empty on data that is of no world."""
    rows = [prompt.row for prompt in prompts]
    if judge.world is None or not any("length" in row for row in rows):
        return {}
    return {name: mean_by(values, rows, "length")}


def wins(samples: Samples, baseline: Samples, judge: str, config: EvaluationConfig) -> dict[str, Any]:
    """Compute the win rate, raw and length-controlled, by the score that `judge` names."""
    new, old = _column(samples, judge), _column(baseline, judge)
    pairs = list(zip(samples, baseline, strict=True))
    won = outcomes(new, old, [one_response(a, b) for a, b in pairs])
    decided = [(w, a["tokens"] - b["tokens"]) for w, (a, b) in zip(won, pairs, strict=True) if w is not None]
    shares, longer = [w for w, _ in decided], [d for _, d in decided]
    level, seed = config.confidence, config.seed
    controlled = length_controlled(shares, longer, confidence=level, seed=seed, resamples=RESAMPLES)
    return {**win_rate(won, confidence=level, seed=seed), "length_controlled": controlled}


def one_response(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two samples look the same to a reader: text, length in tokens, and whether the response ended."""
    return all(a[key] == b[key] for key in ("response", "tokens", "ended"))


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Compute Pearson's correlation; None where a side does not vary or a value is missing."""
    if len(a) < 2 or not all(map(math.isfinite, (*a, *b))) or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return statistics.correlation(a, b)


def gap(samples: Samples, baseline: Samples, judge: Judge) -> dict[str, float | None]:
    """Compute the rise of the proxy since the start less that of quality, in deviations of the start's scores.

    The gap is 0 at the start and while both rise alike; over-optimisation widens it (Gao et al., arXiv 2210.10760).
    """
    quality = judge.quality
    proxy = _rise(_column(samples, "proxy"), _column(baseline, "proxy"))
    true = None if quality is None else _rise(_column(samples, quality), _column(baseline, quality))
    return {"proxy_gain": proxy, "quality_gain": true, "gap": None if proxy is None or true is None else proxy - true}


def _rise(new: Sequence[float], old: Sequence[float]) -> float | None:
    if not all(map(math.isfinite, (*new, *old))):
        return None
    spread = statistics.pstdev(old)
    return (statistics.fmean(new) - statistics.fmean(old)) / spread if spread > 0 else None

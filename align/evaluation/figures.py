"""Figures that follow from an evaluation's samples alone: rewards, win rate, lengths, diversity, length effects."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from align.config import EvaluationConfig
from align.evaluation.comparison import mean_by, outcomes, verbosity, win_rate
from align.evaluation.diversity import distinct, repetition, self_bleu
from align.evaluation.intervals import RESAMPLES, Bootstrap, standard_error
from align.evaluation.judge import Judge, value
from align.evaluation.length_control import length_controlled
from align.types import Prompt

Samples = Sequence[Mapping[str, Any]]


def figures_of(
    samples: Samples, baseline: Samples, prompts: Sequence[Prompt], judge: Judge, config: EvaluationConfig
) -> dict[str, Any]:
    """Compute the figures of `samples`, compared with the start model's samples, `baseline`.

    Those of a score are absent where no judge gives it.

    Raises:
        ValueError: `baseline` has samples of other prompts.
    """
    if [s["prompt_id"] for s in samples] != [s["prompt_id"] for s in baseline]:
        raise ValueError("the start model's samples are of other prompts: evaluate it again")
    return {
        **judged(samples, baseline, prompts, judge, config),
        **read(samples, prompts, config),
        "ended_only": ended_only(samples, baseline, judge, config),
    }


def read(samples: Samples, prompts: Sequence[Prompt], config: EvaluationConfig) -> dict[str, Any]:
    """Compute what the responses themselves show: lengths, diversity, repetition, and how many were cut."""
    rows, texts = [p.row for p in prompts], [s["response"] for s in samples]
    tokens = [s["tokens"] for s in samples]
    repeats = [repetition(text) for text in texts]
    interval = Bootstrap.of(config)
    return {
        "verbosity": verbosity(texts, tokens, rows, config.verbosity_word_limit) | interval.mean("mean_tokens", tokens),
        "diversity": {**{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}, "self_bleu": self_bleu(texts)},
        "repetition": {
            **interval.mean("rate", repeats),
            **interval.mean("responses", [float(r > 0) for r in repeats]),
        },
        "eos_rate": statistics.fmean(s["ended"] for s in samples),
        **interval.mean("cut_rate", [float(not s["ended"]) for s in samples]),
    }


def judged(
    samples: Samples, baseline: Samples, prompts: Sequence[Prompt], judge: Judge, config: EvaluationConfig
) -> dict[str, Any]:
    """Compute what scores show: rewards, win rate, length correlation, proxy-gold gap; empty without a judge."""
    if judge.name is None:
        return {}
    tokens = [s["tokens"] for s in samples]
    found = {
        "reward": rewards(samples, judge),
        **by_length("gold_by", _column(samples, "gold") if judge.world is not None else [], prompts, judge),
        "win_rate": wins(samples, baseline, judge.name, config) | {"judge": judge.name},
        "length_correlation": {j: correlation(tokens, _column(samples, j)) for j in judge.names},
    }
    return found if judge.score is None else found | {"proxy_gold_gap": gap(samples, baseline, judge)}


def ended_only(samples: Samples, baseline: Samples, judge: Judge, config: EvaluationConfig) -> dict[str, Any]:
    """Compute rewards, lengths and win rate without cut responses, whose rest nobody has judged.

    The win rate is over the prompts to which the start model's response ended as well.
    """
    whole = [s for s in samples if s["ended"]]
    found: dict[str, Any] = {"responses": len(whole)}
    if whole:
        found |= Bootstrap.of(config).mean("tokens_mean", [s["tokens"] for s in whole])
    if judge.name is None:
        return found
    if whole:
        found |= rewards(whole, judge)
    both = [(a, b) for a, b in zip(samples, baseline, strict=True) if a["ended"] and b["ended"]]
    won = _outcomes([a for a, _ in both], [b for _, b in both], judge.name)
    rate = win_rate(won, confidence=config.confidence, seed=config.seed)
    return found | {"win_rate": rate | {"prompts": sum(w is not None for w in won)}}


def _column(samples: Samples, judge: str) -> list[float]:
    return [value(sample, judge) for sample in samples]


def rewards(samples: Samples, judge: Judge) -> dict[str, float | None]:
    """Compute mean scores by judge, with standard errors over prompts; proxy and gold are null where unknown.

    A response without a score, as a reward does not apply to it, is left out and counted.
    """
    columns = {name: [float(s[name]) for s in samples if s[name] is not None] for name in judge.names}
    means = {f"{name}_mean": statistics.fmean(values) if values else None for name, values in columns.items()}
    errors = {f"{name}_se": standard_error(values) for name, values in columns.items()}
    unscored = {f"{name}_unscored": n for name in columns if (n := len(samples) - len(columns[name]))}
    return {"proxy_mean": None, "gold_mean": None, **means, **errors, **unscored}


def by_length(
    name: str, values: Sequence[float], prompts: Sequence[Prompt], judge: Judge
) -> dict[str, dict[str, float]]:
    """Compute means over the world's short and long tasks, under `name`; empty on data that is of no world."""
    rows = [prompt.row for prompt in prompts]
    if judge.world is None or not any("length" in row for row in rows):
        return {}
    return {name: mean_by(values, rows, "length")}


def wins(samples: Samples, baseline: Samples, judge: str, config: EvaluationConfig) -> dict[str, Any]:
    """Compute the win rate by a judge's score, raw and length-controlled."""
    pairs = zip(samples, baseline, strict=True)
    won = _outcomes(samples, baseline, judge)
    decided = [(w, a["tokens"] - b["tokens"]) for w, (a, b) in zip(won, pairs, strict=True) if w is not None]
    shares, longer = [w for w, _ in decided], [d for _, d in decided]
    level, seed = config.confidence, config.seed
    controlled = length_controlled(shares, longer, confidence=level, seed=seed, resamples=RESAMPLES)
    return {**win_rate(won, confidence=level, seed=seed), "length_controlled": controlled}


def _outcomes(samples: Samples, baseline: Samples, judge: str) -> list[float | None]:
    same = [one_response(a, b) for a, b in zip(samples, baseline, strict=True)]
    return outcomes(_column(samples, judge), _column(baseline, judge), same)


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

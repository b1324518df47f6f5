"""Differences between two evaluations of the same prompts and pairs, with paired bootstrap intervals by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.evaluation.diversity import repetition
from align.evaluation.intervals import Bootstrap, perplexity_of
from align.evaluation.measure import EvaluationResult
from align.evaluation.preference import ahead, logprobs_of

JUDGES = ("proxy", "gold", "evaluation")
Figures = Mapping[str, float | None]


def delta(before: EvaluationResult, after: EvaluationResult, interval: Bootstrap) -> dict[str, Any]:
    """Compute after - before of every figure (`metrics.DELTA`), as `delta` of evaluation.json holds it."""
    change = differences(before.summary, after.summary)
    for path, figures in _paired(before, after, interval):
        section: Any = change
        for part in path:
            section = section.get(part) if isinstance(section, Mapping) else None
        name = next(iter(figures))
        if isinstance(section, dict) and section.get(name) is not None:
            section |= {end: number for end, number in figures.items() if end != name}
    return change


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Compute after - before of every number, null where one of the two is missing; texts are left out.

    So are ends of intervals and standard errors, whose differences say nothing. The ends of a win rate stay: the start
    model's is 0.5 without error, against itself.
    """
    change: dict[str, Any] = {}
    for key, new in after.items():
        old = before.get(key)
        if _is_error(key, after):
            continue
        if isinstance(new, Mapping):
            change[key] = differences(old if isinstance(old, Mapping) else {}, new)
        elif isinstance(new, (int, float)) and isinstance(old, (int, float)):
            change[key] = new - old
        elif not isinstance(new, str):
            change[key] = None
    return change


def _is_error(key: str, figures: Mapping[str, Any]) -> bool:
    """Return whether a key holds an end or the standard error of another one beside it."""
    stem, _, last = key.rpartition("_")
    return last in ("low", "high", "se") and (stem in figures or f"{stem}_mean" in figures)


def _paired(
    before: EvaluationResult, after: EvaluationResult, interval: Bootstrap
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    """Yield the place and the changes of figures whose single values both evaluations hold."""
    if before.samples and after.samples:
        yield from _of_samples(before.samples, after.samples, interval)
    if before.pairs and after.pairs:
        yield from _of_pairs(before.pairs, after.pairs, interval)
    if before.demonstrations and after.demonstrations:
        old, new = ([-row["logprob"] for row in result.demonstrations] for result in (before, after))
        tokens = _tensor([row["tokens"] for row in after.demonstrations])
        prompts = [row["prompt_id"] for row in after.demonstrations]
        yield (), interval.change("perplexity", (_tensor(old), _tensor(new)), tokens, prompts, perplexity_of)


def _of_samples(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], interval: Bootstrap
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    """Compare what is a mean over responses, on the prompts that have a value on both sides."""
    prompts = [s["prompt_id"] for s in after]
    for (path, name, old), (_, _, new) in zip(_columns(before), _columns(after), strict=True):
        both = [i for i in range(len(prompts)) if old[i] is not None and new[i] is not None]
        if both:
            sides = _tensor([old[i] for i in both]), _tensor([new[i] for i in both])
            ones = torch.ones(len(both), dtype=torch.float64)
            yield path, interval.change(name, sides, ones, [prompts[i] for i in both])


def _columns(samples: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[str, ...], str, Sequence[float | None]]]:
    """Return the place, name and values of the figures that are means over responses."""
    repeats = [repetition(s["response"]) for s in samples]
    return [
        *((("reward",), f"{judge}_mean", [s.get(judge) for s in samples]) for judge in JUDGES),
        (("verbosity",), "mean_tokens", [float(s["tokens"]) for s in samples]),
        (("repetition",), "rate", repeats),
        (("repetition",), "responses", [float(share > 0) for share in repeats]),
        ((), "cut_rate", [float(not s["ended"]) for s in samples]),
    ]


def _of_pairs(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], interval: Bootstrap
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    old, new, prompts = logprobs_of(before), logprobs_of(after), [row["prompt_id"] for row in after]
    tokens = _tensor([[row["chosen_tokens"], row["rejected_tokens"]] for row in after])
    scores = {
        "logprob": (old, new),
        "log_ratio": (torch.zeros_like(new), new - old),
        "per_token": (old / tokens, new / tokens),
    }
    ones = torch.ones(len(new), dtype=torch.float64)
    for name, (start, end) in scores.items():
        margins = start[:, 0] - start[:, 1], end[:, 0] - end[:, 1]
        right = ahead(margins[0]), ahead(margins[1])
        yield ("preference", name), interval.change("accuracy", right, ones, prompts)
        yield ("preference", name), interval.change("margin", margins, ones, prompts)
    for i, side in enumerate(("chosen", "rejected")):
        nats = -old[:, i], -new[:, i]
        yield ("preference",), interval.change(f"perplexity_{side}", nats, tokens[:, i], prompts, perplexity_of)
        if side == "chosen":
            yield (), interval.change("perplexity", nats, tokens[:, i], prompts, perplexity_of)


def _tensor(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

"""What is reported of a rollout, the same for every on-policy method."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from align.functional import kl
from align.functional.fidelity import segment_rewards, within_correlation
from align.functional.masked import masked_sum
from align.metrics import Tally
from align.types import RewardInput, RewardOutput, Rollout
from align.worlds import Gold, World

LOGGED_SAMPLES = 8  # of each rollout, in completions.jsonl


class Clock:
    """Phase times into a tally."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._last = time.perf_counter()

    def lap(self, name: str, less: float = 0.0) -> None:
        """Seconds since the lap before, without `less` of them, which are another phase's."""
        now = time.perf_counter()
        self._tally.add(name, now - self._last - less)
        self._last = now


def add_responses(tally: Tally, rollout: Rollout) -> None:
    """Lengths and endings."""
    lengths = rollout.lengths.float().tolist()
    for name in ("length_mean", "length_std", "length_min", "length_max"):
        tally.observe(f"response/{name}", lengths)
    tally.observe("response/eos_rate", rollout.ended.float().tolist())


def add_rewards(tally: Tally, output: RewardOutput, rollout: Rollout, penalised: bool) -> None:
    """Scores as the source gave them. `penalised`: truncated responses are paid a penalty instead."""
    scores = output.total.tolist()
    tally.observe("reward/score_mean", scores)
    tally.observe("reward/score_std", scores)
    for name, part in output.parts.items():
        tally.observe(f"reward/part_{name}", part.tolist())
    for name, part in output.raw_parts.items():
        tally.observe(f"reward/raw_part_{name}", part.tolist())
    if output.raw_total is not None:
        tally.observe("reward/raw_mean", output.raw_total.tolist())
        tally.observe("reward/raw_std", output.raw_total.tolist())
    tally.add("reward/length_correlation", correlation(output.total, rollout.lengths))
    truncated = float((~rollout.ended).sum()) if penalised else 0.0
    tally.add("reward/missing_eos_rate", truncated, len(rollout))


def add_truth(tally: Tally, world: World | None, batch: RewardInput, token_rewards: Tensor) -> None:
    """What the world says of a rollout: its gold reward, and how near the credit (B, T) is to the true one."""
    if world is None:
        return
    golds = add_gold(tally, world, batch)
    ended, lengths = batch.rollout.ended.tolist(), batch.rollout.lengths.tolist()
    rewards, offsets = token_rewards.cpu(), batch.offsets.cpu()
    groups: dict[str, list[Tensor]] = {"all": []}
    for i, gold in enumerate(golds):
        if ended[i]:  # of a cut response the penalty has taken the rewards' place
            segments = [(s.start, s.end, s.credit) for s in gold.segments]
            both = segment_rewards(rewards[i, : lengths[i]], segments, offsets[i, : lengths[i]])
            kind = batch.rows[i].get("length")
            for name in ("all", *(() if kind is None else (str(kind),))):
                groups.setdefault(name, []).append(both)
    for name, group in groups.items():
        fidelity = within_correlation(group)
        if fidelity is not None:
            tally.add(f"credit/fidelity_{name}", fidelity)


def add_gold(tally: Tally, world: World, batch: RewardInput) -> list[Gold]:
    """The true reward of what was sampled: it is reported, and nothing else."""
    ended = batch.rollout.ended.tolist()
    golds = [world.gold(*given) for given in zip(batch.rows, batch.responses, ended, strict=True)]
    tally.observe("reward/gold_mean", [gold.total for gold in golds])
    return golds


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's over responses, both (B,); 0 where one does not vary."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def add_policy(tally: Tally, rollout: Rollout, logprobs: Tensor, ref_logprobs: Tensor, coef: float) -> None:
    """KL of the policy that sampled to the reference, and how far what it says now is from what it said while sampling.

    Both log-probabilities (B, T), nats. Sums with their counts: parts of a rollout add up to the whole.
    """
    mask = rollout.response_mask
    gap = (logprobs - rollout.sampling_logprobs).abs()
    tally.add("policy/sampling_gap", float(masked_sum(gap, mask)), float(mask.sum()))
    for name, estimator in (("k1", kl.k1), ("k3", kl.k3)):
        summed = float(masked_sum(estimator(logprobs, ref_logprobs), mask))
        tally.add(f"kl/per_response_{name}", summed, mask.shape[0])
        tally.add(f"kl/per_token_{name}", summed, float(mask.sum()))
    tally.add("kl/coef", coef)


def with_speed(metrics: dict[str, float], rollout: Rollout) -> dict[str, float]:
    """The same metrics with the sampling speed."""
    speed = float(rollout.response_mask.sum()) / max(metrics["time/rollout"], 1e-9)
    return metrics | {"throughput/sampled_tokens_per_second": speed}


def describe(
    batch: RewardInput,
    output: RewardOutput,
    token_rewards: Tensor,
    *,
    only: Tensor | None = None,
    log_ratio: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Responses as rows for completions.jsonl: the first few, or all that `only` (B,) marks."""
    rollout = batch.rollout
    rows = range(min(LOGGED_SAMPLES, len(rollout))) if only is None else only.nonzero().squeeze(1).tolist()
    nats = masked_sum(log_ratio, rollout.response_mask, dim=1) if log_ratio is not None else None
    lengths = rollout.lengths.tolist()
    return [
        {
            "prompt_id": int(rollout.prompt_index[i]),
            "sample_index": int(rollout.sample_index[i]),
            "prompt": batch.prompts[i],
            "response": batch.responses[i],
            "ended": bool(rollout.ended[i]),
            "score": float(output.total[i]),
            "parts": {name: float(part[i]) for name, part in output.parts.items()},
            **_raw(output, i),
            "pieces": [batch.responses[i][a:b] for a, b in batch.offsets[i, : lengths[i]].tolist()],
            "token_rewards": token_rewards[i, : lengths[i]].tolist(),
            **({"kl": float(nats[i])} if nats is not None else {}),
        }
        for i in rows
    ]


def _raw(output: RewardOutput, i: int) -> dict[str, Any]:
    """Row i's score and parts before they were normalised, where they were."""
    found: dict[str, Any] = {}
    if output.raw_total is not None:
        found["raw_score"] = float(output.raw_total[i])
    if output.raw_parts:
        found["raw_parts"] = {name: float(part[i]) for name, part in output.raw_parts.items()}
    return found

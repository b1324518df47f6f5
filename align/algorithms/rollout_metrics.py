"""What is reported of a rollout, the same for every on-policy method."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from align.engine.protocol import TokenStats
from align.errors import RunError
from align.functional import kl
from align.functional.fidelity import segment_rewards, within_correlation
from align.functional.masked import explained_variance, masked_sum
from align.loop.protocol import NotFinite
from align.metrics import Tally
from align.types import Batch, RewardInput, RewardOutput, Rollout
from align.worlds import Gold, World

LOGGED_SAMPLES = 8  # of each rollout, in completions.jsonl


class Clock:
    """Phase times into a tally."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Seconds since the lap before."""
        now = time.perf_counter()
        self._tally.add(name, now - self._last)
        self._last = now


def add_rollout(
    tally: Tally, batch: RewardInput, output: RewardOutput, rewards: Tensor, penalised: bool, world: World | None
) -> None:
    """Responses, their scores, and what the world knows of both; `rewards` (B, T) are the credited tokens'."""
    add_responses(tally, batch.rollout)
    add_rewards(tally, output, batch.rollout, penalised)
    add_truth(tally, world, batch, rewards)


def add_responses(tally: Tally, rollout: Rollout) -> None:
    """Lengths and endings."""
    lengths = rollout.lengths.float().tolist()
    for name in ("length_mean", "length_std", "length_min", "length_max"):
        tally.observe(f"response/{name}", lengths)
    tally.observe("response/eos_rate", rollout.ended.float().tolist())


def add_rewards(tally: Tally, output: RewardOutput, rollout: Rollout, penalised: bool) -> None:
    """Scores as the source gave them. `penalised`: truncated responses are paid a penalty instead."""
    scored, partial = output.scored, output.applies is not None
    scores = output.total[scored].tolist()
    tally.observe("reward/score_mean", scores)
    tally.observe("reward/score_std", scores)
    for name, part in output.parts.items():
        tally.observe(f"reward/part_{name}", (part[~part.isnan()] if partial else part).tolist())
        if partial:
            tally.observe(f"reward/not_applicable_{name}", part.isnan().float().tolist())
    for name, part in output.raw_parts.items():
        tally.observe(f"reward/raw_part_{name}", (part[~part.isnan()] if partial else part).tolist())
    if output.raw_total is not None:
        tally.observe("reward/raw_mean", output.raw_total[scored].tolist())
        tally.observe("reward/raw_std", output.raw_total[scored].tolist())
    if partial:
        tally.observe("reward/unscored_rate", (~scored).float().tolist())
    for name, values in output.logged.items():
        tally.observe(f"reward/logged_{name}", values)
    tally.add("reward/length_correlation", correlation(output.total[scored], rollout.lengths[scored]))
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


def add_advantages(tally: Tally, advantages: Tensor, mask: Tensor) -> None:
    """Spread of the advantages (B, T) that count."""
    counted = advantages[mask == 1].tolist()
    for name in ("mean", "std", "min", "max"):
        tally.observe(f"advantage/{name}", counted)


def add_values(tally: Tally, advantages: Tensor, mask: Tensor, values: Tensor, returns: Tensor) -> None:
    """Advantages before whitening, and how well the critic's values foretold the returns; all (B, T)."""
    add_advantages(tally, advantages, mask)
    tally.add("value/mean", float(masked_sum(values, mask)), float(mask.sum()))
    tally.add("value/explained_variance", explained_variance(values, returns, mask))


@torch.no_grad()
def add_update(tally: Tally, batch: Batch, out: TokenStats, ratio: Tensor, per_token: Tensor) -> None:
    """How far an update's policy is from the one that sampled. `ratio` and the surrogate `per_token` are (B, T)."""
    mask, advantages, n = batch.mask, batch.columns["advantages"], float(batch.mask.sum())
    if n == 0:  # every response is masked: nothing is learned from, and nothing moves
        return
    clipped = (per_token > -advantages * ratio).float()
    moved = kl.k3(batch.columns["logprobs"], out.logprobs)  # old against new: the samples are the old policy's
    tally.add("policy/loss", float(masked_sum(per_token, mask)), n)
    tally.add("policy/ratio_mean", float(masked_sum(ratio, mask)), n)
    tally.add("policy/ratio_max", float(ratio[mask == 1].max()))
    tally.add("policy/clip_fraction", float(masked_sum(clipped, mask)), n)
    tally.add("policy/approx_kl", float(masked_sum(moved, mask)), n)
    tally.add("policy/entropy", float(masked_sum(out.entropy, mask)), n)


@torch.no_grad()
def add_value_update(tally: Tally, mask: Tensor, per_token: Tensor, unclipped: Tensor) -> None:
    """The critic's loss (B, T), and where it is not the unclipped one."""
    tally.add("value/loss", float(masked_sum(per_token, mask)), float(mask.sum()))
    tally.add("value/clip_fraction", float(masked_sum((per_token > unclipped).float(), mask)), float(mask.sum()))


def check_first_ratio(metrics: Mapping[str, float], dtype: torch.dtype) -> None:
    """Assert that pi is pi_old on the first minibatch of a rollout: dropout, masks or positions differ by pass else.

    Raises:
        RunError: The mean ratio is not 1, or approx_kl, in which differences cannot cancel, not 0.
    """
    ratio, moved = metrics["policy/ratio_mean"], metrics["policy/approx_kl"]
    ratio_off, kl_off = (1e-5, 1e-6) if dtype is torch.float32 else (2e-2, 1e-3)
    if abs(ratio - 1) > ratio_off or moved > kl_off:
        raise RunError(
            f"on the first minibatch of a rollout the ratio is {ratio:.6f} and approx_kl {moved:.2e}; expected 1 and 0"
        )


def refuse_not_finite(batch: RewardInput, output: RewardOutput, token_rewards: Tensor) -> None:
    """Raise NotFinite, with the samples, where a score or a token's reward (B, T) is infinite or not a number."""
    bad = (~torch.isfinite(token_rewards)).any(1) | (~torch.isfinite(output.total) & output.scored)
    if bool(bad.any()):
        raise NotFinite("a reward was not finite", describe(batch, output, token_rewards, only=bad))


def with_speed(metrics: dict[str, float], rollout: Rollout) -> dict[str, float]:
    """The same metrics with the sampling speed."""
    speed = float(rollout.response_mask.sum()) / max(metrics["time/rollout"], 1e-9)
    return metrics | {"throughput/sampled_tokens_per_second": speed}


def describe(
    batch: RewardInput,
    output: RewardOutput,
    token_rewards: Tensor,
    columns: Mapping[str, Tensor] | None = None,
    *,
    only: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Responses as rows for completions.jsonl: the first few, or all that `only` (B,) marks.

    Args:
        columns: With log-probabilities of the policy and the reference (B, T), whose difference is the KL.
    """
    rollout = batch.rollout
    log_ratio = None if columns is None else columns["logprobs"] - columns["ref_logprobs"]
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
            "score": float(output.total[i]) if bool(output.scored[i]) else None,
            "parts": _row(output.parts, i, output.applies),
            **({"extra": {name: values[i] for name, values in output.extra.items()}} if output.extra else {}),
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
        found["raw_score"] = float(output.raw_total[i]) if bool(output.scored[i]) else None
    if output.raw_parts:
        found["raw_parts"] = _row(output.raw_parts, i, output.applies)
    return found


def _row(parts: Mapping[str, Tensor], i: int, applies: Tensor | None) -> dict[str, float | None]:
    """Row i's parts; None of one that does not apply."""
    row = {name: float(part[i]) for name, part in parts.items()}
    return {name: None if applies is not None and math.isnan(score) else score for name, score in row.items()}

"""The peak of the true reward in a run that was evaluated on its way: the mark of over-optimisation.

With a proxy reward and no KL penalty the proxy keeps rising while the true reward rises, peaks and falls (Gao et al.,
arXiv 2210.10760).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

GOLD, PROXY, KL = "eval/reward/gold_mean", "eval/reward/proxy_mean", "eval/kl_per_response"


@dataclass(frozen=True)
class Peak:
    """The evaluation with the highest gold reward; the first of equals."""

    step: int  # updates made before it
    gold: float  # mean gold reward
    proxy: float  # mean score by the run's own reward
    kl: float  # to the start model, nats per response

    def plain(self) -> dict[str, float]:
        """Return the peak as plain data."""
        return asdict(self)


def gold_peak(evaluations: Sequence[Mapping[str, Any]]) -> Peak | None:
    """Find the peak over a run's evaluation records (those with a `phase` in log_history.jsonl).

    Returns:
        None where the run was evaluated at its two ends alone, or where the gold reward is not known.
    """
    if not any(record["phase"] == "during" for record in evaluations):
        return None
    known = [record for record in evaluations if all(record.get(name) is not None for name in (GOLD, PROXY, KL))]
    if not known:
        return None
    best = max(known, key=lambda record: record[GOLD])
    return Peak(best["step"], best[GOLD], best[PROXY], best[KL])

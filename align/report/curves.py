"""Which curves a report shows of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from align import metrics
from align.report.charts import Chart, Series, Value, line_chart
from align.report.load import Run

EXPLAINED_FLOOR = -1.0  # explained variance can be arbitrarily negative while the critic is new


def main_curves(run: Run) -> list[Chart]:
    """Reward, KL, advantage, value, length and entropy over steps; a curve without data is left out."""
    steps = run.steps
    charts = [
        line_chart(
            "Reward",
            "reward per response",
            [_series(steps, "reward/score_mean", "score"), _series(steps, "reward/total_mean", "with KL penalty")],
        ),
        line_chart(
            "KL to the reference",
            "nats per response",
            [_series(steps, "kl/per_response_k1", "k1"), _series(steps, "kl/per_response_k3", "k3")],
        ),
        line_chart(
            "Advantage",
            "reward",
            [_series(steps, "advantage/mean", "mean", spread="advantage/std")],
            note="band: one standard deviation of the tokens; before whitening",
        ),
        line_chart(
            "Critic: explained variance",
            "share of the returns' variance",
            [_series(steps, "value/explained_variance", "explained")],
            floor=EXPLAINED_FLOOR,
            note="1 is perfect, 0 a constant; drawn no lower than -1",
        ),
        line_chart(
            "Response length",
            "tokens",
            [_series(steps, "response/length_mean", "mean", spread="response/length_std")],
            note="band: one standard deviation of the responses",
        ),
        line_chart("Entropy", "nats per token", [_series(steps, "policy/entropy", "policy")]),
        _evaluation_chart(run.evaluations),
    ]
    return [chart for chart in charts if chart is not None]


SHOWN = {
    *("reward/score_mean", "reward/total_mean", "kl/per_response_k1", "kl/per_response_k3", "advantage/mean"),
    *("value/explained_variance", "response/length_mean", "policy/entropy"),
}
DULL = ("time/", "throughput/", "memory/", "tokens/", "event/", "kl/per_token")


def other_curves(run: Run) -> list[Chart]:
    """Every further metric that changes during the run, one chart each, in the table's order."""
    names = dict.fromkeys(name for record in run.steps for name in record)
    charts = []
    for name in sorted(names, key=_table_order):
        if name in SHOWN or name in metrics.RECORD_FIELDS or name == "nonfinite" or name.startswith(DULL):
            continue
        series = _series(run.steps, name, name)
        if len({v for v in series.y if v is not None}) > 1:
            charts.append(line_chart(name, _unit(name), [series], note=_definition(name)))
    return [chart for chart in charts if chart is not None]


def _evaluation_chart(evaluations: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Proxy beside gold reward at each evaluation; None where there are only the two that the table shows."""
    if len(evaluations) < 3:
        return None
    series = [
        _series(evaluations, "eval/reward/proxy_mean", "proxy"),
        _series(evaluations, "eval/reward/gold_mean", "gold"),
    ]
    return line_chart("Held-out reward", "reward per response", series, dots=True)


def _series(records: Sequence[Mapping[str, Any]], name: str, label: str, *, spread: str | None = None) -> Series:
    band = None if spread is None else [_value(r.get(spread)) for r in records]
    return Series(label, [float(r["step"]) for r in records], [_value(r.get(name)) for r in records], band)


def _value(value: Any) -> Value:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _table_order(name: str) -> tuple[int, str]:
    try:
        return list(metrics.METRICS).index(metrics.lookup(name).name), name
    except KeyError:
        return len(metrics.METRICS), name


def _unit(name: str) -> str:
    try:
        return metrics.lookup(name).unit
    except KeyError:
        return ""


def _definition(name: str) -> str:
    try:
        return metrics.lookup(name).definition
    except KeyError:
        return ""

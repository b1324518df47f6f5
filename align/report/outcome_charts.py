"""Charts of how runs ended: reward against KL, forgetting, lengths before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from align import metrics
from align.intervals import mean_interval
from align.report.charts import Chart, chart
from align.report.jobs import Arm
from align.report.load import Run, at
from align.report.series import Curve, Value, finite

BINS = 24  # most bins of a length histogram
START = "start model"
START_COLOUR = -1  # the page's grey
_KL, _LENGTH = "KL to the start model, nats per response", "length, tokens"  # horizontal axes


def frontiers(arms: Sequence[Arm]) -> list[Chart]:
    """Draw held-out reward against held-out KL: each run's evaluations from the start model to the end."""
    charts = []
    note = "a line per run, from the start model over its evaluations to the end; best-of-n: a bound of KL"
    for name, title in (("gold_mean", "Gold reward against KL"), ("proxy_mean", "Proxy reward against KL")):
        curves = [_trail(run, name, arm.name, i) for i, arm in enumerate(arms) for run in arm.runs]
        unit = metrics.METRICS[f"eval/reward/{name}"].unit
        charts.append(chart(title, unit, curves, kind="trail", x_name=_KL, note=note, keyed=len(arms) > 1))
    return [c for c in charts if c is not None]


def _trail(run: Run, name: str, label: str, colour: int) -> Curve | None:
    before, after = (metrics.flatten(run.evaluation.get(phase) or {}) for phase in ("before", "after"))
    records = [before, *(r for r in run.evaluations if r.get("phase") == "during"), after]
    points = [(finite(r.get("eval/kl_per_response")), finite(r.get(f"eval/reward/{name}"))) for r in records]
    known = [(x, y) for x, y in points if x is not None and y is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    return Curve(f"{label}, seed {run.setting('seed')}", {_KL: xs}, ys, colour=colour) if known else None


def forgetting(arms: Sequence[Arm]) -> Chart | None:
    """Draw each arm's change in perplexity on general text: mean over seeds, 95% interval, and the runs beside it."""
    curves = []
    for i, arm in enumerate(arms):
        changes = [c for run in arm.runs if (c := _forgotten(run)) is not None]
        if not changes:
            continue
        mean = mean_interval(changes)
        half = mean.half or 0.0
        beside = changes if len(changes) > 1 else []
        x = [float(i), *(i + 0.12 + 0.06 * k for k in range(len(beside)))]
        y, low, high = ([end, *beside] for end in (mean.mean, mean.mean - half, mean.mean + half))
        curves.append(Curve(arm.name, {"arms": x}, y, low, high, i))
    return chart(
        "Forgetting",
        "perplexity on general text, after - before",
        curves,
        kind="dots",
        x_name="arms",
        marked=False,
        note="mean with its 95% interval over seeds, the runs to the right of it",
    )


def _forgotten(run: Run) -> Value:
    old, new = (finite(at(run.evaluation, phase, "forgetting_perplexity")) for phase in ("before", "after"))
    return None if old is None or new is None else new - old


def lengths(arms: Sequence[Arm]) -> Chart | None:
    """Draw response lengths on the held-out prompts: the start model's, and each arm's at the end of its runs."""
    after = [[s["tokens"] for run in arm.runs for s in run.samples.get("after", ())] for arm in arms]
    before = _first_before(arms)
    every = [n for group in (before, *after) for n in group]
    if not every:
        return None
    low, high = min(every), max(every) + 1
    width = max(1, -(-(high - low) // BINS))
    edges = list(range(low, high + width, width))
    named = [(START, before), *zip((arm.name for arm in arms), after, strict=True)]
    curves = [_steps(text, group, edges, i) for i, (text, group) in enumerate(named, start=START_COLOUR) if group]
    return chart(
        "Response lengths",
        "share of the responses",
        curves,
        x_name=_LENGTH,
        note=f"held-out prompts, end token included; {width} token{'s' * (width > 1)} to a bin",
        keyed=len(arms) > 1,
    )


def _first_before(arms: Sequence[Arm]) -> list[int]:
    found = [run.samples["before"] for arm in arms for run in arm.runs if run.samples.get("before")]
    return [sample["tokens"] for sample in found[0]] if found else []


def _steps(text: str, values: Sequence[int], edges: Sequence[int], colour: int) -> Curve:
    """Return a histogram's outline, which steps at the edges of the bins."""
    width = edges[1] - edges[0]
    counts = Counter((v - edges[0]) // width for v in values)
    x, y = [float(edges[0])], [0.0]
    for i, edge in enumerate(edges[:-1]):
        x += [float(edge), float(edge + width)]
        y += [counts[i] / len(values)] * 2
    return Curve(text, {_LENGTH: [*x, float(edges[-1])]}, [*y, 0.0], colour=colour)

"""Choice of the training charts: several figures to a chart for one arm, the arms overlaid for several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from align import metrics
from align.report.charts import Chart, chart
from align.report.jobs import Arm
from align.report.series import Grid, evaluation_curve, finite

EXPLAINED_FLOOR = -1.0  # explained variance can be arbitrarily negative while the critic is new
POINTS, POINTS_OF_ALL = 240, 1200  # most points of a curve, and of the curves of a chart together


@dataclass(frozen=True)
class Spec:
    """A chart; with several arms only its first metric is drawn."""

    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...]  # name, label
    floor: float | None = None  # smaller values are drawn at it
    note: str = ""
    reach: tuple[float, ...] = ()  # values that the vertical axis always includes


# fmt: off
TRAINING = (
    Spec("Reward", "reward per response", (("reward/score_mean", "score"), ("reward/total_mean", "with KL penalty")),
         note="of the sampled responses, before penalties"),
    Spec("KL to the reference", "nats per response", (("kl/per_response_k1", "k1"), ("kl/per_response_k3", "k3")),
         note="k1 unless stated otherwise"),
    Spec("Advantage", "reward", (("advantage/mean", "mean"),), note="mean over tokens, before whitening"),
    Spec("Advantage: spread", "reward", (("advantage/std", "deviation"),), note="deviation over tokens"),
    Spec("Critic: explained variance", "share of the returns' variance", (("value/explained_variance", "explained"),),
         EXPLAINED_FLOOR, "1 is perfect, 0 a constant; drawn no lower than -1", (-1.0, 1.0)),
    Spec("Critic: value", "reward", (("value/mean", "predicted"),), note="over tokens, at rollout time"),
    Spec("Response length", "tokens", (("response/length_mean", "mean"), ("response/length_std", "deviation"))),
    Spec("Entropy", "nats per token", (("policy/entropy", "policy"),)),
)
# fmt: on
DULL = ("time/", "throughput/", "memory/", "tokens/", "event/", "kl/per_token")
HELD_OUT = (
    ("Held-out proxy reward", "eval/reward/proxy_mean"),
    ("Held-out gold reward", "eval/reward/gold_mean"),
    ("Held-out KL to the reference", "eval/kl_per_response"),
    ("Proxy-gold gap", "eval/proxy_gold_gap/gap"),
    ("Length-reward correlation", "eval/length_correlation/proxy"),
)


class Curves:
    """Curves of all arms, each thinned once."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.arms = [arm for arm in arms if arm.runs]
        points = max(60, min(POINTS, POINTS_OF_ALL // max(1, len(self.arms))))
        self.grids = [Grid(arm.runs, points) for arm in self.arms]

    def thinned(self) -> str:
        """Return the note on curves with fewer points than steps; empty without such."""
        cut = [grid for grid in self.grids if grid.steps > grid.points]
        if not cut:
            return ""
        most = max(cut, key=lambda grid: grid.steps)
        return (
            f"{most.steps:,} updates are drawn as {most.points} points, each the mean of its updates; the band reaches "
            "from the lowest to the highest value among them, so that no spike is lost"
        )

    def training(self) -> list[Chart]:
        """Draw reward, KL, advantage, value, length and entropy; charts without data are left out."""
        return [c for c in map(self._of, TRAINING) if c is not None]

    def held_out(self) -> list[Chart]:
        """Draw the evaluations' figures over training, also for methods without rollouts."""
        charts = []
        for title, name in HELD_OUT:
            curves = [evaluation_curve(arm.runs, name, arm.name, i) for i, arm in enumerate(self.arms)]
            longest = max((len(c.y) for c in curves if c is not None), default=0)
            if longest < (3 if len(self.arms) == 1 else 2):  # the table shows before and after
                continue
            unit, definition = _described(name)
            charts.append(chart(title, unit, curves, note=definition, keyed=len(self.arms) > 1))
        return [c for c in charts if c is not None]

    def others(self) -> list[Chart]:
        """Draw every further metric that changes during the runs, one chart each, in the table's order."""
        names = {name for arm in self.arms for run in arm.runs for record in run.steps for name in record}
        drawn = {name for s in TRAINING for name, _ in (s.metrics if len(self.arms) == 1 else s.metrics[:1])}
        skipped = {*drawn, *metrics.RECORD_FIELDS, "nonfinite"}
        found = []
        for name in sorted(names - skipped, key=_table_order):
            if not name.startswith(DULL) and self._moves(name):
                unit, definition = _described(name)
                found.append(self._of(Spec(name, unit, ((name, name),), note=definition)))
        return [c for c in found if c is not None]

    def _of(self, spec: Spec) -> Chart | None:
        if len(self.arms) == 1:
            drawn = [
                self.grids[0].curve(n, text, floor=spec.floor, colour=i) for i, (n, text) in enumerate(spec.metrics)
            ]
            return chart(spec.title, spec.unit, drawn, note=spec.note, keyed=False, reach=spec.reach)
        name, named = spec.metrics[0][0], list(zip(self.arms, self.grids, strict=True))
        curves = [grid.curve(name, arm.name, floor=spec.floor, colour=i) for i, (arm, grid) in enumerate(named)]
        missing = [arm.name for arm, curve in zip(self.arms, curves, strict=True) if curve is None]
        return chart(spec.title, spec.unit, curves, note=spec.note, missing=missing, reach=spec.reach)

    def _moves(self, name: str) -> bool:
        values = {finite(record.get(name)) for arm in self.arms for run in arm.runs for record in run.steps}
        return len(values - {None}) > 1


def _table_order(name: str) -> tuple[int, str]:
    order, row = list(metrics.METRICS), metrics.find(name)
    return (order.index(row.name) if row else len(order)), name


def _described(name: str) -> tuple[str, str]:
    """Return a metric's unit and definition; empty of one that the table does not have."""
    row = metrics.find(name)
    return (row.unit, row.definition) if row else ("", "")

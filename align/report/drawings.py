"""Choice of the charts: how runs ended; training with several figures to a chart for one arm, several arms overlaid."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from align import metrics
from align.numbers import mean_interval
from align.report.charts import Chart, Curve, Grid, Value, chart, evaluation_curve, finite
from align.report.jobs import Arm
from align.report.load import Run, at

BINS = 24  # most bins of a length histogram
START = "start model"
START_COLOUR = -1  # the page's grey
_KL, _LENGTH = "KL to the start model, nats per response", "length, tokens"  # horizontal axes
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
    Spec("DPO: loss", "nats", (("dpo/loss", "loss"),)),
    Spec("DPO: accuracy on training pairs", "share", (("dpo/accuracy", "accuracy"),)),
    Spec("DPO: margin", "nats times beta", (("dpo/margin", "margin"),)),
    Spec("SFT: loss", "nats per token", (("sft/loss", "loss"),)),
)
# fmt: on
DULL = ("time/", "throughput/", "memory/", "tokens/", "event/", "kl/per_token")
HELD_OUT = (
    ("Held-out accuracy by log-ratio", "eval/preference/log_ratio/accuracy"),
    ("Held-out margin of log-ratios", "eval/preference/log_ratio/margin"),
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
        shown = [n for n in sorted(names - skipped, key=_table_order) if not n.startswith(DULL) and self._moves(n)]
        specs = [Spec(name, unit, ((name, name),), note=note) for name in shown for unit, note in [_described(name)]]
        return [c for c in map(self._of, specs) if c is not None]

    def _of(self, spec: Spec) -> Chart | None:
        if len(self.arms) == 1:
            curve = self.grids[0].curve
            drawn = [curve(name, text, floor=spec.floor, colour=i) for i, (name, text) in enumerate(spec.metrics)]
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
        mean, beside = mean_interval(changes), changes if len(changes) > 1 else []
        half = mean.half or 0.0
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


@dataclass(frozen=True)
class Drawings:
    """All drawings of a report by section."""

    outcome: list[Chart]
    training: list[Chart]
    more: list[Chart]
    thinned: str  # note on curves with fewer points than steps, or empty

    @property
    def every(self) -> list[Chart]:
        return [*self.outcome, *self.training, *self.more]


def draw(arms: Sequence[Arm]) -> Drawings:
    """Draw every chart of these arms."""
    curves = Curves(arms)
    several = len(arms) > 1 or sum(len(arm.runs) for arm in arms) > 1
    trails = frontiers(arms)
    if not several:  # the table has a run's two ends; a path needs evaluations between them
        trails = [one for one in trails if any(len(curve.y) > 2 for curve in one.curves)]
    fixed = [forgetting(arms) if several else None, lengths(arms)]
    outcome = [*trails, *(one for one in fixed if one is not None)]
    return Drawings(outcome, [*curves.training(), *curves.held_out()], curves.others(), curves.thinned())

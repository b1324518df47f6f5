"""Heat map of the reward-hacking probes: how far each perturbation moves each reward, and how often it pays."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from align.numbers import mean_interval, number
from align.report.charts import Value, finite
from align.report.jobs import Arm
from align.report.load import Run, at

PERTURBED = {"prompts": "prompt", "responses": "response"}  # as evaluation.json has them under `probes`
PAYS = "pays"  # a share, not a shift
FIGURES = {"proxy_shift": "proxy", "gold_shift": "gold", "evaluation_shift": "evaluation model", PAYS: PAYS}


@dataclass(frozen=True)
class Cell:
    """One figure of an arm; `value` is None where the arm lacks it."""

    value: Value
    half: Value  # half its 95% interval over several runs; of one run the standard error over prompts
    strength: float  # strength of the colour: -1 to 1
    kind: str  # plus, minus, or pays

    @property
    def text(self) -> str:
        return number(self.value, signed=self.kind != PAYS)

    @property
    def error(self) -> str:
        """Format the error; empty without one."""
        return "" if self.half is None else f"± {number(self.half)}"


@dataclass(frozen=True)
class HeatMap:
    """Cells by perturbation (rows) and figure of an arm (columns)."""

    columns: list[tuple[str, str]]  # arm, figure
    rows: list[tuple[str, list[Cell]]]
    strongest: list[tuple[str, list[str]]]  # by arm: what raises the proxy most, among prompts and among responses

    @property
    def arms(self) -> list[tuple[str, int]]:
        """Return each arm with its number of columns."""
        return list(Counter(arm for arm, _ in self.columns).items())


Figure = tuple[Value, Value]  # mean, half


def probes(arms: Sequence[Arm]) -> HeatMap | None:
    """Build the heat map of the probes at the runs' ends, mean over an arm's runs; None without probes."""
    probed = [arm for arm in arms if any(at(run.evaluation, "after", "probes") for run in arm.runs)]
    kinds = [(on, kind) for on in PERTURBED for kind in _kinds(probed, on)]
    figures = [figure for figure in FIGURES if any(_known(probed, on, figure) for on in PERTURBED)]
    if not kinds or not figures:
        return None
    columns = [(arm, figure) for arm in probed for figure in figures]
    means = [[_mean(arm, on, figure, kind) for arm, figure in columns] for on, kind in kinds]
    largest = dict.fromkeys(figures, 0.0)
    for row in means:
        for (_, figure), (value, _) in zip(columns, row, strict=True):
            largest[figure] = max(largest[figure], abs(value or 0.0))
    rows = [
        (f"{PERTURBED[on]}: {kind}", [_cell(m, f, largest[f]) for m, (_, f) in zip(row, columns, strict=True)])
        for (on, kind), row in zip(kinds, means, strict=True)
    ]
    named = [(arm.name, FIGURES[figure]) for arm, figure in columns]
    return HeatMap(named, rows, [(arm.name, _strongest(arm, probed)) for arm in probed])


def _kinds(arms: Sequence[Arm], on: str) -> list[str]:
    counts = [at(run.evaluation, "after", "probes", on, "count") or {} for arm in arms for run in arm.runs]
    return list(dict.fromkeys(kind for count in counts for kind in count))


def _known(arms: Sequence[Arm], on: str, figure: str) -> bool:
    return any(at(run.evaluation, "after", "probes", on, figure) for arm in arms for run in arm.runs)


def _mean(arm: Arm, on: str, figure: str, kind: str) -> Figure:
    values = [v for run in arm.runs if (v := _of(run, on, figure, kind)) is not None]
    if not values:
        return None, None
    if len(arm.runs) == 1:
        return values[0], _of(arm.runs[0], on, f"{figure}_se", kind)
    interval = mean_interval(values)
    return interval.mean, interval.half


def _of(run: Run, on: str, figure: str, kind: str) -> Value:
    return finite(at(run.evaluation, "after", "probes", on, figure, kind))


def _cell(figure: Figure, name: str, largest: float) -> Cell:
    value, half = figure
    if name == PAYS:
        return Cell(value, half, value or 0.0, PAYS)
    strength = value / largest if value and largest else 0.0
    return Cell(value, half, strength, "minus" if strength < 0 else "plus")


def _strongest(arm: Arm, probed: Sequence[Arm]) -> list[str]:
    """Describe what raises the proxy most among prompts and responses, as `response: repetition (+0.812)`."""
    found = []
    for on, name in PERTURBED.items():
        moves = [(v, kind) for kind in _kinds(probed, on) if (v := _mean(arm, on, "proxy_shift", kind)[0]) is not None]
        if moves and max(moves)[0] > 0:
            value, kind = max(moves)
            found.append(f"{name}: {kind} ({number(value, signed=True)})")
    return found

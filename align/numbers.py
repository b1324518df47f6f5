"""Numbers and tables formatted for people, and means with Student's interval. Standard library only."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def number(value: float | None, *, signed: bool = False) -> str:
    """Format a number with at most four significant digits; a dash for None or NaN.

    >>> number(0.5), number(1234.5), number(0.25, signed=True), number(None)
    ('0.500', '1234', '+0.250', '-')
    """
    if value is None or value != value:
        return "-"
    size = abs(value)
    sign = "+" if signed else ""
    if size >= 1e7 or 0 < size < 5e-4:
        return f"{value:{sign}.1e}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:{sign}.{digits}f}"


def clock(seconds: float) -> str:
    """Format seconds: `clock(75)` is `1:15`, `clock(3700)` is `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def amount(mib: float) -> str:
    """Format MiB, as GiB where they are many: `amount(2048)` is `2.0 GiB`."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 2**10:.1f} GiB"


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values, and half the width of its interval; None for a single value."""

    mean: float
    half: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute the mean and its interval mean ± t s / sqrt(n); ValueError where there are no values.

    s is the sample deviation (n - 1), t Student's quantile at n - 1 degrees of freedom.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values, no mean")
    mean = statistics.fmean(values)
    if n == 1:
        return Interval(mean, None, n)
    spread = statistics.stdev(values, mean)
    if spread <= 1e-12 * max(map(abs, values)):  # equal but for rounding
        spread = 0.0
    half = student_quantile(confidence, n - 1) * spread / math.sqrt(n)
    return Interval(mean, half, n)


def normal_quantile(confidence: float) -> float:
    """Compute z with P(|Z| < z) = `confidence` for a standard normal Z."""
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def student_quantile(confidence: float, degrees: int) -> float:
    """Compute t with P(|T| < t) = `confidence` for `degrees` of freedom, by bisection; relative error below 1e-12."""
    low, high = 0.0, 1.0
    while _central(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, degrees) < confidence else (low, middle)
    return high


def _central(t: float, degrees: int) -> float:
    """Compute P(|T| < t): Abramowitz and Stegun 26.7.3 (odd degrees) and 26.7.4 (even)."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):  # the series' next power of the cosine, with its coefficient
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Format the lines of a Markdown table with its first column to the left, all others to the right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return [f"| {' | '.join(row)} |" for row in rows]


def cell_number(cell: object) -> float | None:
    """Read the number of a data cell, which a CSV file holds as text; None for an empty one.

    Raises:
        ValueError: The cell holds no number.
    """
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise ValueError(f"{cell!r} is no number")
    return float(cell)

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from align.report.charts import HEIGHT, LEFT, MAX_POINTS, WIDTH, Series, line_chart, thin, ticks


def paths(chart, kind):
    found = re.findall(rf'<path class="{kind} s(\d)" d="([^"]*)"', str(chart.svg))
    return {int(i): [[tuple(map(float, p.split())) for p in run.split("L")] for run in d.strip("MZ").split("M")]
            for i, d in found}  # fmt: skip


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    chart = line_chart("t", "u", [Series("a", [1, 2, 3], [0.0, 1.0, 0.5])])
    ((first, top, last),) = paths(chart, "line")[1]
    assert first[0] < top[0] < last[0]
    assert top[1] < last[1] < first[1]  # the vertical axis of SVG points down
    assert (first[1] + top[1]) / 2 == pytest.approx(last[1], abs=0.1)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in (first, top, last))


def test_gaps_are_not_bridged():
    chart = line_chart("t", "u", [Series("a", [1, 2, 3, 4], [0.0, None, 1.0, 2.0])])
    assert [len(run) for run in paths(chart, "line")[1]] == [2, 2]  # the lone point is a line of no length
    assert chart.points["y"] == [[0.0, None, 1.0, 2.0]]
    assert line_chart("t", "u", [Series("a", [1, 2], [None, None])]) is None
    assert line_chart("t", "u", []) is None


def test_band_lies_around_the_line():
    chart = line_chart("t", "u", [Series("a", [1, 2], [1.0, 2.0], spread=[0.5, 0.25])])
    ((left, right),) = paths(chart, "line")[1]
    ((a, b, c, d),) = paths(chart, "band")[1]
    assert a[1] < left[1] < d[1]
    assert b[1] < right[1] < c[1]
    assert left[1] - a[1] == pytest.approx(2 * (right[1] - b[1]), abs=0.2)


def test_floor_and_two_series_share_axes():
    low = Series("low", [1, 2], [-50.0, 0.5])
    chart = line_chart("t", "u", [low, Series("b", [1, 2], [0.0, 1.0])], floor=-1.0)
    assert chart.points["box"][2] == -1.0
    assert chart.labels == ("low", "b")
    lines = paths(chart, "line")
    assert lines[1][0][0][1] > lines[2][0][0][1]


def test_a_curve_that_hardly_moves_looks_flat():
    chart = line_chart("t", "u", [Series("a", [1, 2, 3], [5.7430, 5.7429, 5.7431])])
    ((a, b, c),) = paths(chart, "line")[1]
    assert max(a[1], b[1], c[1]) - min(a[1], b[1], c[1]) < 2
    assert all(len(t) <= 6 for t in re.findall(r'class="y">([^<]*)<', str(chart.svg)))


def test_long_curves_are_averaged():
    n = 8_000
    s = thin(Series("a", list(range(1, n + 1)), [float(i % 2) for i in range(n)], spread=[None] * n))
    assert len(s.x) == len(s.y) == MAX_POINTS
    assert s.x[-1] == n
    assert set(s.y) == {0.5}
    assert set(s.spread) == {None}
    short = Series("a", [1.0], [2.0])
    assert thin(short) is short


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.11), (5, 5), (0, 0), (1e-5, 3e-5), (-7e6, 2e6), (17, 93)])
def test_ticks_cover_the_range_in_round_steps(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 3 <= len(marks) <= 7
    steps = [b - a for a, b in itertools.pairwise(marks)]
    assert max(steps) == pytest.approx(min(steps))
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digits - m) for m in (1, 2, 5, 10)) < 1e-6


def test_names_are_escaped_and_the_drawing_is_well_formed():
    chart = line_chart('<b>"&', "u", [Series("a", [1, 2], [0.0, 1.0])], dots=True)
    drawing = ElementTree.fromstring(str(chart.svg))
    assert drawing.get("aria-label") == '<b>"& over steps'
    assert len(drawing.findall("circle")) == 2

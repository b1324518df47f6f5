"""From records to curves, from curves to drawings: by hand, with gaps that stay gaps and spikes that stay."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from align.report.charts import Curve, Grid, chart, evaluation_curve, pack, ticks
from align.report.export import HEIGHT, LEFT, WIDTH, svg
from align.report.load import Run


def run(values, *, name="a/b", pace=1.0, evaluations=()):
    steps = [{"step": i, "seconds": pace * i, "tokens/policy": 10.0 * i, name: v} for i, v in enumerate(values, 1)]
    return Run("r", Path("r"), {}, {}, steps, list(evaluations), {}, {})


def curve(y, x=None, **band):
    return Curve("a", {"step": x or [float(i + 1) for i in range(len(y))]}, y, **band)


# Records -> curves ---------------------------------------------------------------------------------------------------


def test_seeds_are_a_mean_and_a_band_on_every_axis():
    grid = Grid([run([1.0, 2.0], pace=1.0), run([3.0, None], pace=3.0)], points=100)
    c = grid.curve("a/b", "label")
    assert (c.y, c.low, c.high) == ([2.0, 2.0], [1.0, 2.0], [3.0, 2.0])  # a missing value is no zero
    assert c.x == {"step": [1.0, 2.0], "tokens": [10.0, 20.0], "seconds": [2.0, 4.0]}
    assert grid.curve("not/there", "label") is None


def test_one_run_has_no_band_and_keeps_its_gaps():
    c = Grid([run([0.5, None, math.nan, math.inf, -0.5])], points=100).curve("a/b", "label")
    assert (c.y, c.low, c.high) == ([0.5, None, None, None, -0.5], None, None)


def test_long_curves_are_thinned_without_losing_a_spike():
    values = [float(i % 2) for i in range(10_000)]
    values[4321] = 99.0
    grid = Grid([run(values)], points=250)
    c = grid.curve("a/b", "label")
    assert (grid.steps, grid.points, len(c.y)) == (10_000, 250, 250)
    assert c.x["step"][-1] == 10_000 and c.x["step"][0] == 40
    assert max(c.high) == 99.0 and c.high.index(99.0) == 4321 // 40
    assert set(c.low) == {0.0}
    assert c.y[0] == 0.5
    assert c.y[4321 // 40] == pytest.approx((19 + 99) / 40)


def test_runs_of_different_lengths_never_go_back_in_time():
    c = Grid([run([1.0] * 3, pace=1.0), run([1.0] * 2, pace=10.0)], points=100).curve("a/b", "label")
    assert c.x["seconds"] == [5.5, 11.0, 11.0]  # the slow run ends first


def test_a_floor_holds_before_means_are_taken():
    c = Grid([run([-50.0, 0.5])], points=100).curve("a/b", "label", floor=-1.0)
    assert c.y == [-1.0, 0.5]


def test_evaluations_lie_where_training_stood():
    marks = [
        {"step": s, "phase": p, "e": v} for s, p, v in ((0, "before", 1.0), (2, "during", 2.0), (3, "after", None))
    ]
    c = evaluation_curve([run([0.0] * 3, evaluations=marks)], "e", "label")
    assert c.y == [1.0, 2.0]
    assert c.x == {"step": [0.0, 2.0], "tokens": [0.0, 20.0], "seconds": [0.0, 2.0]}
    assert evaluation_curve([run([0.0])], "e", "label") is None


# Curves -> drawings --------------------------------------------------------------------------------------------------


def paths(drawn, **wanted):
    out = []
    for path in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}path"):
        if all(path.get(key) == value for key, value in wanted.items()):
            d = path.get("d").strip("MZ")
            out.append(
                [[tuple(map(float, p.split())) for p in run.split("L")] for run in d.replace("Z", "").split("M")]
            )
    return out


def lines(drawn):
    return paths(drawn, fill="none")


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    ((((first, top, last),)),) = (lines(svg(chart("t", "u", [curve([0.0, 1.0, 0.5])]))),)[0]
    assert first[0] < top[0] < last[0]
    assert top[1] < last[1] < first[1]  # the vertical axis of SVG points down
    assert (first[1] + top[1]) / 2 == pytest.approx(last[1], abs=0.1)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in (first, top, last))


def test_gaps_are_not_bridged():
    drawn = chart("t", "u", [curve([0.0, None, 1.0, 2.0])])
    assert [len(run) for run in lines(svg(drawn))[0]] == [2, 2]  # the lone point is a line of no length
    assert pack([drawn])["charts"][0]["curves"][0]["y"] == [0, None, 1, 2]
    assert chart("t", "u", [None, None]) is None


def test_band_lies_around_the_line():
    drawn = svg(chart("t", "u", [curve([1.0, 2.0], low=[0.5, 1.75], high=[1.5, 2.25])]))
    ((left, right),) = lines(drawn)[0]
    ((a, b, c, d),) = paths(drawn, opacity="0.16")[0]
    assert a[1] < left[1] < d[1]
    assert b[1] < right[1] < c[1]
    assert left[1] - a[1] == pytest.approx(2 * (right[1] - b[1]), abs=0.2)


def test_the_arm_s_x_is_written_once():
    shared = {"step": [1.0, 2.0], "tokens": [5.0, 9.0], "seconds": [1.0, 700.0]}
    two = [chart(t, "u", [Curve("a", shared, [0.0, 1.0])]) for t in "pq"]
    packed = pack([*two, chart("r", "u", [curve([3.0])])])
    assert packed["xs"] == [{"step": [1, 2], "tokens": [5, 9], "seconds": [1, 700]}, {"step": [1]}]
    assert [c["curves"][0]["x"] for c in packed["charts"]] == [0, 0, 1]
    low, high, marks, name = packed["charts"][0]["axes"]["seconds"]
    assert (low, high, name) == (1, 700, "minutes")
    assert (300.0, "5") in marks
    assert list(packed["charts"][2]["axes"]) == ["step"]


def test_a_curve_that_hardly_moves_looks_flat():
    drawn = svg(chart("t", "u", [curve([5.7430, 5.7429, 5.7431])]))
    ((a, b, c),) = lines(drawn)[0]
    assert max(a[1], b[1], c[1]) - min(a[1], b[1], c[1]) < 3
    assert all(len(t) <= 6 for t in re.findall(r"text-anchor='end'>([^<]*)<", drawn))


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
    named = Curve("<i>", {"k": [1.0, 2.0]}, [0.0, 1.0], [-1.0, 1.0], [1.0, 1.0])
    drawing = ElementTree.fromstring(svg(chart('<b>"&', "u", [named, named], kind="dots", x_name="k")))
    texts = ["".join(t.itertext()) for t in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == '<b>"& u'
    assert texts.count("<i>") == 2
    assert len(drawing.findall("{http://www.w3.org/2000/svg}circle")) == 4

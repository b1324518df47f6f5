"""Where gold peaked, against records counted by hand."""

from align.report.summary import Peak, gold_peak


def record(phase, step, gold, kl, proxy=0.0):
    figures = {"eval/reward/gold_mean": gold, "eval/reward/proxy_mean": proxy, "eval/kl_per_response": kl}
    return {"phase": phase, "step": step, **{name: value for name, value in figures.items() if value is not None}}


def test_the_highest_gold_and_the_first_of_equals():
    records = [
        record("before", 0, 0.2, 0.0),
        record("during", 10, 0.6, 1.5, 0.9),
        record("during", 20, 0.6, 3.0, 1.4),
        record("after", 30, -0.1, 9.0, 2.5),
    ]
    assert gold_peak(records) == Peak(step=10, gold=0.6, proxy=0.9, kl=1.5)


def test_the_start_model_may_be_the_peak():
    records = [record("before", 0, 0.2, 0.0), record("during", 10, 0.1, 1.0), record("after", 20, 0.0, 2.0)]
    assert gold_peak(records) == Peak(step=0, gold=0.2, proxy=0.0, kl=0.0)


def test_two_ends_alone_are_no_course():
    assert gold_peak([record("before", 0, 0.2, 0.0), record("after", 10, 0.6, 1.0)]) is None
    assert gold_peak([]) is None


def test_no_gold_no_peak():
    assert gold_peak([record("before", 0, None, 0.0), record("during", 5, None, 1.0)]) is None

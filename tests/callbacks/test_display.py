"""What a user sees while a run is at work, second by second, with a clock that the test moves."""

import io
import re

import pytest
from rich.console import Console

from align.activity import Work
from align.callbacks.base import RunInfo
from align.callbacks.display import Display
from align.callbacks.progress import ProgressCallback
from align.callbacks.training import Training
from tests.clock import Clock

ON_POLICY = {"method": {"minibatch_size": 8, "epochs": 4}, "rollout": {"batch_size": 16}}  # 8 updates a rollout
SUMMARY = {"kl_per_response": 0.0, "reward": {"proxy_mean": 0.1}}


@pytest.fixture
def clock():
    return Clock()


def display(clock, *, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    return Display(console, clock=clock, beats=False), console.file


def started(tmp_path, clock, *, terminal, config=None, steps=40, stage=""):
    shown, text = display(clock, terminal=terminal)
    callback = ProgressCallback(shown, Console(file=io.StringIO()), stage=stage)
    callback.on_run_start(RunInfo(tmp_path, config or {}, "dpo", steps, 0, 0))
    return callback, shown, text


def frames(text):
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text.getvalue()).splitlines() if line.strip()]


def test_a_terminal_shows_every_change_inside_one_long_update(tmp_path, clock):
    callback, shown, text = started(tmp_path, clock, terminal=True)
    callback.on_evaluation("before", 0, SUMMARY)
    seen = []
    for second in range(0, 31, 3):
        clock.now = second
        figures = {"dpo/loss": 0.7 - second / 100, "policy/learning_rate": 5e-5}
        figures["throughput/policy_tokens_per_second"] = 300 + second
        shown.activity.advance("rows through the update", second, 32, figures=figures)
        text.truncate(0)
        shown.refresh()
        seen.append(" ".join(frames(text)))
    assert len(set(seen)) == len(seen)
    assert "step 0/40" in seen[4] and "rows through the update 12/32" in seen[4]
    assert "loss 0.580  lr 5.0e-05  312 tokens/s" in seen[4]
    # 12 rows of 32 in 12 s: an update takes 32 s, of which there are 40.
    assert "0:12 elapsed, about 21:08 left" in seen[4]
    shown.stop()


@pytest.mark.parametrize(
    ("record", "figures"),
    [
        (
            {"dpo/loss": 0.5, "dpo/accuracy": 0.75, "policy/learning_rate": 1e-4},
            "loss 0.500  accuracy 0.750  lr 1.0e-04",
        ),
        ({"sft/loss": 2.5, "policy/learning_rate": 1e-4}, "loss 2.500  lr 1.0e-04"),
        ({"reward_model/loss": 0.6, "reward_model/learning_rate": 2e-5}, "loss 0.600  lr 2.0e-05"),
        ({"kto/loss": 0.4}, "loss 0.400"),
        (
            {"reward/score_mean": 1.5, "kl/per_response_k1": 0.25, "policy/loss": 0.1, "policy/learning_rate": 3e-4},
            "reward 1.500  KL 0.250  lr 3.0e-04",
        ),
    ],
)
def test_every_kind_of_training_shows_its_figures(record, figures):
    training = Training("", start=0, total=9, now=0.0)
    training.record({"step": 1, **record}, 1.0, 9)
    assert training.figures == figures


def test_speed_of_a_trainer_that_counts_tokens_alone():
    training = Training("", start=0, total=9, now=0.0)
    training.record({"step": 1, "tokens/policy": 1000}, 2.0, 9)
    assert training.figures == "500 tokens/s"
    training.record({"step": 2, "tokens/policy": 1300}, 3.0, 9)
    assert training.figures == "300 tokens/s"


def test_without_a_terminal_a_line_a_minute_and_the_first_one_after_ten_seconds(tmp_path, clock):
    callback, shown, text = started(tmp_path, clock, terminal=False)
    callback.on_evaluation("before", 0, SUMMARY)
    times = []
    for second in range(1, 301):
        clock.now = second
        shown.activity.advance("rows through the update", second, 400, figures={"dpo/loss": 0.7})
        before = len(text.getvalue())
        shown.refresh()
        times += [second] if len(text.getvalue()) > before else []
    assert times == [10, 70, 130, 190, 250]
    last = text.getvalue().splitlines()[-1]
    assert last.startswith("step 0/40  loss 0.700  4:10 elapsed, about ")
    assert last.endswith("; rows through the update 250/400, 4:09")


def test_a_phase_without_counts_is_no_silence(clock):
    shown, text = display(clock, terminal=False)
    shown.activity.advance("loading the models")
    for second in range(1, 150):
        clock.now = second
        shown.refresh()
    assert text.getvalue().splitlines() == ["loading the models, 1:00", "loading the models, 2:00"]


def test_lines_of_updates_are_no_flood(tmp_path, clock):
    callback, _, text = started(tmp_path, clock, terminal=False, steps=1000)
    callback.on_evaluation("before", 0, SUMMARY)
    for step in range(1, 1001):
        clock.now = step / 2
        callback.on_step({"step": step, "dpo/loss": 0.5, "time/update": 0.5})
    lines = text.getvalue().splitlines()
    steps = [int(match[1]) for line in lines if (match := re.match(r"step (\d+)/1000", line))]
    assert steps == [1, 101, 201, 301, 401, 501, 601, 701, 801, 901, 1000]
    assert len(lines) == len(steps) + 2  # the evaluation, and how long it takes in all


def test_elapsed_time_is_the_training_s_alone(tmp_path, clock):
    callback, _, text = started(tmp_path, clock, terminal=False)
    clock.now = 100
    callback.on_evaluation("before", 0, SUMMARY)
    clock.now = 103
    callback.on_step({"step": 1, "dpo/loss": 0.5})
    assert "0:03 elapsed, about 1:57 left" in text.getvalue()


def test_time_left_of_an_evaluation(clock):
    shown, _ = display(clock, terminal=False)
    shown.work(Work(phase="evaluation"))
    clock.now = 30
    shown.work(Work("responses sampled", 12, 64, "token 37 of at most 128", phase="evaluation", share=0.25))
    clock.now = 40
    assert shown.status() == (
        "evaluation: responses sampled 12/64 (token 37 of at most 128), 0:10, about 2:00 left of the evaluation"
    )


def test_length_of_the_whole_training_after_two_updates(tmp_path, clock):
    """A rollout takes 20 s and serves 8 updates of 1 s: 17 updates need three of them."""
    callback, _, text = started(tmp_path, clock, terminal=False, config=ON_POLICY, steps=17)
    callback.on_evaluation("before", 0, SUMMARY)
    for step, now in ((1, 21), (2, 22), (3, 23)):
        clock.now = now
        callback.on_step({"step": step, "reward/score_mean": 0.5, "kl/per_response_k1": 0.0, "time/update": 1.0})
    lines = text.getvalue().splitlines()
    assert [line for line in lines if "in all" in line] == ["training will take about 1:17 in all"]


def test_a_stage_says_its_name_and_length(tmp_path, clock):
    callback, _, text = started(tmp_path, clock, terminal=False, steps=30, stage="reward model")
    for step in (1, 2, 3):
        clock.now = 10 * step
        callback.on_step({"step": step, "reward_model/loss": 0.6, "time/update": 10.0})
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("reward model step 1/30  loss 0.600")
    assert "the reward model will take about 5:00 in all" in lines


def test_no_time_is_left_beyond_what_has_passed_since(clock):
    training = Training("", start=0, total=3, now=0.0)
    training.record({"step": 2}, 20.0, 3)
    assert [training.seconds_left(now) for now in (20, 24, 35)] == [10, 6, 0]


def test_a_switched_off_display_prints_nothing(clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    with Display(console, enabled=False, clock=clock) as shown:
        shown.activity.advance("loading the models")
        assert not shown.activity.due
    assert console.file.getvalue() == ""

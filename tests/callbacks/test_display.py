"""What a user sees while a run is at work, second by second, with a clock that the test moves."""

import io
import re

import pytest
from rich.console import Console

from align.activity import SAMPLING, UPDATE, Work
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


def test_what_is_late_and_reports_nothing_lasts_as_long_again(clock):
    training = Training("", start=0, total=3, now=0.0)
    training.record({"step": 2}, 20.0, 3)
    assert [training.seconds_left(now) for now in (20, 24, 35)] == [10, 6, 5]
    assert training.left(30.2) == "about 0:01 left"


def test_time_left_inside_the_first_update_of_a_rollout():
    """The rollout took 20 s; a quarter of the first update took 2 s: 17 updates of 8 s on three rollouts."""
    training = Training("", start=0, total=17, now=0.0, updates_per_rollout=8)
    training.work(Work(UPDATE, 0, 8), 20.0, 20.0)
    assert training.left(20.0) == ""
    training.work(Work(UPDATE, 2, 8, share=0.25), 20.0, 22.0)
    assert training.seconds_left(22.0) == 6 + 16 * 8 + 2 * 20


def test_time_left_of_an_update_that_is_slower_than_those_before():
    training = Training("", start=0, total=3, now=0.0)
    training.record({"step": 2}, 20.0, 3)
    training.work(Work(UPDATE, 1, 8, share=0.05), 20.0, 21.0)
    assert training.seconds_left(21.0) == 9  # by the mean: a twentieth says little yet
    training.work(Work(UPDATE, 4, 8, share=0.5), 20.0, 60.0)
    assert training.seconds_left(60.0) == 40  # by its own pace
    training.work(Work(UPDATE, 8, 8, share=1.0), 20.0, 100.0)
    assert training.left(100.0) == "about 0:01 left"  # the optimizer's step is still to come
    training.record({"step": 3}, 101.0, 3)
    assert training.left(101.0) == ""


def test_the_next_rollout_is_waited_for_beside_the_update_on_it():
    """A rollout takes 20 s and serves two updates of 5 s."""
    training = Training("", start=0, total=4, now=0.0, updates_per_rollout=2)
    for step, now in ((1, 25.0), (2, 30.0)):
        training.record({"step": step, "time/update": 5.0}, now, 4)
    training.work(Work(SAMPLING, 0, 8, share=0.1), 30.0, 34.0)
    assert [training.seconds_left(now) for now in (34.0, 70.0)] == [26.0, 10.0]  # two updates at least


def test_the_first_rollout_says_what_is_known_of_it(tmp_path, clock):
    callback, shown, _ = started(tmp_path, clock, terminal=False, config=ON_POLICY, steps=17)
    callback.on_evaluation("before", 0, SUMMARY)
    shown.activity.advance("collecting examples", figures={"policy/learning_rate": 5e-5})
    shown.activity.advance(SAMPLING, 0, 16, detail="reading prompts", share=0.0, tokens=1000)
    shown.activity.expect(0.2, passes=1)
    shown.activity.begin()
    clock.now = 2
    shown.activity.inside("layer 1 of 2", 0.5)  # 100 of 200 prompt tokens, which are a fifth of the work
    assert "lr 5.0e-05  50 tokens/s  0:02 elapsed, more than 0:58 left; responses sampled 0/16" in shown.status()
    clock.now = 6
    figures = {"throughput/sampled_tokens_per_second": 80.0}
    shown.activity.advance(SAMPLING, 4, 16, detail="token 9 of at most 36", share=0.25, figures=figures)
    # 24 s of sampling for each of the three rollouts; what the updates take is not known yet.
    status = "step 0/17  start model: reward 0.100  KL 0.000  lr 5.0e-05  80 tokens/s sampled  0:06 elapsed, "
    assert shown.status().startswith(f"{status}more than 1:06 left; responses sampled 4/16")
    clock.now = 30
    figures |= {"reward/score_mean": 0.3, "kl/per_response_k1": 0.01}
    shown.activity.advance(UPDATE, 0, 8, figures=figures)
    assert shown.status().startswith("step 0/17  reward 0.300  KL 0.010  lr 5.0e-05  80 tokens/s sampled  ")
    clock.now = 34
    shown.activity.advance(UPDATE, 2, 8, figures=figures, tokens=480)
    assert shown.status().startswith("step 0/17  reward 0.300  KL 0.010  lr 5.0e-05  30 tokens/s  ")


def test_speed_inside_the_first_micro_batch(tmp_path, clock):
    """A tenth of the update's 2,000 tokens in 4 s, before a micro-batch is done."""
    callback, shown, _ = started(tmp_path, clock, terminal=False)
    callback.on_evaluation("before", 0, SUMMARY)
    shown.activity.advance(UPDATE, 0, 32, tokens=2000)
    shown.activity.expect(0.4, passes=4)
    shown.activity.begin()
    clock.now = 4
    shown.activity.inside("layer 3 of 3", 1.0)
    assert "50 tokens/s  0:04 elapsed, about 26:36 left" in shown.status()
    assert "rows through the update 0/32 (layer 3 of 3)" in shown.status()


def test_a_switched_off_display_prints_nothing(clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    with Display(console, enabled=False, clock=clock) as shown:
        shown.activity.advance("loading the models")
        assert not shown.activity.due
    assert console.file.getvalue() == ""

"""What a callable remembers: one call a rollout, untouched by evaluations, in checkpoints, whole after a failure."""

from __future__ import annotations

import functools
import json
import threading
from dataclasses import replace

import pytest
import torch

from align.config import FunctionSource, Normalise, Returns, RewardConfig, SparseCredit
from align.config.methods import GRPOConfig
from align.errors import InputError, RunError
from align.loop.checkpoint import read_state
from align.metrics import repeatable
from align.rewards import reward_input
from align.rewards.combined import CompositeScorer
from align.rewards.function import FunctionScorer
from align.run.runner import run
from align.types import TrainerState
from tests import tiny
from tests.algorithms import runs


class Counting:
    """Its scores rise with every call that it remembers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, responses):
        self.calls += 1
        return [self.calls + sum(c in "aeiou" for c in text) for text in responses]


class Stated(Counting):
    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class StatedOtherwise(Counting):
    def state(self):
        return {"calls": self.calls}

    def load_state(self, state):
        self.calls = state["calls"]


def scorer(function, said=None) -> FunctionScorer:
    return FunctionScorer(function, Returns.response, "f.py:f", say=(said if said is not None else []).append)


@pytest.fixture(scope="module")
def apart():
    starts = tiny.prompts(2)
    return reward_input(tiny.rollout_of(starts, [tiny.said(t) for t in ("b", "bc")]), starts, tiny.chat())


@pytest.fixture(scope="module")
def trained(apart):
    return replace(apart, training=TrainerState(0, 4))


class Empty(Counting):
    """An object that counts as false."""

    def __len__(self):
        return 0


FORMS = {"empty": Empty, "unstated": Counting, "stated": Stated, "otherwise": StatedOtherwise}
FORMS |= {"method": lambda: Stated().__call__, "partial": lambda: functools.partial(Stated())}


@pytest.mark.parametrize("form", FORMS)
def test_only_a_trainings_rollouts_are_remembered(apart, trained, form):
    source = scorer(FORMS[form]())
    found = [source.score(batch).total[0].item() for batch in (apart, trained, apart, apart, trained, apart)]
    assert found == [1, 1, 1, 1, 2, 1]


def test_an_object_that_cannot_be_copied_is_announced(apart, trained):
    class Locked(Counting):
        lock = threading.Lock()

        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    said = []
    source = scorer(Locked(), said)
    (line,) = said
    assert line.startswith("f.py:f cannot be copied (TypeError): evaluations call the object that training calls")
    assert [source.score(batch).total[0].item() for batch in (apart, trained)] == [1, 2]


def test_the_weights_of_a_judge_are_not_copied(apart):
    class Judged(Counting):
        def __init__(self):
            super().__init__()
            self.judge = torch.nn.Linear(2, 2)

        def __call__(self, responses):
            seen.append(self.judge)
            return super().__call__(responses)

    seen = []
    judged = Judged()
    scorer(judged).score(apart)
    assert seen == [judged.judge] and judged.calls == 0

    class Module(torch.nn.Module):
        def forward(self, responses):
            return torch.zeros(len(responses))

    assert scorer(Module()).score(apart).total.tolist() == [0, 0] and scorer(Module()).state() == {}


@pytest.mark.parametrize("state", [{"t": torch.zeros(1)}, {"t": (1, 2)}, {1: 2}, {"s": {1}}])
def test_a_state_that_json_changes_is_refused(state):
    made = Stated()
    made.state_dict = lambda: state
    with pytest.raises(
        InputError, match=r"^reward\.source\.path: given 'f\.py:f'; allowed: an object whose state JSON"
    ):
        scorer(made)


def test_a_failing_call_leaves_the_state_as_it_was_and_is_not_repeated(trained):
    calls = []

    class Fails(Stated):
        def __call__(self, responses):
            calls.append(len(responses))
            super().__call__(responses)
            return [0.0, "x"] if self.calls < 3 else [0.0, 1 / 0]

    made = Fails()
    source = scorer(made)
    with pytest.raises(RunError, match="returned 'x', a string at sample 1"):
        source.score(trained)
    assert made.calls == 0 and source.state() == {"state": {"calls": 0}}
    made.calls = 2
    with pytest.raises(RunError, match=r"raised ZeroDivisionError: division by zero, at samples 0 to 1 together$"):
        source.score(trained)
    assert made.calls == 2 and calls == [2, 2]


# --- checkpoints -----------------------------------------------------------------------------------------------------


def loop_with(folder, function, said=None):
    cfg = tiny.config(max_steps=6, checkpoint_every=3, method={"epochs": 1, "critic_learning_rate": 3e-3})
    return tiny.loop(folder, cfg, source=scorer(function, said))


@pytest.mark.parametrize(("made", "told"), [(Stated, False), (Counting, True)])
def test_a_resumed_run_goes_on_with_the_state_or_says_that_it_does_not(tmp_path, made, told):
    straight, expected = loop_with(tmp_path / "straight", made())
    straight.train()  # two updates a rollout: the checkpoint of step 3 lies inside the second
    said = []
    again, after = loop_with(tmp_path / "again", made(), said)
    again.resume(tmp_path / "straight" / "ppo_step_3")
    again.train()
    same = [repeatable(r) for r in after.records] == [repeatable(r) for r in expected.records[3:]]
    assert same is not told and len(after.records) == 3
    line = "the state of f.py:f starts anew: it has no state_dict/load_state_dict or state/load_state"
    assert [text.startswith(line) for text in said] == [True] * told
    assert straight.run.source.state() == ({} if told else {"state": {"calls": 3}})


def test_parts_of_a_sum_keep_their_states(trained):
    parts = {"a": scorer(Stated()), "b": scorer(Counting()), "c": scorer(StatedOtherwise())}
    source = CompositeScorer(parts, {})
    source.score(trained)
    assert source.state() == {"a": {"state": {"calls": 1}}, "c": {"state": {"calls": 1}}}
    again = CompositeScorer({"a": scorer(Stated()), "b": scorer(Counting()), "c": scorer(StatedOtherwise())}, {})
    again.load_state(json.loads(json.dumps(source.state())))
    assert again.score(trained).total[0].item() == 2 + 1 + 2


def test_a_checkpoint_without_the_state_is_said():
    said = []
    scorer(Stated(), said).load_state({})
    assert said == ["the state of f.py:f starts anew: the checkpoint has none"]


FILE = """
import json, pathlib

class Reward:
    def __init__(self):
        self.steps = []
    def __call__(self, responses, trainer_state):
        self.steps.append(trainer_state.global_step)
        with open({log!r}, "a") as log:
            print(json.dumps([len(self.steps), trainer_state.global_step]), file=log)
        return [len(self.steps) + sum(c in "aeiou" for c in text) for text in responses]
    def state_dict(self):
        return {{"steps": self.steps}}
    def load_state_dict(self, state):
        self.steps = state["steps"]
"""


def test_in_a_whole_run_a_rollout_is_one_call_whatever_else_is_scored(tmp_path):
    """Scales, evaluations before, during and after, and probes each begin where the training began."""
    file = tmp_path / "own.py"
    file.write_text(FILE.format(log=str(tmp_path / "log")))
    source = FunctionSource(path=f"{file}:Reward", normalise=Normalise.reference, reference_responses=8)
    method = GRPOConfig(group_size=2, minibatch_size=4)
    cfg = runs.config(method, runs.write_data(tmp_path / "data"), max_steps=4)
    cfg = replace(cfg, reward=RewardConfig(source=source, credit=SparseCredit()))
    cfg = replace(cfg, evaluation=replace(cfg.evaluation, every_steps=1, num_probes=2))
    run(cfg, tmp_path / "run", say=lambda line: None)
    saved = read_state(tmp_path / "run" / "grpo_step_4")["method"]["source"]["source"]
    assert saved["state"] == {"steps": [0, 2]}  # two updates a rollout
    calls = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [call for call in calls if call[1] < 4] == [[1, 0], [2, 2]]
    assert len(calls) > 8 and all(call == [1, 4] for call in calls if call[1] == 4)

"""What is heard from inside real trainings and evaluations: true counts, and the same records as without a listener."""

import dataclasses
import itertools
import math

import pytest

from align.activity import Activity
from align.algorithms.registry import algorithm_class
from align.config.methods import DPOConfig, GRPOConfig, PPOConfig
from align.config.trl import TRLDPOConfig
from align.data.examples import prompts_of
from align.data.preferences import load_preferences
from align.engine.layers import LayerReports
from align.loop.method import method_of
from align.metrics import REPEATABLE
from tests import tiny
from tests.algorithms import runs
from tests.contexts import loop_of

METHODS = {
    "dpo": DPOConfig(batch_size=16, micro_batch_tokens=64),
    "ppo": PPOConfig(minibatch_size=8, micro_batch_tokens=64),
    "grpo": GRPOConfig(minibatch_size=8, group_size=4, micro_batch_tokens=64),
}


def trained(path, method, activity):
    """The records of two updates."""
    config = runs.config(method, runs.write_data(path / "data"), rollout={"decode_batch_size": 4})
    pairs = load_preferences(config.data, tiny.chat()).train
    run, seen = runs.context(path, config, pairs=pairs, prompts=prompts_of(pairs))
    loop_of(dataclasses.replace(run, activity=activity)).train()
    return seen.records


def listening():
    """An activity whose clock goes on by a second at each look, so that no report is left out."""
    heard = []
    return Activity(heard.append, itertools.count().__next__), heard


def of(heard, what):
    """The reports of one kind in stretches, each from one start to the next."""
    found = []
    for work in (work for work in heard if work.what == what):
        if not found or work.share < found[-1][-1].share:
            found.append([])
        found[-1].append(work)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_an_update_are_counted_and_no_record_changes(tmp_path, name):
    activity, heard = listening()
    records = trained(tmp_path / "heard", METHODS[name], activity)
    silent = trained(tmp_path / "silent", METHODS[name], Activity())
    for a, b in zip(records, silent, strict=True):
        assert list(a) == list(b)
        assert {k: v for k, v in a.items() if not k.startswith(REPEATABLE)} == {
            k: v for k, v in b.items() if not k.startswith(REPEATABLE)
        }
    updates = of(heard, "rows through the update")
    assert len(updates) == len(records) == 2
    for update, record in zip(updates, records, strict=True):
        counts = [work.done for work in update if not work.detail]
        rows = METHODS[name].batch_size if name == "dpo" else METHODS[name].minibatch_size
        assert counts[0] == 0 and counts[-1] == rows == update[-1].total
        assert len(counts) > 2 and all(a < b for a, b in itertools.pairwise(counts))
        last = update[-1].figures
        for metric in ("dpo/loss",) if name == "dpo" else ("policy/loss",):
            assert last[metric] == record[metric]  # of all rows: the update's own
        assert last["policy/learning_rate"] == record["policy/learning_rate"]
        assert last["throughput/policy_tokens_per_second"] > 0


def test_a_loss_is_known_before_the_first_micro_batch(tmp_path):
    activity, heard = listening()
    records = trained(tmp_path, METHODS["dpo"], activity)
    first, second = (update[0] for update in of(heard, "rows through the update"))
    assert first.done == 0 and first.figures["dpo/loss"] == pytest.approx(math.log(2))  # the policy is the reference
    assert first.tokens == records[0]["tokens/policy"]
    assert "dpo/loss" not in second.figures


def test_the_share_of_an_update_rises_inside_a_micro_batch(tmp_path):
    """Reference, policy, and backward as long as two of them: all four passes of the layers end at the next count."""
    heard = []
    activity = Activity(heard.append, itertools.count(step=2).__next__)
    method = dataclasses.replace(METHODS["dpo"], micro_batch_tokens=10_000)
    config = runs.config(method, runs.write_data(tmp_path / "data"), max_steps=1)
    pairs = load_preferences(config.data, tiny.chat()).train
    run, _ = runs.context(tmp_path, config, pairs=pairs)
    LayerReports(activity).watch([run.modules["policy"], run.reference])
    loop_of(dataclasses.replace(run, activity=activity)).train()
    (update,) = of(heard, "rows through the update")
    passes = [(work.detail, work.share) for work in update if work.detail]
    assert passes == [
        ("layer 1 of 2", 1 / 8),
        ("layer 2 of 2", 1 / 4),
        ("layer 1 of 2", 3 / 8),
        ("layer 2 of 2", 1 / 2),
        ("loss", 1 / 2),
        ("backward", 1 / 2),
        ("layer 2 of 2, backward", 1 / 2),
        ("layer 1 of 2, backward", 3 / 4),
    ]
    assert update[-1].share == 1


def test_sampling_counts_ended_responses_and_tokens(tmp_path):
    activity, heard = listening()
    records = trained(tmp_path, METHODS["grpo"], activity)
    sampled, _ = of(heard, "responses sampled")  # one rollout for each update
    assert {work.total for work in sampled} == {8}
    assert [work.share for work in sampled] == sorted(work.share for work in sampled)
    tokens = [work.detail for work in sampled if work.detail.startswith("token ")]
    assert "token 1 of at most 8" in tokens and len(set(tokens)) > 3
    assert sum(work.detail == "reading prompts" for work in sampled) == 2  # two blocks of four
    assert len(records) == 2
    for what in ("rewards", "log-probabilities read"):
        assert of(heard, what), what


def test_trl_s_micro_batches_are_counted(tmp_path):
    activity, heard = listening()
    method = TRLDPOConfig(batch_size=8, micro_batch_size=2)
    config = runs.config(method, runs.write_data(tmp_path / "data"), max_steps=2)
    pairs = load_preferences(config.data, tiny.chat()).train
    run, seen = runs.context(tmp_path, config, pairs=pairs)
    run = dataclasses.replace(run, activity=activity)
    method_of(run, algorithm_class("trl_dpo")(run)).train()
    assert len(seen.records) == 2
    updates = of(heard, "micro-batches through TRL's update")
    counts = [(i, 4) for i in range(4) for _ in range(2)]  # at the start of a micro-batch, and where its loss is known
    assert [[(work.done, work.total) for work in update] for update in updates] == [counts] * 2
    assert all(work.figures["policy/learning_rate"] > 0 for update in updates for work in update)
    assert updates[0][1].figures["dpo/loss"] == pytest.approx(math.log(2))

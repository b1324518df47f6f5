"""What the loop asks of an algorithm: one that knows nothing but the protocol is all that it needs."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from align.algorithms.registry import ALGORITHMS, algorithm_class
from align.config.methods import SFTConfig
from align.errors import InputError
from align.loop.checkpoint import FORMAT, read_state
from align.loop.loop import Loop
from align.loop.protocol import Algorithm, Loss, Progress, Stop, Trained
from align.metrics import Tally, repeatable
from align.types import Experience
from tests import tiny
from tests.contexts import run_context

HOOKS = {"collect", "minibatch", "used_up", "state", "load_state"}
FACTS = {"trained", "temperature", "reads_reference"}
ROWS = [[4, 8, 2], [5, 6, 2], [9, 2], [7, 7, 7, 2]]


class Toy:
    """Imitates given responses, two an update, each once; remembers how often it did, and ends on its own."""

    temperature, reads_reference = 1.0, True

    def __init__(self) -> None:
        self.trained = {"policy": Trained(self.loss, 1e-2)}
        self.rounds = 0

    def collect(self, at: Progress) -> Experience | Stop:
        rollout = tiny.rollout_of(tiny.prompts(4), ROWS[at.rollout % 3 :] + ROWS[: at.rollout % 3])
        columns = {"weight": torch.ones(4) + self.rounds}
        return Stop("enough") if at.rollout == 4 else Experience(rollout, columns, {"reward/part_rounds": self.rounds})

    def minibatch(self, at: Progress, n: int) -> torch.Tensor:
        return torch.arange(2) + 2 * at.update

    def used_up(self, at: Progress, n: int, metrics: Mapping[str, float] | None) -> bool:
        self.rounds += at.update == 2
        return at.update == 2

    def loss(self, batch, out) -> Loss:
        tally, gap = Tally(), (out.logprobs - batch.columns["ref_logprobs"]) * batch.mask
        tally.observe("reward/part_gap", gap.detach().sum(1).tolist())
        loss = -(out.logprobs * batch.mask * batch.columns["weight"].unsqueeze(1)).sum()
        return Loss(loss / batch.size.tokens, tally)

    def state(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.rounds = state["rounds"]


def start(folder: Path) -> tuple[Loop, tiny.Recorder]:
    config, seen = tiny.config(max_steps=50), tiny.Recorder()
    config.checkpoint.keep = 9
    config.method = SFTConfig(micro_batch_tokens=40)
    source = tiny.GoldScorer(tiny.VowelWorld())
    return Loop(run_context(folder, config, tiny.chat(), source=source, callbacks=[seen]), Toy()), seen


@pytest.mark.parametrize("stop", [3, 4], ids=["in a rollout", "between two"])
def test_a_toy_trains_records_and_resumes_bit_for_bit(tmp_path, stop):
    straight, records = start(tmp_path / "straight")
    for _ in range(stop):
        assert straight.advance()
    straight.save_checkpoint()
    straight.train()
    assert straight.stopped == "enough" and straight.step == 8
    assert [(r["rollout"], r["update"]) for r in records.records] == [(i // 2, i % 2 + 1) for i in range(8)]
    assert records.column("reward/part_rounds") == [i // 2 for i in range(8)]
    gaps = records.column("reward/part_gap")
    assert gaps[0] == pytest.approx(0, abs=1e-5) and gaps[-1] > 1  # against the reference, which stays
    again, resumed = start(tmp_path / "again")
    assert again.advance()  # none of which is taken for what the checkpoint holds
    again.resume(tmp_path / "straight" / f"sft_step_{stop}")
    assert (again.examples is None) == (stop == 4) and again.algorithm.rounds == stop // 2
    again.train()
    assert [repeatable(r) for r in resumed.records[1:]] == [repeatable(r) for r in records.records[stop:]]
    assert tiny.same(*(tiny.weights(made.run.roles.policy) for made in (straight, again)))


def test_an_update_reads_the_rows_of_its_minibatch(tmp_path):
    made, _ = start(tmp_path)
    read, loss = [], made.algorithm.loss

    def reading(batch, out) -> Loss:
        read.extend(ids[:n] for ids, n in zip(batch.sequences.response_ids.tolist(), batch.mask.sum(1), strict=True))
        return loss(batch, out)

    made.algorithm.trained["policy"] = Trained(reading, 1e-2)
    assert made.advance() and made.advance()
    assert [sorted(read[:2]), sorted(read[2:])] == [sorted(ROWS[:2]), sorted(ROWS[2:])]


def names(of: type) -> set[str]:
    return {name for name in {*vars(of), *of.__annotations__} if not name.startswith("_")}


def test_a_method_is_known_by_these_names_alone(tmp_path):
    """The loop sees an algorithm that has nothing else; those that are there have every one of them."""
    assert names(Algorithm) == HOOKS | FACTS
    for name in ("ppo", "grpo", "dpo", "sft"):
        assert name in ALGORITHMS and set(dir(algorithm_class(name))) >= HOOKS
    inner, asked = Toy(), set()

    class Seen:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(inner, name)

    made = Loop(start(tmp_path)[0].run, Seen())
    made.train()
    made.resume(tmp_path / "sft_step_8")
    assert asked == HOOKS | FACTS


class Mark:
    """What a weak reference can be made to."""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_policys_graph_is_gone_before_the_critic_reads(tmp_path, monkeypatch, checkpointing):
    """Else two of them are in memory, or what is left of one lies between the other's tensors."""
    config = tiny.config(method={"micro_batch_tokens": 60})
    config.model.gradient_checkpointing = checkpointing
    made, _ = tiny.loop(tmp_path, config)
    policy, value_head = type(made.run.roles.policy), type(made.run.roles.critic)
    forward, values, marks, seen = policy.forward, value_head.forward, [], []

    def marked(self, *args):
        found = forward(self, *args)
        if found.logprobs.requires_grad:
            mark = Mark()
            found.logprobs.grad_fn.metadata["mark"] = mark  # lives as long as the graph's node
            marks.append(weakref.ref(mark))
            assert marks[-1]() is not None
        return found

    def reading(self, *args):
        found = values(self, *args)
        if found.requires_grad:
            seen.append((len(marks), [mark() for mark in marks]))
        return found

    monkeypatch.setattr(policy, "forward", marked)
    monkeypatch.setattr(value_head, "forward", reading)
    made.advance()
    assert len(seen) > 1 and seen == [(i + 1, [None] * (i + 1)) for i in range(len(seen))]


@pytest.mark.parametrize("stop", [3, 4], ids=["in a rollout", "between two"])
def test_a_checkpoint_of_format_1_goes_on(tmp_path, stop):
    """It kept the rollout's metrics with the method, and counted a rollout up when the next one was read."""
    config = tiny.config(max_steps=6, checkpoint_every=stop)
    config.checkpoint.keep = 9
    straight, records = tiny.loop(tmp_path / "straight", config)
    straight.train()
    path = tmp_path / "straight" / f"ppo_step_{stop}" / "state.json"
    state = json.loads(path.read_text())
    examples = state.pop("examples")
    assert state.pop("format") == FORMAT and bool(examples) == (stop == 3)
    state["method"]["rollout_metrics"] = examples or {"reward/score_mean": 7.0}
    if stop == 4:
        assert (state["progress"]["rollout"], state["progress"]["update"]) == (2, 0)
        state["progress"] |= {"rollout": 1, "update": 2}
    path.write_text(json.dumps(state))
    again, resumed = tiny.loop(tmp_path / "again", config)
    again.resume(path.parent)
    again.train()
    assert [repeatable(r) for r in resumed.records] == [repeatable(r) for r in records.records[stop:]]
    for name, module in straight.run.modules.items():
        assert tiny.same(tiny.weights(module), tiny.weights(again.run.modules[name]))


def test_a_checkpoint_of_format_1_goes_on_with_its_pairs(tmp_path):
    """Of a method without rollouts, where it had come to."""
    path = tmp_path / "state.json"
    progress = {"step": 3, "rollout": 0, "update": 3}
    path.write_text(json.dumps({"progress": progress, "method": {}}))
    assert read_state(tmp_path) == {"progress": progress, "method": {}, "examples": {}}


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(InputError, match=f"resume: given .* of format {FORMAT + 1}.*allowed: format {FORMAT} or older"):
        read_state(tmp_path)

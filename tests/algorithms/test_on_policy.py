"""What a rollout is made of, how its updates share it, and what is not finite."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.config import Truncated
from align.errors import RunError
from align.files import read_lines
from align.loop.protocol import Progress
from align.rewards import Source
from align.types import Size
from tests import tiny
from tests.tiny import same, weights


def test_prompts_come_without_replacement_in_an_order_of_the_seed(tmp_path):
    def served_by(seed: int, rollouts: int) -> list[int]:
        made, _ = tiny.loop(tmp_path, tiny.config(seed=seed, rollout={"max_new_tokens": 1}), start=tiny.prompts(10))
        found = [made.algorithm.collect(Progress(rollout=k)).rollout for k in range(rollouts)]
        return [number for rollout in found for number in rollout.prompt_index.tolist()]

    served = served_by(0, 10)  # 160 = 16 passes
    passes = [served[i : i + 10] for i in range(0, 160, 10)]
    assert all(sorted(p) == [q.id for q in tiny.prompts(10)] for p in passes)
    assert len({tuple(p) for p in passes}) == 16
    assert served_by(0, 1) == served[:16] != served_by(1, 1)


def test_an_epoch_uses_every_response_once(tmp_path):
    made, _ = tiny.loop(tmp_path, tiny.config(method={"epochs": 2, "minibatch_size": 4}))
    orders = [made.algorithm.minibatch(Progress(update=update), 16).tolist() for update in range(8)]
    for epoch in (orders[:4], orders[4:]):
        assert sorted(i for order in epoch for i in order) == list(range(16))
    assert orders[:4] != orders[4:]
    assert orders[:4] != [made.algorithm.minibatch(Progress(rollout=1, update=k), 16).tolist() for k in range(4)]


def test_every_rollout_draws_noise_of_its_own(tmp_path):
    made, _ = tiny.loop(tmp_path, tiny.config(), start=tiny.prompts(1))
    drawn = [made.algorithm.collect(Progress(rollout=k)).rollout.response_ids.tolist() for k in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


# --- what is not finite -----------------------------------------------------------------------------------------------


class Faulty(Source):
    """The gold reward, with a NaN in one row of the given calls."""

    def __init__(self, calls, value=float("nan")) -> None:
        self.calls, self.value, self.count = calls, value, 0
        self.inner = tiny.GoldScorer(tiny.VowelWorld())

    def score(self, batch, needs=frozenset()):
        out = self.inner.score(batch, needs)
        if self.count in self.calls:
            out = dataclasses.replace(out, total=out.total.index_fill(0, torch.tensor([5]), self.value))
        self.count += 1
        return out


def bad_lines(path):
    return list(read_lines(path / "bad_steps.jsonl"))


@pytest.mark.parametrize("truncated", Truncated)
def test_a_reward_that_is_not_finite_is_not_learned_from(tmp_path, truncated):
    """'NaN or inf in a reward: the step is not applied, the event is logged with the offending samples saved'."""
    cfg = tiny.config(max_steps=4, rollout={"truncated": truncated})
    made, seen = tiny.loop(tmp_path, cfg, source=Faulty({1}))
    made.train()
    assert [r["rollout"] for r in seen.records] == [0, 0, 2, 2]
    assert seen.column("event/bad_steps") == [0, 0, 1, 1]
    (event,) = bad_lines(tmp_path)
    assert event["step"] == 2 and "reward" in event["what"] and len(event["samples"]) == 1
    assert event["samples"][0]["score"] is None and event["samples"][0]["response"]
    assert all(torch.isfinite(p).all() for p in weights(made.run.roles.policy))


def test_too_many_bad_rewards_stop_the_run(tmp_path):
    """'The run stops after a configured number.'"""
    made, seen = tiny.loop(tmp_path, tiny.config(method={"max_bad_steps": 2}), source=Faulty(range(99), float("inf")))
    before = weights(made.run.roles.policy)
    with pytest.raises(RunError, match="max_bad_steps"):
        made.train()
    assert len(bad_lines(tmp_path)) == 3 and not seen.records
    assert same(before, weights(made.run.roles.policy))


@pytest.mark.parametrize("role", ["policy", "critic"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_not_applied(tmp_path, role, where):
    """'NaN or inf in a loss or gradient': neither role moves, the moments stay, the samples are saved."""
    made, seen = tiny.loop(tmp_path, tiny.config(method={"max_bad_steps": 2, "epochs": 9}, max_steps=9))
    made.advance()
    modules = made.run.modules
    parameter = list(modules[role].trained_parameters().values())[-1]
    if where == "gradient":
        parameter.register_hook(lambda grad: grad * float("inf"))
    else:
        column = "advantages" if role == "policy" else "returns"
        made.examples.columns[column][:, 0] = float("nan")
    before = [weights(module) for module in modules.values()]
    moments = {k: v.clone() for k, v in made.updates.optimization.tensors().items()}
    for _ in range(2):
        assert made.advance()
    with pytest.raises(RunError, match=r"loss or gradient.*max_bad_steps"):
        made.advance()
    assert all(same(was, weights(module)) for was, module in zip(before, modules.values(), strict=True))
    assert all(torch.equal(v, moments[k]) for k, v in made.updates.optimization.tensors().items())
    assert made.progress.step == 1 and len(seen.records) == 1
    assert made.progress.update == 3  # each of them on the next minibatch
    events = bad_lines(tmp_path)
    assert len(events) == 3 and all(e["step"] == 1 for e in events)
    assert len(events[0]["samples"]) == 8 and set(events[0]["samples"][0]) == {"prompt_id", "response"}


def test_a_loss_that_is_not_finite_is_an_event_also_after_a_gradient_scalers_overflow(tmp_path):
    """Else a minibatch whose loss is NaN in fp16 would be tried, and excused, for ever."""
    made, seen = tiny.loop(tmp_path, tiny.config())
    made.examples = made.algorithm.collect(made.progress)
    made.examples.columns["advantages"].fill_(float("nan"))
    made.updates.optimization.overflows = 3
    assert made.advance() and not seen.records
    assert made.progress.bad_steps == 1 and len(bad_lines(tmp_path)) == 1


def grad_of(made, experience, learned: list[int]) -> list[torch.Tensor]:
    """Gradients of one update's losses, all rows in one batch, the columns of a masked rollout as they are."""
    index = torch.tensor(learned)
    batch = experience.rows(index, Size(len(index), int(experience.response_tokens[index].sum())))
    policy = made.run.roles.policy
    policy.zero_grad()
    loss, _ = made.algorithm.trained["policy"].loss(batch, policy(batch.sequences, 1.0))
    loss.backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def test_a_masked_response_is_scored_and_not_learned_from(tmp_path):
    """The gradient is that of the ended responses alone, and the whole reward of cut ones stays in the records."""
    cfg = tiny.config(rollout={"truncated": Truncated.mask}, method={"whiten_advantages": False})
    made, seen = tiny.loop(tmp_path, cfg)
    experience = made.algorithm.collect(made.progress)
    ended = experience.rollout.ended
    assert 0 < int(ended.sum()) < len(ended)
    assert experience.response_tokens.tolist() == (experience.rollout.lengths * ended).tolist()
    assert experience.metrics["reward/missing_eos_rate"] == 0
    every, kept = list(range(len(ended))), ended.nonzero().squeeze(1).tolist()
    for both, alone in zip(grad_of(made, experience, every), grad_of(made, experience, kept), strict=True):
        assert torch.allclose(both, alone, atol=1e-6)
    paid = made.config.rollout.truncation_score
    assert paid is None and any(not s["ended"] and sum(s["token_rewards"]) == s["score"] for s in seen.rollouts[0][1])


def test_whitening_is_over_what_is_learned_from(tmp_path):
    made, _ = tiny.loop(tmp_path, tiny.config(rollout={"truncated": Truncated.mask}))
    experience = made.algorithm.collect(made.progress)
    mask = experience.rollout.response_mask * experience.columns["learned"].unsqueeze(1).long()
    chosen = experience.columns["advantages"][mask == 1]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-5) and float(chosen.var(correction=0)) == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize("method", [{}, {"target_kl": 0.1}])
def test_a_rollout_of_cut_responses_alone_moves_nothing(tmp_path, method):
    rollout = {"truncated": Truncated.mask, "max_new_tokens": 1, "batch_size": 8}
    made, seen = tiny.loop(tmp_path, tiny.config(max_steps=1, rollout=rollout, method={"minibatch_size": 8, **method}))
    before = weights(made.run.roles.policy)
    experience = made.algorithm.collect(made.progress)
    if bool(experience.rollout.ended.any()):
        pytest.skip("a response of one token ended by itself")
    made.train()
    assert same(before, weights(made.run.roles.policy))
    assert "policy/approx_kl" not in seen.records[0] and seen.column("response/eos_rate") == [0.0]

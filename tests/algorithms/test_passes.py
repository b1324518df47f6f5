"""Passes before a rollout's only update that it goes on from: the same update, read once less."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch

from align.algorithms import passes
from align.algorithms.passes import padded_tokens
from align.config import AdapterConfig, KLController
from align.config.methods import GroupKLConfig, GRPOConfig, KLConfig, KLPlace
from align.engine.fast.limits import Limits
from align.engine.fast.policy import FastPolicy
from align.errors import RunError
from align.functional.batching import token_batches
from align.metrics import repeatable
from tests import tiny
from tests.algorithms.test_grpo import trainer as grpo
from tests.tiny import nudge, same, weights

LORA = AdapterConfig(name="lora", r=4, alpha=8)


class Mark:
    """What a weak reference can be made to."""


def ppo(path, *, adapter=None, checkpointing=False, dtype=torch.float32, **method):
    """Sixteen responses a rollout, all of them in one update unless told."""
    settings = {"minibatch_size": 16, "learning_rate": 1e-2, "kl": KLConfig(coef=0.5)} | method
    cfg = tiny.config(method=settings, adapter=adapter, max_steps=4)
    cfg.model.gradient_checkpointing = checkpointing
    made, _ = tiny.ppo(path, cfg, dtype=dtype)
    for role in (made.run.roles.policy, made.critic):
        nudge(role)  # KL and values off 0
    return made


def holding(made, most: int):
    """The trainer with so many passes held, whatever there is room for."""
    made.may_hold = lambda rollout, passes=1: passes <= most
    return made


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"adapter": LORA}, {"checkpointing": True}, {"adapter": LORA, "checkpointing": True},
     {"micro_batch_tokens": 40}, {"critic_warmup_steps": 2}],
    ids=lambda options: "-".join(options) or "plain",
)  # fmt: skip
def test_the_update_is_the_one_that_reads_for_itself(tmp_path, options, most):
    """Three rollouts give the same figures and weights, with several parts of a pass, too."""
    held, plain = holding(ppo(tmp_path / "a", **options), most), holding(ppo(tmp_path / "b", **options), 0)
    for step in range(3):
        found, expected = held.update(), plain.update()
        assert set(found) == set(expected)
        assert abs(expected["kl/per_response_k1"]) > 1e-3 and abs(expected["value/mean"]) > 1e-3
        assert found["policy/grad_norm"] > 1e-3 or step < options.get("critic_warmup_steps", 0)
        gaps = found.pop("policy/sampling_gap"), expected.pop("policy/sampling_gap")
        assert all(gap < 1e-5 for gap in gaps)
        for name, value in repeatable(expected).items():
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for role in ("policy", "critic"):
        for a, b in zip(*(weights(getattr(made.run.roles, role)) for made in (held, plain)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shared_from", [1, 1000])
def test_a_groups_penalty_in_the_reward_reads_the_policy_once(tmp_path, shared_from):
    """GRPO with the KL in the reward, prompts read once for a group and not."""
    kl = GroupKLConfig(coef=0.5, place=KLPlace.reward)
    method = GRPOConfig(group_size=4, minibatch_size=8, learning_rate=1e-2, kl=kl, missing_eos_penalty=None)
    held, plain = (holding(grpo(tmp_path / str(n), method, batch_size=8), n) for n in (1, 0))
    for made in (held, plain):
        for role in (made.run.roles.policy, made.run.roles.reference):
            role.limits = Limits(shared_from=shared_from)
    for _ in range(3):
        found, expected = held.update(), plain.update()
        for name, value in repeatable(expected).items():
            if name != "policy/sampling_gap":
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for a, b in zip(*(weights(made.run.roles.policy) for made in (held, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_in_bf16_the_update_is_the_same_within_its_rounding(tmp_path):
    held, plain = (holding(ppo(tmp_path / str(n), dtype=torch.bfloat16, learning_rate=1e-4), n) for n in (2, 0))
    for _ in range(3):
        found, expected = held.update(), plain.update()
        assert found["policy/ratio_mean"] == 1 and expected["policy/ratio_mean"] == pytest.approx(1, abs=2e-2)
        for name in ("policy/grad_norm", "value/grad_norm", "policy/loss", "value/loss", "kl/per_response_k1"):
            assert found[name] == pytest.approx(expected[name], rel=0.03, abs=0.01), name


def test_a_graph_of_several_parts_keeps_the_rounded_weights_once(tmp_path):
    """Which autocast would round anew for each part, and let go at the end of none."""
    made = holding(ppo(tmp_path, dtype=torch.bfloat16, micro_batch_tokens=40), 2)
    nudge(made.critic, 0.01)  # no weight of the policy's
    role = {"policy": made.run.roles.policy.model.model, "critic": made.critic.body}
    rounded = {name: body.layers[1].mlp.up_proj.weight.detach().bfloat16() for name, body in role.items()}
    kept = {name: set() for name in role}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        for name, weight in rounded.items():
            for given in (weight, weight.T):
                if tensor.dtype is given.dtype and torch.equal(tensor, given):
                    kept[name].add(tensor.data_ptr())
        return tensor

    parts = made._micro_batches(made.collect().rollout, made.run.roles.policy)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.collect()
    assert len(parts) > 1
    assert {name: len(places) for name, places in kept.items()} == {"policy": 1, "critic": 1}


@pytest.mark.parametrize("most", [1, 2])
def test_a_held_update_that_is_not_finite_is_resumed_by_one_that_reads_for_itself(tmp_path, most):
    """The graphs are gone then; the rollout is in the checkpoint, and is read in parts again."""
    made = holding(ppo(tmp_path, micro_batch_tokens=40, max_bad_steps=1), most)
    made.update()
    learn_from = made.learn_from
    made.learn_from = lambda *args: spoilt(learn_from(*args))
    with pytest.raises(RunError, match="not finite"):
        made.train()
    assert made.experience is not None
    again = holding(ppo(tmp_path / "again", micro_batch_tokens=40), most)
    again.collect()  # a graph of another rollout, which must not be taken for this one's
    again.resume(tmp_path / "ppo_step_1")
    assert not again.holding.full and again.experience is not None
    read, backward = [], again.backward
    again.backward = lambda part, *args: read.append(len(part.rollout)) or backward(part, *args)
    assert again.update() is not None
    assert again.progress.bad_steps == 3  # two rollouts' updates before, and the one in the checkpoint once more
    assert sum(read[:-1]) == 16 and len(read) > 2
    assert read[-1] == 16  # and the next rollout's is held


def spoilt(experience):
    experience.columns["advantages"][0, 0] = float("nan")
    return experience


@pytest.mark.parametrize(("most", "expected"), [(0, (2, 2)), (1, (1, 2)), (2, (1, 1))])
def test_what_is_held_is_not_read_again(tmp_path, monkeypatch, most, expected):
    """Passes of policy and critic in a step; the first two also compare the policy's with and without gradient."""
    made, read = holding(ppo(tmp_path), most), []
    logits, values = FastPolicy.forward, type(made.critic).forward
    monkeypatch.setattr(FastPolicy, "forward", lambda self, *args: read.append(self) or logits(self, *args))
    monkeypatch.setattr(type(made.critic), "forward", lambda self, *args: read.append(self) or values(self, *args))
    roles = made.run.roles
    for step in range(4):
        read.clear()
        made.update()
        checked = int(bool(most) and step < 2)
        assert (read.count(roles.policy) - checked, read.count(roles.critic)) == expected
        assert read.count(roles.reference) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"epochs": 2}, False), ({"minibatch_size": 8}, False), ({"kl": KLConfig(coef=0.5, budget=9.0)}, True),
     ({"kl": KLConfig(coef=0.5, controller=KLController.adaptive)}, True)],
)  # fmt: skip
def test_only_an_only_update_goes_on_from_them(tmp_path, options, expected):
    made = ppo(tmp_path, **options)
    made.collect()
    assert made.holding.full is expected


def test_graphs_take_no_more_than_a_micro_batch(tmp_path):
    """Tokens of one pass for the policy's, of two for the critic's as well."""
    made = ppo(tmp_path)
    rollout = made.collect().rollout

    def room(tokens: int) -> tuple[bool, bool]:
        made.micro_batch_tokens = tokens
        return made.may_hold(rollout), made.may_hold(rollout, passes=2)

    tokens = padded_tokens(rollout, token_batches(rollout.attention_mask.sum(1), 2**20))
    assert tokens >= int(rollout.attention_mask.sum())
    assert room(2 * tokens) == (True, True)
    assert room(2 * tokens - 1) == (True, False)
    # Fewer tokens at once leave less padding: what counts is what is read.
    assert room(int(rollout.attention_mask.sum()) - 1) == (False, False)


def test_a_held_pass_that_differs_is_noticed(tmp_path, monkeypatch):
    made = holding(ppo(tmp_path), 1)
    before = weights(made.run.roles.policy)
    logprobs, shifts = FastPolicy.response_logprobs, torch.tensor([0.1, -0.1]).repeat(50)  # cancels in the mean
    monkeypatch.setattr(
        FastPolicy, "response_logprobs", lambda self, *args: (out := logprobs(self, *args)) + shifts[: out.shape[1]]
    )
    with pytest.raises(RunError, match="passes with and without gradient"):
        made.update()
    assert same(before, weights(made.run.roles.policy))


def test_the_policys_graph_is_gone_before_the_critic_reads(tmp_path, monkeypatch):
    """Else two of them are in memory, or what is left of one lies between the other's tensors."""
    made, seen = holding(ppo(tmp_path), 1), []
    keep, value_loss = passes.Holding.keep_policy, made._value_loss

    def kept(self, *args):
        found = keep(self, *args)
        mark = Mark()
        self._stats.logprobs.grad_fn.metadata["mark"] = mark  # lives as long as the graph's node
        seen.append(weakref.ref(mark))
        return found

    monkeypatch.setattr(passes.Holding, "keep_policy", kept)
    made._value_loss = lambda *args: seen.append(seen[0]() is None) or value_loss(*args)
    made.update()
    assert seen[1:] == [True]


def test_a_run_that_ends_before_the_update_keeps_no_graph(tmp_path):
    made = holding(ppo(tmp_path, kl=KLConfig(coef=0.5, budget=1e-9)), 2)
    assert made.update() is None and "KL" in made.stopped
    assert made.holding.take_values() is None and made.holding.take_policy() is None


def test_a_held_pass_is_the_updates_time(tmp_path, monkeypatch):
    made, clock = holding(ppo(tmp_path), 2), iter(range(0, 10**6, 1000))
    monkeypatch.setattr(passes, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    metrics = made.update()
    assert 2000 <= metrics["time/update"] < 3000  # two passes, 1000 s each
    assert metrics["time/advantage"] < -1000  # which no real clock said
    tokens = metrics["tokens/policy"]
    assert metrics["throughput/policy_tokens_per_second"] == pytest.approx(tokens / metrics["time/update"])

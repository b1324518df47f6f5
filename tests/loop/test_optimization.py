"""Learning-rate schedules, clipping by role, and moments that come back."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from align.config import LRSchedule, OptimizedConfig
from align.loop.optimization import Optimization, lr_factor
from tests import tiny


def factors(steps: int, **settings) -> list[float]:
    return [lr_factor(OptimizedConfig(**settings), step, steps) for step in range(steps)]


def test_schedules():
    """'Linear learning-rate decay to 0 or constant, by config.'"""
    assert factors(4) == [1, 1, 1, 1]
    assert factors(4, lr_schedule=LRSchedule.linear) == [1, 0.75, 0.5, 0.25]
    assert factors(4, warmup_steps=2) == [0.5, 1, 1, 1]
    assert factors(6, warmup_steps=2, lr_schedule=LRSchedule.linear) == [0.5, 1, 1, 0.75, 0.5, 0.25]


def build(**settings):
    torch.manual_seed(0)
    policy, critic = nn.Linear(3, 2), nn.Linear(3, 1)
    roles = {"policy": (dict(policy.named_parameters()), 1e-2), "critic": (dict(critic.named_parameters()), 1e-1)}
    return policy, critic, Optimization(roles, OptimizedConfig(**settings), 10, Accelerator(cpu=True))


def test_each_role_is_clipped_by_itself_and_has_its_rate():
    policy, critic, optimization = build(max_grad_norm=0.5, lr_schedule=LRSchedule.linear)
    for module, size in ((policy, 1e-3), (critic, 100.0)):
        for p in module.parameters():
            p.grad = torch.full_like(p, size)
    norms = optimization.apply(5)
    assert norms == pytest.approx({"policy": 1e-3 * 8**0.5, "critic": 100 * 4**0.5})
    assert optimization.rates(5) == pytest.approx({"policy": 5e-3, "critic": 5e-2})
    assert [g["lr"] for g in optimization.optimizer.param_groups] == [5e-3, 5e-2]
    moments = optimization.tensors()
    assert float(moments["policy.weight.exp_avg"][0, 0]) == pytest.approx(0.1 * 1e-3)  # not clipped with the critic
    assert float(moments["critic.weight.exp_avg"][0, 0]) == pytest.approx(0.1 * 0.5 / 2, rel=1e-3)
    assert all(p.grad is None for p in policy.parameters())


def test_adam_eps_is_1e_5():
    """'Adam eps 1e-5': at a gradient of 1e-5 the step is half the learning rate."""
    policy, critic, optimization = build()
    before = policy.weight.detach().clone()
    for module in (policy, critic):
        for p in module.parameters():
            p.grad = torch.full_like(p, 1e-5)
    optimization.apply(0)
    torch.testing.assert_close(before - policy.weight, torch.full_like(before, 5e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nobody(bad):
    policy, critic, optimization = build()
    before = [p.detach().clone() for p in (*policy.parameters(), *critic.parameters())]
    for module in (policy, critic):
        for p in module.parameters():
            p.grad = torch.ones_like(p)
    critic.bias.grad[0] = bad
    assert optimization.apply(0) is None
    assert all(torch.equal(a, b) for a, b in zip(before, (*policy.parameters(), *critic.parameters()), strict=True))
    assert all(p.grad is None for p in (*policy.parameters(), *critic.parameters()))
    assert optimization.tensors() == {}


def test_moments_come_back():
    def step(parts, k):
        policy, critic, optimization = parts
        torch.manual_seed(k)
        for module in (policy, critic):
            for p in module.parameters():
                p.grad = torch.randn(p.shape)
        optimization.apply(k)

    straight, other = build(), build()
    for k in range(3):
        step(straight, k)
    for mine, theirs in zip(other[:2], straight[:2], strict=True):
        mine.load_state_dict(theirs.state_dict())
    saved = {k: v.clone() for k, v in straight[2].tensors().items()}
    assert {k.rsplit(".", 1)[1] for k in saved} == {"step", "exp_avg", "exp_avg_sq"} and len(saved) == 12
    other[2].load_tensors(saved)
    for k in range(3, 6):
        step(straight, k)
        step(other, k)
    for mine, theirs in zip(other[:2], straight[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert float(saved["policy.weight.step"]) == 3  # what was saved is not what is trained on


def test_critic_alone_has_moments_while_the_policy_has_no_gradient():
    _, critic, optimization = build()
    for p in critic.parameters():
        p.grad = torch.ones_like(p)
    assert optimization.apply(0)["policy"] == 0
    assert {k.split(".")[0] for k in optimization.tensors()} == {"critic"}
    again = build()[2]
    again.load_tensors(optimization.tensors())
    assert again.tensors().keys() == optimization.tensors().keys()


def scaled(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, **settings) -> Accelerator:
    """With a gradient scaler, as on a card without bf16: accelerate itself makes none on a CPU."""
    accelerator.scaler = torch.amp.GradScaler("cpu", **settings)
    accelerator.native_amp = True
    monkeypatch.setitem(accelerator.state.__dict__, "_mixed_precision", "fp16")
    return accelerator


def test_an_overflow_skips_the_step_lowers_the_scale_and_training_goes_on(monkeypatch):
    """'NaN or inf in a gradient: the step is not applied', which is how a gradient scaler finds its scale."""
    torch.manual_seed(0)
    policy = nn.Linear(3, 2)
    accelerator = scaled(Accelerator(cpu=True), monkeypatch, init_scale=2.0**16, growth_interval=2)
    roles = {"policy": (dict(policy.named_parameters()), 1e-2)}
    optimization = Optimization(roles, OptimizedConfig(max_grad_norm=100.0), 10, accelerator)

    def step(number: int, bad: bool) -> dict[str, float] | None:
        loss = policy(torch.ones(1, 3)).sum()
        accelerator.backward(loss)
        if bad:
            policy.bias.grad[0] = float("inf")
        return optimization.apply(number)

    before = [p.detach().clone() for p in policy.parameters()]
    for halved in (1, 2):
        assert step(0, bad=True) is None
        assert optimization.overflows == halved
        assert accelerator.scaler.get_scale() == 2.0 ** (16 - halved)
        assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
        assert all(p.grad is None for p in policy.parameters())
    assert step(0, bad=False) == pytest.approx({"policy": 8**0.5})  # the true gradient is 1 everywhere: unscaled
    assert optimization.overflows == 0
    for p, start in zip(policy.parameters(), before, strict=True):
        torch.testing.assert_close(start - p, torch.full_like(start, 1e-2), rtol=1e-3, atol=0)  # Adam's first step
    step(1, bad=False)
    assert accelerator.scaler.get_scale() == 2.0**15  # two good steps raise it again


def test_a_run_that_overflows_says_so_and_goes_on(tmp_path, monkeypatch):
    """A scale near the largest float32 number: the scaler needs several halvings before the first update."""
    accelerator = scaled(Accelerator(cpu=True), monkeypatch, init_scale=2.0**127)
    cfg = tiny.config(method={"vf_coef": 100.0}, max_steps=3)
    made, seen = tiny.loop(tmp_path, cfg, accelerator=accelerator)
    before = tiny.weights(made.run.roles.policy)
    made.train()
    assert [r["step"] for r in seen.records] == [1, 2, 3]
    overflows = seen.column("event/overflows")
    assert overflows[0] > 1 and overflows[-1] < 25
    assert accelerator.scaler.get_scale() == 2.0 ** (127 - overflows[-1])
    assert set(seen.column("event/bad_steps")) == {0} and not (tmp_path / "bad_steps.jsonl").exists()
    assert all(norm < 100 for norm in seen.column("policy/grad_norm"))  # of the unscaled gradient
    assert not tiny.same(before, tiny.weights(made.run.roles.policy))
    assert made.progress.overflows == overflows[-1]

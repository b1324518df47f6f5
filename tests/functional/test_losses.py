"""The clipped losses on both sides of the clip, and how they are summed."""

import math

import pytest
import torch

from align.functional.losses import aggregate, clipped_policy_loss, clipped_value_loss, log_ratio
from align.functional.masked import zero_outside

NAN = float("nan")


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # slope: of the loss in the log-ratio; 0 where the clip holds
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.5, 2.0, -2.4, 0.0),  # good token, already likelier by the clip: nothing more to gain
        (1.5, -2.0, 3.0, 3.0),  # bad token made likelier: the full loss
        (0.5, 2.0, -1.0, -1.0),  # good token made less likely: the full loss
        (0.5, -2.0, 1.4, 0.0),  # bad token, already less likely by the clip
    ],
)
def test_policy_loss_on_both_clip_sides_and_both_signs(ratio, advantage, loss, slope):
    moved = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found = clipped_policy_loss(moved, torch.tensor([[advantage]]), 0.3, 0.2)
    found.sum().backward()
    torch.testing.assert_close(found.item(), loss)
    torch.testing.assert_close(moved.grad.item(), slope)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.5 * 0.9**2, -0.9),  # within the range: the plain error
        (1.8, 1.0, 2.0, 0.5 * 0.8**2, 0.0),  # past the range, towards the target: the kept value's larger error
        (0.5, 1.0, 2.0, 0.5 * 1.5**2, -1.5),  # past the range, away from it: the plain error
        (0.2, 1.0, 0.0, 0.5 * 0.8**2, 0.0),  # the same downwards
        (1.5, 1.0, 0.0, 0.5 * 1.5**2, 1.5),
    ],
)
def test_value_loss_is_half_the_larger_error(value, old, target, loss, slope):
    """'Value loss clipped, times 0.5'."""
    v = torch.tensor([[value]], requires_grad=True)
    found = clipped_value_loss(v, torch.tensor([[old]]), torch.tensor([[target]]), 0.2)
    found.sum().backward()
    torch.testing.assert_close(found.item(), loss)
    torch.testing.assert_close(v.grad.item(), slope)


def test_ratio_is_1_at_masked_positions():
    """'Masked positions: set both log-probs to the same constant, so that the ratio is 1'."""
    mask = torch.tensor([[1, 1, 0, 0]])
    found = log_ratio(torch.tensor([[-1.0, -2.0, NAN, math.inf]]), torch.tensor([[-1.5, -2.0, 0.0, NAN]]), mask)
    assert found.tolist() == [[0.5, 0, 0, 0]]


def gradients(junk: float) -> list[torch.Tensor]:
    """Of a PPO loss, put together as the trainer does, with `junk` at the masked position of every input."""
    mask = torch.tensor([[1, 1, 0]])

    def column(*numbers: float) -> torch.Tensor:
        return torch.tensor([[*numbers, junk]])

    logp, values = column(-1.0, -2.0).requires_grad_(), column(0.5, 1.0).requires_grad_()
    ratio = log_ratio(logp, column(-1.1, -1.9), mask)
    policy = clipped_policy_loss(ratio, column(1.0, -1.0), 0.2, 0.2)
    value = clipped_value_loss(zero_outside(values, mask), zero_outside(column(0.4, 1.1), mask), torch.ones(1, 3), 0.2)
    loss = aggregate(policy, mask, 2.0) + aggregate(value, mask, 2.0)
    loss.backward()
    return [loss.detach(), logp.grad, values.grad]


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf])
def test_junk_at_masked_positions_reaches_no_gradient(junk):
    for clean, dirty in zip(gradients(0.0), gradients(junk), strict=True):
        assert torch.equal(clean, dirty)


def test_splitting_into_micro_batches_changes_nothing():
    """'Normalise by the global number of response tokens across micro-batches and ranks'."""
    per_token = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([[5], [1], [2], [5], [3], [1]])).long()
    tokens = float(mask.sum())
    whole = aggregate(per_token, mask, tokens)
    assert whole.item() == pytest.approx(per_token[mask == 1].mean().item())
    for size in (1, 2, 4):
        parts = [aggregate(per_token[i : i + size], mask[i : i + size], tokens) for i in range(0, 6, size)]
        assert sum(parts).item() == pytest.approx(whole.item())

"""PPO's own formulas, by hand: KL penalty, GAE, both sides of every clip, and what padding must not do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.algorithms.ppo import PPO, gae
from align.engine.protocol import TokenStats
from align.metrics import Tally
from align.types import Batch, Sequences, Size
from tests import tiny
from tests.algorithms.plain import plain_gae

NAN = float("nan")


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> PPO:
    method = {"value_clip_range": 0.2, "vf_coef": 0.5}
    made: PPO = tiny.loop(tmp_path_factory.mktemp("ppo"), tiny.config(method=method))[0].algorithm
    made.clip_low, made.clip_high = 0.3, 0.2
    return made


def batch(mask: torch.Tensor, tokens: int | None = None, **columns: torch.Tensor) -> Batch:
    """Rows of this mask (B, T) in a minibatch of `tokens`, None = their own."""
    rows = Sequences(mask[:, :1], mask[:, :1], mask, mask)
    return Batch(rows, columns, Size(len(mask), int(mask.sum()) if tokens is None else tokens))


def stats(logprobs: torch.Tensor) -> TokenStats:
    return TokenStats(logprobs, torch.zeros(*logprobs.shape, 2), 1.0)


# --- rewards and advantages -------------------------------------------------------------------------------------------


def test_kl_penalty_lowers_the_reward_where_the_policy_likes_a_token_more_than_the_reference(ppo):
    """'KL penalty per token, -beta * (logp - ref_logp)'."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, NAN]])
    logp = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, NAN]])
    ref = torch.tensor([[-2.0, -1.5, -0.5], [-4.0, -0.5, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = torch.tensor([[-0.1, 0.05, 1.0], [-0.3, 2.05, 0.0]])
    ppo.kl.coef = 0.1
    torch.testing.assert_close(ppo.subtract_kl(rewards, {"logprobs": logp, "ref_logprobs": ref}, mask), expected)


def test_gae_by_hand():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0, 7.0]]), torch.tensor([[0.5, 1.0, 1.5, 7.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    # deltas 1.4, 2.35, 1.5; A_3 = 1.5, A_2 = 2.35 + .72 * 1.5, A_1 = 1.4 + .72 * 3.43
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantages, torch.tensor([[3.8696, 3.43, 1.5, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[4.3696, 4.43, 3.0, 0.0]]))


def test_lambda_1_gives_reward_to_go_and_lambda_0_one_step():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, -1.0, 1.5]])
    mask = torch.ones(1, 3)
    assert gae(rewards, values, mask, gamma=1.0, lam=1.0)[1].tolist() == [[6, 5, 3]]
    assert gae(rewards, values, mask, gamma=1.0, lam=0.0)[1].tolist() == [[0, 3.5, 3]]


def test_no_bootstrapping_past_the_last_token():
    """'GAE over response tokens only; no bootstrapping past EOS': values beyond it would leak through lambda."""
    mask = torch.tensor([[1, 1, 0, 0]])
    advantages, returns = gae(torch.ones(1, 4), torch.full((1, 4), 100.0), mask, gamma=1.0, lam=0.95)
    assert advantages[0, 1] == 1 - 100
    torch.testing.assert_close(returns[0, :2], torch.tensor([1 + 100 - 0.95 * 99, 1.0]))


lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths, gamma=st.floats(0, 1), lam=st.floats(0, 1), seed=st.integers(0, 999))
def test_gae_is_the_per_row_recursion_whatever_stands_at_padding(lengths, gamma, lam, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 7)
    rewards, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.arange(7) < torch.tensor(lengths).unsqueeze(1)).long()
    rewards[mask == 0], values[mask == 0] = NAN, float("inf")
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i, n in enumerate(lengths):
        expected = plain_gae(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        assert advantages[i].tolist() == pytest.approx(expected + [0] * (7 - n), abs=1e-9)
        assert returns[i, :n].tolist() == pytest.approx((advantages + values)[i, :n].tolist())
        assert returns[i, n:].abs().sum() == 0


# --- clipped losses ---------------------------------------------------------------------------------------------------


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
def test_policy_loss_on_both_clip_sides_and_both_signs(ppo, ratio, advantage, loss, slope):
    logp, tally = torch.tensor([[math.log(ratio) - 1]], requires_grad=True), Tally()
    given = batch(torch.ones(1, 1).long(), logprobs=-torch.ones(1, 1), advantages=torch.tensor([[advantage]]))
    found = ppo.surrogate(given, stats(logp), tally)
    found.sum().backward()
    torch.testing.assert_close(found.item(), loss)
    torch.testing.assert_close(logp.grad.item(), slope)
    assert tally.result()["policy/clip_fraction"] == (slope == 0)


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
def test_value_loss_is_half_the_larger_error(ppo, value, old, target, loss, slope):
    """'Value loss clipped, times 0.5', and times vf_coef, here .5. The value after the last token is nobody's."""
    v, tally = torch.tensor([[value, NAN]], requires_grad=True), Tally()
    given = batch(torch.ones(1, 1).long(), values=torch.tensor([[old]]), returns=torch.tensor([[target]]))
    found = ppo.value_loss(given, v)
    found.value.backward()
    tally.merge(found.metrics)
    torch.testing.assert_close(found.value.item(), 0.5 * loss)
    torch.testing.assert_close(v.grad.tolist(), [[0.5 * slope, 0.0]])
    assert tally.result() == pytest.approx({"value/loss": loss, "value/clip_fraction": float(slope == 0)})


def test_ratio_is_1_at_masked_positions(ppo):
    """'Masked positions: set both log-probs to the same constant, so that the ratio is 1'."""
    given = batch(torch.tensor([[1, 1, 0, 0]]), logprobs=torch.tensor([[-1.5, -2.0, 0.0, NAN]]))
    assert ppo.log_ratio(given, torch.tensor([[-1.0, -2.0, NAN, math.inf]])).tolist() == [[0.5, 0, 0, 0]]


def gradients(ppo: PPO, junk: float) -> list[torch.Tensor]:
    """Of both losses, with `junk` at the masked position of every input."""

    def column(*numbers: float) -> torch.Tensor:
        return torch.tensor([[*numbers, junk]])

    columns = {"logprobs": column(-1.1, -1.9), "advantages": column(1.0, -1.0), "values": column(0.4, 1.1)}
    given = batch(torch.tensor([[1, 1, 0]]), **columns, returns=column(1.0, 1.0))
    logp, scores = column(-1.0, -2.0).requires_grad_(), torch.tensor([[0.5, 1.0, junk, junk]], requires_grad=True)
    loss = ppo.policy_loss(given, stats(logp)).value + ppo.value_loss(given, scores).value
    loss.backward()
    return [loss.detach(), logp.grad, scores.grad]


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf])
def test_junk_at_masked_positions_reaches_no_gradient(ppo, junk):
    for clean, dirty in zip(gradients(ppo, 0.0), gradients(ppo, junk), strict=True):
        assert float(clean.abs().max()) > 0 and torch.equal(clean, dirty)


def test_splitting_into_micro_batches_changes_nothing(ppo):
    """'Normalise by the global number of response tokens across micro-batches and ranks'."""
    generator = torch.Generator().manual_seed(0)
    logp, old, advantages = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = (torch.arange(5) < torch.tensor([[5], [1], [2], [5], [3], [1]])).long()

    def loss(start: int, stop: int) -> float:
        rows = slice(start, stop)
        given = batch(mask[rows], int(mask.sum()), logprobs=old[rows], advantages=advantages[rows])
        return ppo.policy_loss(given, stats(logp[rows])).value.item()

    ratio = (logp - old).exp()
    per_token = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.7, 1.2))
    assert loss(0, 6) == pytest.approx(per_token[mask == 1].mean().item())
    for size in (1, 2, 4):
        assert sum(loss(i, min(i + size, 6)) for i in range(0, 6, size)) == pytest.approx(loss(0, 6))

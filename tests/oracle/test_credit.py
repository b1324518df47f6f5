"""Which credit schemes keep pi* and which end elsewhere, by exact gradients over all responses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from align.config import PrefixCredit, PrefixStep, SparseCredit
from align.functional import credit
from tests.oracle.exact import gradient, ppo_loss
from tests.oracle.runs import APART, TREE, VOCABULARY, Tables, reference
from tests.oracle.tree import at_rest

BETA, SCALE = 0.4, 0.15
TABLES = Tables(APART)


def table(seed: int) -> Tensor:
    """Some policy (P, S, V)."""
    noise = torch.randn(reference().shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.log_softmax(reference() + noise, dim=-1)


def pull(rewards: Tensor) -> Tensor:
    return gradient(table(1), reference(), ppo_loss(rewards.double(), BETA))


def prefix(steps: Tensor) -> Tensor:
    """(P, R, L) rewards of prefix credit whose steps end where `steps` (R, L) says."""
    return torch.stack([credit.prefix(scores, TREE.mask, steps) for scores in TABLES.prefix_scores])


SPARSE = pull(TABLES.credited(SparseCredit()))


def ids(token: int, shift: int = 0) -> Tensor:
    """(R, L), 1 where the token `shift` places on is `token`."""
    found = (TREE.tokens == token).long() * TREE.mask
    return torch.nn.functional.pad(found, (0, shift))[:, shift:]


@pytest.mark.parametrize("token", range(2, VOCABULARY))
def test_steps_that_the_tokens_so_far_settle_keep_the_gradient(token):
    torch.testing.assert_close(pull(prefix(ids(token))), SPARSE, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_steps_of_k_tokens_keep_the_gradient(k):
    rewards = TABLES.credited(PrefixCredit(step=PrefixStep.k, k=k))
    torch.testing.assert_close(pull(rewards), SPARSE, rtol=0, atol=1e-6)


@pytest.mark.parametrize("token", range(2, VOCABULARY))
def test_steps_that_the_next_token_settles_do_not(token):
    """Why a sentence ends at its sign and not where the next one begins."""
    assert float((pull(prefix(ids(token, shift=1))) - SPARSE).abs().max()) > 0.01


def implicit(clip: float) -> tuple[Tensor, Tensor]:
    """Rewards (P, R, L) and the log-ratio (P, R, L) that they pay beside the score."""
    ratio = TREE.token_logprobs(table(2)) - TREE.token_logprobs(reference())
    rewards = [
        credit.implicit(total, rows, TREE.mask, SCALE, clip)
        for total, rows in zip(TABLES.scores.double(), ratio, strict=True)
    ]
    return torch.stack(rewards), ratio


@pytest.mark.parametrize("clip", [100.0, 0.05])
def test_implicit_credit_rests_where_its_docstring_says(clip):
    """The optimum of R + sum clip(...); without the clip pi_ref^(1 - b/beta) pi_dpo^(b/beta) exp(R / beta)."""
    rewards, ratio = implicit(clip)
    paid = (SCALE * ratio).clamp(-clip, clip).sum(-1)
    rest = TREE.logprobs(at_rest(TREE, reference(), rewards, BETA))
    expected = torch.log_softmax(TREE.logprobs(reference()) + (TABLES.scores.double() + paid) / BETA, dim=-1)
    torch.testing.assert_close(rest, expected, rtol=0, atol=1e-6)
    star = TREE.logprobs(at_rest(TREE, reference(), TABLES.credited(SparseCredit()), BETA))
    assert float((rest - star).abs().max()) > 0.05
    if clip > 1:
        share = SCALE / BETA
        mixed = (
            (1 - share) * TREE.logprobs(reference()) + share * TREE.logprobs(table(2)) + TABLES.scores.double() / BETA
        )
        torch.testing.assert_close(rest, torch.log_softmax(mixed, dim=-1), rtol=0, atol=1e-6)

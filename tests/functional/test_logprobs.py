"""Log-probabilities of given tokens and entropies, by hand."""

import math

import pytest
import torch

from align.functional.logprobs import entropy, token_logprobs

LOGITS = torch.tensor([[[0.0, math.log(3.0), -math.inf], [1.0, 1.0, 1.0]]])  # (1, 2, 3)
IDS = torch.tensor([[1, 2]])


def test_at_temperature_1():
    torch.testing.assert_close(token_logprobs(LOGITS, IDS), torch.tensor([[math.log(3 / 4), math.log(1 / 3)]]))


def test_temperature_divides_the_logits():
    """'Policy, old and reference logits are all divided by the sampling temperature'."""
    torch.testing.assert_close(token_logprobs(LOGITS, IDS, 0.5), torch.tensor([[math.log(9 / 10), math.log(1 / 3)]]))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator)
    ids = torch.randint(7, (2, 5), generator=generator)
    expected = torch.log_softmax(logits / 1.7, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(token_logprobs(logits, ids, 1.7), expected)


def test_entropy():
    three_to_one = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropy(LOGITS[:, 1]), torch.tensor([math.log(3)]))
    torch.testing.assert_close(entropy(torch.tensor([0.0, math.log(3.0)])), torch.tensor(three_to_one))
    torch.testing.assert_close(entropy(torch.tensor([0.0, 2 * math.log(3.0)]), 2.0), torch.tensor(three_to_one))


def test_entropy_with_an_impossible_token():
    three_to_one = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy(LOGITS[:, 0]).item() == pytest.approx(three_to_one)


def test_half_precision_logits_are_read_in_fp32():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = torch.arange(4)
    found = token_logprobs(logits, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_logprobs(logits.float(), ids), rtol=0, atol=0)


def test_entropy_of_many_rows_is_that_of_each():
    """More logits than are worked on at once, some ruled out, far from zero, in bf16 too."""
    torch.manual_seed(0)
    logits = 5 * torch.randn(3, 11, 50_000) + 40
    logits[..., ::7] = -torch.inf
    for given in (logits, logits.bfloat16()):
        p = torch.softmax(given.double() / 0.7, dim=-1)
        expected = torch.special.entr(p).sum(-1).float()
        torch.testing.assert_close(entropy(given, 0.7), expected, atol=2e-5, rtol=1e-5)

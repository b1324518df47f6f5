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


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradient_of_more_logits_than_are_worked_on_at_once(temperature):
    """Against autograd through log_softmax in fp64; a token that is ruled out gets a gradient of 0."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 13, 50_000) + 10
    logits[..., 1::9] = -torch.inf
    ids = 9 * torch.randint(5_000, (2, 13))
    weights = torch.randn(2, 13)
    found, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = token_logprobs(found, ids, temperature)
    (value * weights).sum().backward()
    expected = torch.log_softmax(exact / temperature, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    (expected * weights).sum().backward()
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_gradient_of_half_precision_logits_is_theirs_in_type_and_to_their_precision():
    torch.manual_seed(0)
    logits, ids = torch.randn(5, 300).bfloat16(), torch.arange(5)
    half, single = logits.clone().requires_grad_(), logits.float().requires_grad_()
    token_logprobs(half, ids).sum().backward()
    torch.log_softmax(single, -1).gather(-1, ids.unsqueeze(-1)).sum().backward()
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), single.grad, rtol=2**-8, atol=0)

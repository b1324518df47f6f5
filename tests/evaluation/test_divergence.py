import math
import statistics

import pytest
import torch

from align.engine.sampling import Noise, sample
from align.evaluation import likelihood
from align.evaluation.likelihood import divergence


def kl_summary(*args):
    return divergence(*args).kl()


@pytest.fixture(scope="module")
def responses(trained, chat, prompts):
    return sample(
        trained, chat, prompts, noise=Noise(5, "test"), max_new_tokens=12, temperature=0.7, samples_per_prompt=3
    )


@torch.no_grad()
def naive_kl(policy, reference, rollout, temperature):
    """d of every token of every response, one unpadded row at a time."""
    rows = []
    for i in range(len(rollout)):
        prompt = rollout.prompt_ids[i][rollout.prompt_mask[i] == 1]
        response = rollout.response_ids[i][rollout.response_mask[i] == 1]
        ids = torch.cat([prompt, response]).unsqueeze(0)
        logp = []
        for model in (policy, reference):
            scores = torch.log_softmax(model.model(ids).logits[0].double() / temperature, -1)
            logp.append([float(scores[len(prompt) - 1 + t, token]) for t, token in enumerate(response)])
        rows.append([a - b for a, b in zip(*logp, strict=True)])
    return rows


def test_of_a_model_with_itself_is_zero(policy, responses):
    assert set(kl_summary(policy, policy, responses, 0.7, 4).values()) == {0.0}


def test_equals_the_naive_loop(trained, policy, responses):
    rows = naive_kl(trained, policy, responses, 0.7)
    first = [sum(row) for row in rows]
    third = [sum(math.exp(-d) - 1 + d for d in row) for row in rows]
    lengths = [len(row) for row in rows]
    n, tokens = len(rows), sum(lengths)

    def ratio_se(sums):
        """By hand: the residuals' deviation over the mean length and sqrt(n)."""
        ratio = sum(sums) / tokens
        squares = sum((s - ratio * length) ** 2 for s, length in zip(sums, lengths, strict=True))
        return math.sqrt(squares / (n - 1) / n) * n / tokens

    expected = {
        "per_response_k1": statistics.fmean(first),
        "per_response_k1_se": statistics.stdev(first) / math.sqrt(n),
        "per_response_k3": statistics.fmean(third),
        "per_response_k3_se": statistics.stdev(third) / math.sqrt(n),
        "per_token_k1": sum(first) / tokens,
        "per_token_k1_se": ratio_se(first),
        "per_token_k3": sum(third) / tokens,
        "per_token_k3_se": ratio_se(third),
    }
    assert kl_summary(trained, policy, responses, 0.7, 64) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected["per_response_k1"] > 3 * expected["per_response_k1_se"]  # the right way round
    assert abs(expected["per_token_k1"] * statistics.fmean(map(len, rows)) - expected["per_response_k1"]) < 1e-9


@torch.no_grad()
def test_entropy_equals_the_naive_loop(trained, policy, responses):
    total, count = 0.0, 0
    for i in range(len(responses)):
        prompt = responses.prompt_ids[i][responses.prompt_mask[i] == 1]
        response = responses.response_ids[i][responses.response_mask[i] == 1]
        logits = trained.model(torch.cat([prompt, response]).unsqueeze(0)).logits[0].double()
        p = torch.softmax(logits[len(prompt) - 1 : -1] / 0.7, -1)
        total, count = total - float((p * p.log()).sum()), count + len(response)
    assert divergence(trained, policy, responses, 0.7, 5).entropy_per_token() == pytest.approx(total / count, rel=1e-5)


def test_batches_order_and_padding_change_nothing(trained, policy, responses, monkeypatch):
    whole = kl_summary(trained, policy, responses, 0.7, 64)
    mixed = responses.rows(torch.randperm(len(responses), generator=torch.Generator().manual_seed(0)))
    assert kl_summary(trained, policy, mixed, 0.7, 3) == pytest.approx(whole, rel=1e-5, abs=1e-6)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 100 * 259)
    assert kl_summary(trained, policy, responses, 0.7, 64) == pytest.approx(whole, rel=1e-5, abs=1e-6)
    garbage = responses.response_ids.masked_fill(responses.response_mask == 0, 7)
    moved = type(responses)(**{**responses.tensors(), "response_ids": garbage})
    assert kl_summary(trained, policy, moved, 0.7, 64) == pytest.approx(whole, rel=1e-5, abs=1e-6)


def test_a_single_response_has_no_standard_error(trained, policy, responses):
    one = kl_summary(trained, policy, responses.rows(torch.tensor([0])), 0.7, 4)
    assert math.isnan(one["per_response_k1_se"])
    assert math.isfinite(one["per_response_k1"])

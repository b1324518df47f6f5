"""KL estimators: values by hand, what they estimate exactly on an enumerated distribution, and their gradients."""

import math

import torch

from align.functional.kl import MAX_LOG_RATIO, k1, k2, k3

LOGP, REF = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.3, 0.3], dtype=torch.float64)


def test_by_hand():
    assert k1(LOGP, REF).tolist() == [[0.5, -1.0]]
    assert k2(LOGP, REF).tolist() == [[0.125, 0.5]]
    torch.testing.assert_close(k3(LOGP, REF), torch.tensor([[math.exp(-0.5) - 0.5, math.e - 2]]))


def test_k1_and_k3_are_unbiased_and_k3_never_negative():
    kl = (P * (P / Q).log()).sum()
    torch.testing.assert_close((P * k1(P.log(), Q.log())).sum(), kl)
    torch.testing.assert_close((P * k3(P.log(), Q.log())).sum(), kl)
    assert (k3(P.log(), Q.log()) >= 0).all()
    assert (k3(Q.log(), P.log()) >= 0).all()


def test_gradient_of_k2_is_that_of_the_kl_and_gradient_of_k3_is_not():
    """'The gradient of k3 is not the gradient of KL': samples from P, gradients through log P alone."""

    def gradient(estimator):
        logits = P.log().clone().requires_grad_()
        logp = torch.log_softmax(logits, 0)
        if estimator is None:
            (logp.exp() * (logp - Q.log())).sum().backward()
        else:
            (P * estimator(logp, Q.log())).sum().backward()
        return logits.grad

    torch.testing.assert_close(gradient(k2), gradient(None))
    assert (gradient(k3) - gradient(None)).abs().max() > 0.05
    assert gradient(k1).abs().max() < 1e-12  # the mean of a score function


def test_k3_is_clamped_before_exp():
    """'k3's log-ratio is clamped before exp' [TRL 3015, 6637]."""
    far = k3(torch.tensor([[-200.0, 0.0]]), torch.tensor([[0.0, -200.0]]))
    assert torch.isfinite(far).all()
    torch.testing.assert_close(far[0, 0], torch.tensor(MAX_LOG_RATIO).exp() - 1 - MAX_LOG_RATIO)
    torch.testing.assert_close(far[0, 1].item(), MAX_LOG_RATIO - 1 + math.exp(-MAX_LOG_RATIO))

"""Losses on preference pairs, one number per pair, not reduced.

Every function takes `margin` (N,): how much more the policy has come to prefer the chosen response than its baseline,
see `preference_margin`. Losses are in nats where they are log-likelihoods.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_margin(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor | None, ref_rejected: Tensor | None
) -> Tensor:
    """Compute (log pi(y_w) - log pi_ref(y_w)) - (log pi(y_l) - log pi_ref(y_l)): (N,). DPO, arXiv 2305.18290, eq. 7.

    Log-probabilities (N,) are of whole responses, summed over tokens or averaged (length-normalised); None for those
    under the reference = reference-free (SimPO, arXiv 2405.14734).
    """
    margin = chosen - rejected
    if ref_chosen is not None and ref_rejected is not None:
        margin = margin - (ref_chosen - ref_rejected)
    return margin


def wins(margin: Tensor) -> Tensor:
    """Count the pairs whose chosen response is ahead: (N,) of 1, or 0, or a half for a tie."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


def sigmoid_loss(margin: Tensor, beta: float, *, label_smoothing: float = 0.0, target: float = 0.0) -> Tensor:
    """Compute -(1 - e) log s(h) - e log s(-h) with h = beta * margin - target: DPO, and cDPO with e > 0.

    `label_smoothing` is e, the share of pairs whose label is taken to be flipped (Mitchell 2023, "a note on DPO with
    noisy preferences", eq. 3); `target` gamma of SimPO (arXiv 2405.14734, eq. 6): the margin that a pair must reach.
    """
    h = beta * margin - target
    return -(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)


def robust_loss(margin: Tensor, beta: float, *, label_smoothing: float) -> Tensor:
    """Estimate DPO's loss without bias under labels flipped with probability e < 1/2 (arXiv 2403.00409, eq. 8)."""
    h = beta * margin
    e = label_smoothing
    return (-(1 - e) * logsigmoid(h) + e * logsigmoid(-h)) / (1 - 2 * e)


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """Compute (margin - 1 / (2 beta))^2: arXiv 2310.12036, eq. 17, with beta for tau."""
    return (margin - 1 / (2 * beta)) ** 2


def hinge_loss(margin: Tensor, beta: float) -> Tensor:
    """Compute max(0, 1 - beta * margin): SLiC, arXiv 2305.10425, on log-ratios."""
    return torch.relu(1 - beta * margin)

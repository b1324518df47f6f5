"""Length-controlled win rate: the rate that two policies would have if their responses were equally long.

After length-controlled AlpacaEval (Dubois et al., arXiv 2404.04475, section 3): a logistic regression of the preference
on the length difference, read off where that difference is 0. Here, for one policy against one start model,

    P(win on prompt x) = sigmoid(theta + phi * tanh(d_x / s)),   d_x = length - length of the start model's response

in tokens, s the population deviation of d over the prompts; a tie is half a win. The length-controlled win rate is
sigmoid(theta). Two differences from AlpacaEval: there is no term for the prompt's difficulty, which is estimated from
many models' results, and a standard normal prior on phi alone replaces cross-validated regularisation, so that the
figure is the raw win rate where lengths do not differ or all prompts are won.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from align.evaluation.intervals import percentile_interval
from align.streams import generator

STEPS = 50  # most steps of Newton's method
THETA = 15.0  # bound of |theta|, which has no maximum where all prompts are won; at the bound the rate is 0 or 1


def length_controlled(
    wins: Sequence[float], difference: Sequence[float], *, confidence: float, seed: int, resamples: int
) -> dict[str, float | None]:
    """Estimate the length-controlled win rate with a percentile bootstrap interval over prompts, and phi.

    Args:
        wins: 1, 0.5 or 0 per prompt.
        difference: d_x, tokens.

    Returns:
        {"mean", "low", "high", "length_effect": phi}; all None without prompts.
    """
    if not wins:
        return dict.fromkeys(("mean", "low", "high", "length_effect"))
    y, x = torch.tensor(wins, dtype=torch.float64), torch.tensor(difference, dtype=torch.float64)
    n = len(y)
    rows = torch.randint(n, (resamples, n), generator=generator(seed, "length-controlled bootstrap"))
    rows = torch.cat([torch.arange(n).unsqueeze(0), rows])  # first the original sample
    theta, phi = fit(y[rows], x[rows])
    rate = torch.where(theta.abs() < THETA, torch.sigmoid(theta), (theta > 0).double())
    low, high = percentile_interval(rate[1:], confidence)
    return {"mean": float(rate[0]), "low": low, "high": high, "length_effect": float(phi[0])}


def fit(y: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Fit theta and phi (R,) float64 for R data sets at once: argmax of sum_x log-likelihood - phi^2 / 2.

    Args:
        y: (R, n) wins in [0, 1].
        difference: (R, n) length differences; without any deviation phi is 0.
    """
    spread = difference.std(dim=1, correction=0, keepdim=True)
    x = torch.where(spread > 0, torch.tanh(difference / spread.clamp(min=1e-300)), torch.zeros_like(difference))
    theta = torch.logit(y.mean(1).clamp(1e-6, 1 - 1e-6))
    phi = torch.zeros_like(theta)
    for _ in range(STEPS):
        p = torch.sigmoid(theta.unsqueeze(1) + phi.unsqueeze(1) * x)
        weight = (p * (1 - p)).clamp(min=1e-9)
        gradient = (y - p).sum(1), ((y - p) * x).sum(1) - phi
        a, b, c = weight.sum(1), (weight * x).sum(1), (weight * x * x).sum(1) + 1
        determinant = a * c - b * b
        steps = (c * gradient[0] - b * gradient[1]) / determinant, (a * gradient[1] - b * gradient[0]) / determinant
        largest = torch.maximum(steps[0].abs(), steps[1].abs())
        scale = 1 / largest.clamp(min=1)  # far from the maximum a whole step may overshoot
        theta, phi = (theta + scale * steps[0]).clamp(-THETA, THETA), phi + scale * steps[1]
        if float(largest.max()) < 1e-10:
            break
    return theta, phi

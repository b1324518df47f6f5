"""Definitions spelt out for one response at a time, to hold the batched code against."""

from __future__ import annotations


def plain_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The sum in eq. 16 of arXiv 1506.02438: A_t = sum_k (gamma lam)^k delta_{t+k}."""
    after = [*values, 0.0][1:]
    deltas = [r + gamma * nxt - v for r, v, nxt in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]

"""A problem so small that every response is a row: its exact optimum, and the exact fixed point of other objectives.

A conditional table (P, S, V) holds log pi(token | prompt, state) in float64; a state is what has been written so far. A
response is a path through the states that ends with the end token or at the length limit.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


class Tree:
    """All states and all responses of up to `length` of `vocabulary` tokens, of which `end` ends a response."""

    def __init__(self, vocabulary: int, length: int, end: int) -> None:
        self.vocabulary, self.length, self.end = vocabulary, length, end
        inner = [t for t in range(vocabulary) if t != end]
        self.states = [s for n in range(length) for s in product(inner, repeat=n)]
        number = {s: i for i, s in enumerate(self.states)}
        ended = [(*s, end) for s in self.states]
        self.responses = ended + list(product(inner, repeat=length))
        self.lengths = torch.tensor([len(r) for r in self.responses])
        self.ended = torch.tensor([r[-1] == end for r in self.responses])
        self.mask = (torch.arange(length) < self.lengths.unsqueeze(1)).long()  # (R, L)
        rows = [list(r) + [0] * (length - len(r)) for r in self.responses]
        self.tokens = torch.tensor(rows)  # (R, L)
        self.path = torch.tensor([[number[r[:t]] if t < len(r) else 0 for t in range(length)] for r in self.responses])
        self.depth = torch.tensor([len(s) for s in self.states])
        self._row = {r: i for i, r in enumerate(self.responses)}

    def index(self, response: tuple[int, ...]) -> int:
        return self._row[response]

    def token_logprobs(self, table: Tensor) -> Tensor:
        """(P, S, V) -> (P, R, L), 0 past a response's end."""
        return table[:, self.path, self.tokens] * self.mask

    def logprobs(self, table: Tensor) -> Tensor:
        """(P, S, V) -> (P, R) of whole responses."""
        return self.token_logprobs(table).sum(-1)


def objective(tree: Tree, table: Tensor, ref: Tensor, scores: Tensor, beta: float) -> Tensor:
    """J = E[r] - beta KL(pi || ref), mean over prompts; scores (P, R)."""
    logp, ref_logp = tree.logprobs(table), tree.logprobs(ref)
    return (logp.exp() * (scores - beta * (logp - ref_logp))).sum(1).mean()


def best(tree: Tree, ref: Tensor, scores: Tensor, beta: float) -> Tensor:
    """J of pi* ∝ ref exp(r / beta), which is beta log E_ref[exp(r / beta)]."""
    return (beta * torch.logsumexp(tree.logprobs(ref) + scores / beta, dim=1)).mean()


def divergence(tree: Tree, table: Tensor, other: Tensor) -> Tensor:
    """KL(table || other) in nats per response, mean over prompts."""
    return objective(tree, table, other, torch.zeros(table.shape[0], len(tree.responses)).double(), -1.0)


# What a policy at rest is in one state, given Q (P, S, V), the expected reward that follows each token there.
Rest = Callable[[Tensor, Tensor, float], Tensor]


def tilted(q: Tensor, ref: Tensor, beta: float) -> Tensor:
    """argmax of E[Q] - beta KL(pi || ref): pi ∝ ref exp(Q / beta)."""
    return torch.log_softmax(ref + q / beta, dim=-1)


def pulled(q: Tensor, ref: Tensor, beta: float) -> Tensor:
    """argmax of E[Q] - beta KL(ref || pi): pi = beta ref / (c - Q), with c such that it sums to 1."""
    low = q.amax(-1, keepdim=True) + 1e-12
    high = low + beta
    for _ in range(200):
        middle = (low + high) / 2
        heavy = (beta * ref.exp() / (middle - q)).sum(-1, keepdim=True) > 1
        low, high = torch.where(heavy, middle, low), torch.where(heavy, high, middle)
    return torch.log_softmax((beta * ref.exp() / (high - q)).log(), dim=-1)


def at_rest(
    tree: Tree, ref: Tensor, token_rewards: Tensor, beta: float, *, later_kl: bool = True, rest: Rest = tilted
) -> Tensor:
    """The table in which every state is at rest given what follows it, solved from the last states back: (P, S, V).

    Args:
        token_rewards: (P, R, L), paid at each token of each response; those before a state do not count in it.
        later_kl: Whether what follows a token includes the KL penalty of the later tokens.
    """
    table = ref.clone()
    prompts, states, vocabulary = ref.shape
    for t in reversed(range(tree.length)):
        logp = tree.token_logprobs(table)
        penalty = beta * (logp - tree.token_logprobs(ref)) if later_kl else torch.zeros_like(logp)
        reached = tree.mask[:, t] == 1
        later = slice(t + 1, None)
        worth = token_rewards[:, :, t:].sum(-1) - penalty[:, :, later].sum(-1)
        q = torch.zeros(prompts, states * vocabulary, dtype=ref.dtype)
        place = (tree.path[:, t] * vocabulary + tree.tokens[:, t])[reached]
        q.index_add_(1, place, (logp[:, :, later].sum(-1).exp() * worth)[:, reached])
        here = tree.depth == t
        table[:, here] = rest(q.view_as(ref)[:, here], ref[:, here], beta)
    return table

"""What reward models and policies make of preference pairs: scores of every prefix, accuracies, prefix figures."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from align.activity import Activity
from align.data.collate import collate
from align.engine.budget import FORWARD_TOKENS
from align.engine.reference import Policy, ValueHead
from align.functional.batching import token_batches
from align.functional.preference import wins
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards.base import given_input
from align.rewards.signals import LogRatio
from align.types import Pair, RewardInput, RewardOutput, Sequences

FRACTIONS = (0.25, 0.5, 0.75, 0.9)  # of the response's tokens, at which prefix scores are compared with the final one


def sequences_of(pairs: Sequence[Pair], chat: ChatTokenizer, device: torch.device) -> Sequences:
    """Chosen and rejected response of each pair, next to each other: 2n rows."""
    rows = [(p.prompt.input_ids, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    return collate(rows, chat.pad_id, device)


@torch.no_grad()
def prefix_scores(
    model: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair], activity: Activity | None = None
) -> tuple[Tensor, Tensor]:
    """Score all prefixes of chosen and rejected responses: (2n, T + 1), and the responses' lengths (2n,)."""
    rows = sequences_of(pairs, chat, model.device)
    out = torch.zeros(len(rows), rows.response_ids.shape[1] + 1, device=model.device)
    parts = token_batches(rows.attention_mask.sum(1), FORWARD_TOKENS)
    for index in (activity or Activity()).over(parts, "responses scored", len(rows)):
        part = rows.rows(index)
        scores = model.prefix_scores(part)
        mask = pad(part.response_mask, (1, 0), value=1)
        out[index, : scores.shape[1]] = scores.masked_fill(mask == 0, 0)
    return out, rows.lengths


def final_scores(
    model: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair], activity: Activity | None = None
) -> Tensor:
    """Score whole responses, chosen and rejected of each pair next to each other: (2n,)."""
    return score_at(*prefix_scores(model, chat, pairs, activity))


def pair_accuracy(
    model: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair], activity: Activity | None = None
) -> float:
    """Share of pairs whose chosen response scores above the rejected one, ties counting half."""
    scores = final_scores(model, chat, pairs, activity)
    return _share(scores[0::2] - scores[1::2])


@torch.no_grad()
def outcomes(
    score: Callable[[RewardInput], RewardOutput],
    chat: ChatTokenizer,
    pairs: Sequence[Pair],
    device: torch.device,
    rows: int = 64,
) -> Tensor:
    """Return for every pair (n,) whether `score` is higher for the chosen response, ties half."""
    given = [(p.prompt, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    parts = [given_input(given[i : i + rows], chat, device) for i in range(0, len(given), rows)]
    scores = torch.cat([score(part).total for part in parts])
    return wins(scores[0::2] - scores[1::2]).double().cpu()


@torch.no_grad()
def log_ratio_accuracy(
    policy: Policy, reference: Policy, chat: ChatTokenizer, pairs: Sequence[Pair], activity: Activity | None = None
) -> float:
    """Share of pairs whose chosen response has the higher log pi - log pi_ref, ties counting half."""
    rows = sequences_of(pairs, chat, policy.device)
    ratios = LogRatio(policy, reference, activity=activity)(rows).sum(1)
    return _share(ratios[0::2] - ratios[1::2])


def longer_wins(pairs: Sequence[Pair]) -> float:
    """Accuracy of the judge that prefers the response with more tokens; a reward model must beat it."""
    return _share(torch.tensor([float(len(p.chosen_ids) - len(p.rejected_ids)) for p in pairs]))


def _share(margins: Tensor) -> float:
    return float(wins(margins).mean())


def score_at(scores: Tensor, places: Tensor) -> Tensor:
    """Return the score at one place (B,) of each row (B, T + 1)."""
    return scores.gather(1, places.unsqueeze(1)).squeeze(1)


def prefix_figures(
    model: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair], activity: Activity | None = None
) -> dict[str, dict[str, float]]:
    """Measure how far the scores of prefixes foretell the final one, over the responses of `pairs`.

    `correlation` with the final score is that of prefixes that hold the first 25, 50, 75, 90% of the response's tokens
    (rounded) and of the one that lacks the last token alone (`before_last`). `offset`: how far the mean score of such
    prefixes, and of the empty response (`0`), lies above the mean final score, in deviations of the final scores: 0 at
    each is a flat mean, on which no token is paid or charged for its place alone.
    """
    scores, lengths = (tensor.cpu() for tensor in prefix_scores(model, chat, pairs, activity))
    scores = scores.double()
    places = {f"{fraction:g}": (fraction * lengths).round().long() for fraction in (0.0, *FRACTIONS)}
    places["before_last"] = (lengths - 1).clamp(min=0)
    final = score_at(scores, lengths)
    at = {name: score_at(scores, place) for name, place in places.items()}
    unit = final.std(unbiased=False).clamp(min=1e-12)
    both = {name: torch.stack([value, final]) for name, value in at.items() if name != "0"}
    correlation = {name: float(torch.corrcoef(pair)[0, 1]) for name, pair in both.items()}
    offset = {name: float((value.mean() - final.mean()) / unit) for name, value in at.items()}
    return {"correlation": correlation, "offset": offset}

"""The second stage of a reward model that is to score prefixes: every prefix learns the score of the whole response.

A reward model trained at the end token alone has never been asked about an unfinished response, and its differences of
successive prefix scores (`reward/credit=prefix`) are off its training distribution. Here the same network is trained
further: its score of each prefix, the empty one included, is regressed on the score that it gave the whole response
before this stage (mean squared error, the target frozen). What is learnt is the expected final score given the prefix,
the value function that RED (arXiv 2411.08302) takes prefix scores for, on the data's own responses.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from align.config import Config, RewardModelSource
from align.data.collate import collate
from align.engine.budget import FORWARD_TOKENS, micro_batch_tokens
from align.engine.value_head import ValueHead, body_of, linear_head
from align.errors import InputError, RunError
from align.functional.batching import token_batches
from align.models.adapters import REWARD, SharedBase
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_causal_lm, load_sequence_classifier
from align.models.reward_folder import RewardCard, is_adapter, read_card
from align.streams import permutation
from align.types import Pair, Sequences

FRACTIONS = (0.25, 0.5, 0.75, 0.9)  # of the response's tokens, at which prefix scores are compared with the final one


def train_on_prefixes(
    folder: Path,
    start: Path,
    config: Config,
    source: RewardModelSource,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    accuracy: Callable[[ValueHead], float | None],
    device: torch.device,
    dtype: torch.dtype,
    key: dict[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> RewardCard:
    """Train the reward model in `start` further, on the prefixes of `train`; write model and card into `folder`.

    Args:
        start: A reward model trained at the end token on the same pairs, with its card.
        accuracy: Of a scorer on the held-out pairs.

    Raises:
        InputError: `start` has no linear head.
        RunError: The loss is not finite.
    """
    started = time.perf_counter()
    scorer, save = _trainable(start, config, device, dtype)
    card = read_card(start)
    assert card is not None
    figures = dict(card.prefix_scores or ({"end": prefix_figures(scorer, chat, held_out)} if held_out else {}))
    regress(scorer, chat, train, source, say=say)
    if held_out:
        figures["prefixes"] = prefix_figures(scorer, chat, held_out)
    shutil.copytree(start, folder, dirs_exist_ok=True)  # configuration and tokenizer; the weights are written over
    save(folder)
    card = replace(
        card,
        accuracy=accuracy(scorer),
        seconds=time.perf_counter() - started,  # of this stage
        key=key,
        precision=str(dtype).removeprefix("torch."),
        prefix_scores=figures or None,
    )
    card.write(folder)
    return card


def _trainable(
    start: Path, config: Config, device: torch.device, dtype: torch.dtype
) -> tuple[ValueHead, Callable[[Path], None]]:
    """The stored reward model with fp32 masters to train, and how to store it again in the same form."""
    if is_adapter(start):
        base = load_causal_lm(config.model, dtype=dtype, device=device, quantization=config.quantization)
        if config.model.gradient_checkpointing:
            base.activation_checkpointing_enable()
        shared = SharedBase(base, config.adapter)
        weight = shared.load(REWARD, start)
        if weight is None:
            raise InputError("reward.source", str(start), "an adapter with a scalar head (score.weight)")
        scorer = ValueHead(body_of(base), linear_head(weight).to(device), dtype, shared, REWARD)
        shared.train(REWARD)
        return scorer, lambda folder: shared.store(REWARD, scorer.head.weight, start, folder)
    model = load_sequence_classifier(str(start), dtype=torch.float32, device=device)
    if config.model.gradient_checkpointing:
        model.activation_checkpointing_enable()
    scorer = ValueHead(body_of(model), linear_head(model.score.weight).to(device), dtype)

    def save(folder: Path) -> None:
        _put_head(model, scorer.head)
        model.save_pretrained(folder)

    return scorer, save


@torch.no_grad()
def _put_head(model: PreTrainedModel, head: nn.Linear) -> None:
    model.score.weight.copy_(head.weight)


def regress(
    scorer: ValueHead,
    chat: ChatTokenizer,
    pairs: Sequence[Pair],
    source: RewardModelSource,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """`source.prefix_steps` updates of AdamW on `source.batch_size` pairs each, chosen and rejected alike.

    The loss is the mean over all prefixes of a minibatch of (score of the prefix - frozen score of the whole)^2, plus
    the same mean over the whole responses alone, which keeps the ranking of pairs where it was. The learning rate
    rises over the first twentieth of the updates and falls linearly to 0. The head stays without bias, which a
    sequence classifier could not store.

    Raises:
        RunError: The loss is not finite.
    """
    steps, size = source.prefix_steps, min(source.batch_size, len(pairs))
    picks = [_minibatch(len(pairs), size, step, source.seed) for step in range(steps)]
    used = {i: n for n, i in enumerate(sorted({i for pick in picks for i in pick}))}
    targets = final_scores(scorer, chat, [pairs[i] for i in used]).view(-1, 2)
    parameters = [p for name, p in scorer.trained_parameters().items() if name != "head.bias"]
    optimizer = torch.optim.AdamW(parameters, lr=source.prefix_learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    scaler = torch.amp.GradScaler(scorer.device.type, enabled=scorer.dtype is torch.float16)
    budget = micro_batch_tokens(scorer.body.config, source.micro_batch_tokens)
    for step, pick in enumerate(picks):
        rows = _sequences([pairs[i] for i in pick], chat, scorer.device)
        loss = _backward(scorer, rows, targets[[used[i] for i in pick]].flatten(), scaler, budget)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if loss != loss or loss == float("inf"):
            raise RunError(f"the loss of the reward model's prefixes was {loss} after {step} updates")
        if (step + 1) % max(1, steps // 10) == 0:
            say(f"  reward model prefix step {step + 1}/{steps}  squared error {loss:.3f}")


def _minibatch(count: int, size: int, step: int, seed: int) -> list[int]:
    """Pairs without replacement, one random order per pass; the remainder of a pass is left out."""
    epoch, k = divmod(step, count // size)
    order = permutation(count, seed, "prefix pairs", epoch)
    return [int(i) for i in order[k * size : (k + 1) * size]]


def _backward(scorer: ValueHead, rows: Sequences, targets: Tensor, scaler: torch.amp.GradScaler, budget: int) -> float:
    """Gradients of the loss of `rows`, `budget` tokens at once; returns the mean squared error over their prefixes."""
    prefixes, loss = int(rows.response_mask.sum()) + len(rows), 0.0
    for index in token_batches(rows.attention_mask.sum(1), budget):
        part = rows.rows(index)
        scores, mask = score_prefixes(scorer, part)
        squared = (scores - targets[index].unsqueeze(1)) ** 2 * mask
        whole = squared.gather(1, part.lengths.unsqueeze(1)).sum() / len(rows)
        error = squared.sum() / prefixes
        with scorer.active():  # gradient checkpointing runs forward again: with the same adapter
            scaler.scale(error + whole).backward()
        loss += float(error.detach())
    return loss


def _sequences(pairs: Sequence[Pair], chat: ChatTokenizer, device: torch.device) -> Sequences:
    """Chosen and rejected of each pair, next to each other."""
    rows = [(p.prompt.input_ids, r) for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    return collate(rows, chat.pad_id, device)


def score_prefixes(scorer: ValueHead, rows: Sequences) -> tuple[Tensor, Tensor]:
    """Scores of the first 0..T response tokens (B, T + 1), 0 where there is no such prefix, and their mask."""
    width = rows.response_ids.shape[1]
    mask = pad(rows.response_mask, (1, 0), value=1)
    scores = scorer(rows.input_ids, rows.attention_mask)[:, -(width + 1) :]
    return scores.masked_fill(mask == 0, 0), mask


@torch.no_grad()
def every_prefix(scorer: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Scores (2n, T + 1) of all prefixes of chosen and rejected responses, and the responses' lengths (2n,)."""
    rows = _sequences(pairs, chat, scorer.device)
    out = torch.zeros(len(rows), rows.response_ids.shape[1] + 1, device=scorer.device)
    for index in token_batches(rows.attention_mask.sum(1), FORWARD_TOKENS):
        scores, _ = score_prefixes(scorer, rows.rows(index))
        out[index, : scores.shape[1]] = scores
    return out, rows.lengths


def final_scores(scorer: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair]) -> Tensor:
    """(2n,) scores of whole responses, chosen and rejected of each pair next to each other."""
    scores, lengths = every_prefix(scorer, chat, pairs)
    return scores.gather(1, lengths.unsqueeze(1)).squeeze(1)


def prefix_figures(scorer: ValueHead, chat: ChatTokenizer, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """How far the scores of prefixes foretell the final one, over the responses of `pairs`.

    Returns:
        `correlation` with the final score, of prefixes that hold the first 25, 50, 75, 90% of the response's tokens
        (rounded) and of the one that lacks the last token alone (`before_last`). `offset`: how far the mean score of
        such prefixes, and of the empty response (`0`), lies above the mean final score, in deviations of the final
        scores: 0 at each is a flat mean, on which no token is paid or charged for its place alone.
    """
    scores, lengths = every_prefix(scorer, chat, pairs)
    scores = scores.double().cpu()
    lengths = lengths.cpu()
    places = {f"{fraction:g}": (fraction * lengths).round().long() for fraction in (0.0, *FRACTIONS)}
    places["before_last"] = (lengths - 1).clamp(min=0)
    final = scores.gather(1, lengths.unsqueeze(1)).squeeze(1)
    at = {name: scores.gather(1, place.unsqueeze(1)).squeeze(1) for name, place in places.items()}
    unit = final.std(unbiased=False).clamp(min=1e-12)
    correlation = {
        name: float(torch.corrcoef(torch.stack([value, final]))[0, 1]) for name, value in at.items() if name != "0"
    }
    offset = {name: float((value.mean() - final.mean()) / unit) for name, value in at.items()}
    return {"correlation": correlation, "offset": offset}

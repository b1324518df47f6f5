"""Reward models: trained on the loop from a run's pairs, measured, and stored for every later run."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align.algorithms.reward_model import ROLE, PrefixScores, RewardModel
from align.config import LRSchedule, RewardModelSource, TrainedOn
from align.config.methods import OfflineConfig
from align.config.values import settled_rate
from align.engine.loading import load_start_model
from align.engine.reference import ValueHead
from align.models.adapters import POLICY, SharedBase
from align.models.load import body_of, load_body, states_width
from align.models.locate import is_adapter
from align.models.reward_folder import RewardCard, linear_head, read_card, read_head, write_head
from align.rewards.pairs import FRACTIONS, longer_wins, pair_accuracy, prefix_figures
from align.run.plan import updates_of
from align.run.stage import Stage
from align.store import find_or_make
from align.stored.keys import reward_model_key
from align.worlds import resolve

WARMUP = 0.05  # of all updates


def ensure_reward_model(stage: Stage, source: RewardModelSource) -> Path:
    """The folder of the reward model that `source` names, trained now, by `stage`, if nobody has trained it before."""
    if source.path is not None:
        return Path(resolve(source.path, "reward.source.path")).expanduser()
    key = reward_model_key(stage.config, source, stage.train, stage.held_out)

    def make(folder: Path) -> None:
        card = train_reward_model(stage.at(folder, "reward model"), source, key)
        if card.accuracy is not None and card.longer_wins is not None:
            figures = f"held-out accuracy {card.accuracy:.3f}; the longer response wins {card.longer_wins:.3f}"
            stage.say(f"reward model trained in {card.seconds:.0f} s: {figures}")
        if card.prefix_scores is not None and source.trained_on is TrainedOn.prefixes:
            stage.say(f"correlation of prefix scores with the final one: {_correlations(card.prefix_scores)}")

    return find_or_make("reward_models", key, make)


def _correlations(figures: Mapping[str, Any]) -> str:
    """`end .41/.52`, one number for each of FRACTIONS."""
    rows = {name: [found["correlation"][f"{f:g}"] for f in FRACTIONS] for name, found in figures.items()}
    return ", ".join(f"{name} {'/'.join(f'{value:.2f}' for value in row)}" for name, row in rows.items())


def train_reward_model(
    stage: Stage, source: RewardModelSource, key: dict[str, Any], start: Path | None = None
) -> RewardCard:
    """Train on the stage's pairs, measure on its held-out ones, and write model and card into its folder.

    Args:
        start: With trained_on=prefixes, the model that the first stage left; None = as it is stored, or trained now.
    """
    began = time.perf_counter()
    if source.trained_on is TrainedOn.end:
        stage.say(f"training the reward model on {len(stage.train)} pairs, once")
        model, shared = _fresh(stage, source.seed)
        _train_on_ends(stage, source, model)
        figures = {"end": prefix_figures(model, stage.chat, stage.held_out, stage.activity)} if stage.held_out else {}
    else:
        start = start or ensure_reward_model(stage, replace(source, trained_on=TrainedOn.end))
        stage.say("training the reward model on prefixes, once")
        model, shared = _stored(stage, start)
        card = read_card(start)
        figures = dict(card.prefix_scores or {}) if card is not None else {}
        _train_on_prefixes(stage, source, model)
        if stage.held_out:
            figures["prefixes"] = prefix_figures(model, stage.chat, stage.held_out, stage.activity)
    _save(stage, model, shared)
    card = RewardCard(
        accuracy=pair_accuracy(model, stage.chat, stage.held_out, stage.activity) if stage.held_out else None,
        longer_wins=longer_wins(stage.held_out) if stage.held_out else None,
        held_out_pairs=len(stage.held_out),
        train_pairs=len(stage.train),
        seconds=time.perf_counter() - began,
        key=key,
        precision=str(stage.dtype).removeprefix("torch."),
        prefix_scores=figures or None,
    )
    card.write(stage.folder)
    return card


def _train_on_ends(stage: Stage, source: RewardModelSource, model: ValueHead) -> None:
    steps = updates_of(source.epochs, len(stage.train), source.batch_size)
    warmup = math.ceil(WARMUP * steps) if steps > 1 else 0
    method = _method("reward_model", source, settled_rate(source.learning_rate), warmup)
    config = stage.configured(method, steps=steps, seed=source.seed)
    stage.run(config, {ROLE: model}, lambda run: RewardModel(run, source.center_coef))


def _train_on_prefixes(stage: Stage, source: RewardModelSource, model: ValueHead) -> None:
    steps = source.prefix_steps
    warmup = max(1, steps // 20) if steps > 1 else 0
    method = _method("reward_prefixes", source, settled_rate(source.prefix_learning_rate), warmup)
    config = stage.configured(method, steps=steps, seed=source.seed)
    stage.run(config, {ROLE: model}, PrefixScores)


def _method(name: str, source: RewardModelSource, learning_rate: float, warmup_steps: int) -> OfflineConfig:
    """AdamW as transformers' Trainer has it, the rate rising to `learning_rate` and falling linearly to 0."""
    return OfflineConfig(
        name=name,
        learning_rate=learning_rate,
        lr_schedule=LRSchedule.linear,
        warmup_steps=warmup_steps,
        adam_eps=1e-8,
        batch_size=source.batch_size,
        micro_batch_tokens=source.micro_batch_tokens,
    )


def _fresh(stage: Stage, seed: int) -> tuple[ValueHead, SharedBase | None]:
    """The start model's body under a fresh head, N(0, 1 / (d + 1)) (arXiv 1909.08593; N, detail on heads)."""
    config, whole = stage.config, stage.config.adapter.name == "none"
    stage.activity.advance("loading the model")
    causal = load_start_model(
        config.model,
        dtype=torch.float32 if whole else stage.dtype,
        device=stage.device,
        quantization=None if whole else config.quantization,
    )
    width = states_width(causal)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(width, 1, bias=False)
        nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
    return _trainable(stage, causal, linear_head(head.weight), seed)


def _stored(stage: Stage, start: Path) -> tuple[ValueHead, SharedBase | None]:
    """The reward model in `start` with fp32 masters to train further."""
    stage.activity.advance("loading the model")
    head, config = read_head(start), stage.config
    assert head is not None
    if not is_adapter(start):
        body = load_body(str(start), dtype=torch.float32, device=stage.device, key="reward.source")
        return _whole(stage, body, head), None
    base = load_start_model(config.model, dtype=stage.dtype, device=stage.device, quantization=config.quantization)
    model, shared = _trainable(stage, base, head, 0)
    assert shared is not None
    shared.restore(start)
    return model, shared


def _trainable(stage: Stage, causal: Any, head: nn.Linear, seed: int) -> tuple[ValueHead, SharedBase | None]:
    if stage.config.adapter.name == "none":
        return _whole(stage, body_of(causal), head), None
    if stage.config.model.gradient_checkpointing:
        causal.activation_checkpointing_enable()
    body = body_of(causal)
    shared = stage.engine.shared_base(causal, stage.config.adapter, seed)
    shared.train(POLICY)
    return _headed(stage, body, head, shared, POLICY), shared


def _whole(stage: Stage, body: Any, head: nn.Linear) -> ValueHead:
    if stage.config.model.gradient_checkpointing:
        body.activation_checkpointing_enable()
    return _headed(stage, body, head)


def _headed(stage: Stage, body: Any, head: nn.Linear, *adapter: Any) -> ValueHead:
    """A bias would move no margin between two responses: the head's stays 0."""
    model = stage.engine.value_head(body, head.to(stage.device), stage.dtype, *adapter)
    model.head.bias.requires_grad_(False)
    return model


def _save(stage: Stage, model: ValueHead, shared: SharedBase | None) -> None:
    if shared is None:
        model.body.config.get_text_config().pad_token_id = stage.chat.pad_id
        model.body.save_pretrained(stage.folder)
    else:
        shared.save(stage.folder)
    write_head(model.head, stage.folder)
    stage.chat.tokenizer.save_pretrained(stage.folder)

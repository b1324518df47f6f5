"""What a run will train, in order: the models that are trained once, then the method, each with its size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from align.config import TRAIN, Config, Examples, ImplicitCredit, RewardModelSource, Shape, TrainedOn
from align.config.methods import OfflineConfig, OnPolicyConfig
from align.config.trl import TRLOnPolicyConfig, TRLPairsConfig
from align.data.prepared import Preferences
from align.store import find
from align.stored.keys import dpo_policy_key, reward_model_key
from align.types import Pair


@dataclass(frozen=True)
class Planned:
    """One training of a run."""

    name: str
    updates: int
    rows: int  # pairs or responses of an update
    learns_from: str
    stored: Path | None = None  # where the finished model is already, which is then taken


def announced(config: Config, data: Preferences, aside: Sequence[Pair]) -> list[str]:
    """Return a line for each model that a run will train before its method; none where all are stored already."""
    stages = [stage for stage in planned(config, data, aside) if stage.name != config.method.name]
    return [
        f"trained first, once: {stage.name}, {stage.updates} updates of {stage.rows} on {stage.learns_from}"
        for stage in stages
        if stage.stored is None
    ]


def updates_of(epochs: int, pairs: int, batch_size: int) -> int:
    """Compute the updates of `epochs` passes over the pairs."""
    return math.ceil(epochs * pairs / batch_size)


def planned(config: Config, data: Preferences, aside: Sequence[Pair]) -> list[Planned]:
    """List the trainings of a run in their order (run/stages.py)."""
    stages = []
    source = config.reward.source
    if config.evaluation.reward_model == TRAIN:
        stages += _reward_model(config, data, config.evaluation.judge.source(), aside, "reward model of the evaluation")
    for i, model in enumerate(source.models()):
        name = "reward model" if len(source.models()) == 1 else f"reward model {i + 1}"
        stages += _reward_model(config, data, model, data.reward_train, name)
    credit = config.reward.credit
    if isinstance(credit, ImplicitCredit) and credit.path is None:
        pairs, held_out = data.reward_train, data.reward_held_out
        found = find("dpo_policies", dpo_policy_key(config, credit, pairs, held_out))
        updates = updates_of(credit.epochs, len(pairs), credit.batch_size)
        stages.append(Planned("DPO policy of the credit", updates, credit.batch_size, f"{len(pairs)} pairs", found))
    return [*stages, *_method(config, data)]


def _reward_model(
    config: Config, data: Preferences, source: RewardModelSource, pairs: Sequence[Pair], name: str
) -> list[Planned]:
    if source.path is not None:
        return []
    ends = replace(source, trained_on=TrainedOn.end)
    found = find("reward_models", reward_model_key(config, ends, pairs, data.reward_held_out))
    updates, on = updates_of(source.epochs, len(pairs), source.batch_size), f"{len(pairs)} pairs"
    stages = [Planned(name, updates, source.batch_size, on, found)]
    if source.trained_on is TrainedOn.prefixes:
        found = find("reward_models", reward_model_key(config, source, pairs, data.reward_held_out))
        stages.append(Planned(f"{name}, on prefixes", source.prefix_steps, source.batch_size, on, found))
    return stages


def _method(config: Config, data: Preferences) -> list[Planned]:
    """The run's own method; nothing where it does not train."""
    method, steps = config.method, config.max_steps
    if isinstance(method, OfflineConfig | TRLPairsConfig):
        size, there, kind = method.batch_size, len(data.train), "pairs"
        if method.learns_from is Examples.demonstrations and data.shape is not Shape.preference:
            there, kind = len(data.trained.demonstrations), "demonstrations"
        elif method.learns_from is Examples.labels and data.trained.labelled:
            size, there, kind = 2 * size, len(data.trained.labelled), "labelled completions"
        if not there:  # nothing is trained on rows that are only measured on
            return []
        return [Planned(method.name, steps, size, f"{there} {kind}, {steps * size / there:.2g} passes")]
    if isinstance(method, OnPolicyConfig | TRLOnPolicyConfig):
        size = config.rollout.batch_size
        rollouts = math.ceil(steps * method.minibatch_size / (size * getattr(method, "epochs", 1)))
        from_what = f"{rollouts} rollouts of {size} responses to {len(data.trained.prompts)} prompts"
        return [Planned(method.name, steps, method.minibatch_size, from_what)]
    return []

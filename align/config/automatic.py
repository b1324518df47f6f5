"""Settle the keys whose value is `auto`: learning rates, lengths and credit, from the model's size. Imports no torch.

Rates of SFT and DPO are measured (docs/studies/rates.md), those of other methods published rules; the embedded world
keeps those that were tuned on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.config.credits import AutoCredit, ImplicitCredit, SpansCredit, SparseCredit, TruthCredit
from align.config.judge import TRAIN
from align.config.method_bases import OptimizedConfig
from align.config.methods import PPOConfig
from align.config.sources import GoldSource, RewardModelTraining, TrainedOn
from align.config.values import AUTO
from align.errors import InputError
from align.worlds import GENERAL, SCHEME

if TYPE_CHECKING:
    from align.config.base import Section
    from align.config.schema import Config

REFERENCE_WIDTH = 576  # hidden size at which RATES stand: SmolLM2-135M's
LORA_FACTOR = 10.0  # times the rate of all weights (Schulman et al., LoRA Without Regret, 2025)
FAR = 10.0  # times the rule's rate, above which a given rate is warned about
# Of all weights, by the key's owner. Measured on SmolLM2-135M in 30 updates: SFT's is the largest tried with which LoRA
# keeps the policy within 10 nats a response, DPO's has the largest held-out margin and accuracy of those within that.
RATES = {
    "sft": 1.0e-5,
    "dpo": 2.0e-5,
    "ppo": 5.0e-6,
    "grpo": 5.0e-6,
    "critic": 1.0e-5,
    "reward_model": 1.0e-5,
    "prefixes": 1.0e-5,
}
# How rates fall with the width, as its power. That of the root meets what is used for 7B models in supervised training
# (1e-5 to 2e-5 of all weights); the policies of rewards and preferences, at 5e-7 to 1e-6 there, fall faster.
FALL = {"dpo": 1.0, "ppo": 1.0, "grpo": 1.0}
ROOT = 0.5  # of all others
WORLD_RATES = {"critic": 1.0e-3, "reward_model": 1.0e-4, "prefixes": 1.0e-3}  # of the embedded world; others:
WORLD_RATE = 3.0e-4
LONGEST = 1024  # tokens of a prompt, and of a given response, of models with a long context
NEW_TOKENS = 256  # of a sampled response
WORLD_TEXT = f"{SCHEME}pocket/general.jsonl"
WORLD_LENGTHS = {"max_prompt_tokens": 512, "max_response_tokens": 512, "max_new_tokens": 128}


@dataclass(frozen=True)
class ModelFacts:
    """What the model's config.json says."""

    world: bool  # the embedded world's model, or one trained from it; every other one is a real model
    width: int | None = None  # hidden size
    context: int | None = None  # positions that the model was made for; None = no limit is named


@dataclass(frozen=True)
class Settled:
    """A configuration without `auto`, and how its numbers came about."""

    config: Config
    chosen: dict[str, Any]  # value by key, of every key that was `auto`
    warnings: list[str]  # a line each

    def lines(self, *, trains: bool = True) -> list[str]:
        """Return what a user reads of it: the numbers on one line (the method's only if it trains), then warnings."""
        shown = {key: value for key, value in self.chosen.items() if trains or not key.startswith("method.")}
        numbers = ", ".join(f"{key}={value}" for key, value in shown.items())
        return [*([f"auto: {numbers}"] if numbers else []), *(f"warning: {line}" for line in self.warnings)]


@dataclass(frozen=True)
class _Rate:
    """A learning rate of the configuration."""

    key: str  # in the whole configuration
    section: Section
    field: str
    kind: str  # of RATES
    used: bool = True  # in this run


def settle(config: Config, model: ModelFacts) -> Settled:
    """Replace every `auto` by a number or a scheme; `config` itself stays as it is.

    Raises:
        InputError: A given length leaves the model's context no room for another.
    """
    settled, chosen, warnings = deepcopy(config), dict[str, Any](), list[str]()
    settled.thaw()
    whole = settled.adapter.name == "none"
    for rate in _rates(settled):
        rule, given = _rule(rate.kind, model, whole), getattr(rate.section, rate.field)
        if given == AUTO:
            setattr(rate.section, rate.field, rule)
            chosen |= {rate.key: rule} if rate.used else {}
        elif rate.used and not model.world and given > FAR * rule:
            trained = "all weights" if whole else "LoRA"
            warnings.append(
                f"{rate.key}={given:g} is {given / rule:.0f} times the rule for this model ({trained}: {rule:g}); "
                "such rates have wrecked models within a few updates"
            )
    for key, length in _lengths(settled, model).items():
        section, _, field = key.partition(".")
        setattr(getattr(settled, section), field, length)
        chosen[key] = length
    if settled.evaluation.general_text == AUTO:
        settled.evaluation.general_text = WORLD_TEXT if model.world else GENERAL
    if isinstance(settled.reward.credit, AutoCredit):
        settled.reward.credit = _scheme(settled)
        chosen["reward.credit"] = settled.reward.credit.name
    retention = settled.callbacks.retention
    if retention.best == AUTO:
        retention.best, retention.lowest = _best(settled)
        chosen["callbacks.retention.best"] = retention.best
    if config.frozen:
        settled.freeze()
    return Settled(settled, chosen, warnings)


def _rates(config: Config) -> Iterator[_Rate]:
    """Find every learning rate of a configuration."""
    method, credit = config.method, config.reward.credit
    if isinstance(method, OptimizedConfig):
        yield _Rate("method.learning_rate", method, "learning_rate", method.rate_rule)
    if isinstance(method, PPOConfig):
        yield _Rate("method.critic_learning_rate", method, "critic_learning_rate", "critic")
    for key, source in config.reward.source.every().items():
        if isinstance(source, RewardModelTraining):
            trained = getattr(source, "path", None) is None
            prefixes = source.trained_on is TrainedOn.prefixes
            yield _Rate(f"{key}.learning_rate", source, "learning_rate", "reward_model", trained)
            yield _Rate(f"{key}.prefix_learning_rate", source, "prefix_learning_rate", "prefixes", trained and prefixes)
    if config.evaluation.reward_model == TRAIN:
        yield _Rate("evaluation.judge.learning_rate", config.evaluation.judge, "learning_rate", "reward_model")
    if isinstance(credit, ImplicitCredit):
        yield _Rate("reward.credit.learning_rate", credit, "learning_rate", "dpo", credit.path is None)


def _rule(kind: str, model: ModelFacts, whole: bool) -> float:
    """Compute the rate of `kind`: RATES at REFERENCE_WIDTH, falling with the width as FALL says; LoRA's higher."""
    if model.world:
        return WORLD_RATES.get(kind, WORLD_RATE)
    rate = RATES[kind] * (1.0 if whole else LORA_FACTOR)
    return float(f"{rate * (REFERENCE_WIDTH / (model.width or REFERENCE_WIDTH)) ** FALL.get(kind, ROOT):.2g}")


def _lengths(config: Config, model: ModelFacts) -> dict[str, int]:
    """Compute the lengths that are `auto`: prompt and response fit the context beside each other."""
    keys = ("data.max_prompt_tokens", "data.max_response_tokens", "rollout.max_new_tokens")
    given = {key: getattr(getattr(config, key.partition(".")[0]), key.partition(".")[2]) for key in keys}
    auto = [key for key in keys if given[key] == AUTO]
    if model.world:
        return {key: WORLD_LENGTHS[key.partition(".")[2]] for key in auto}
    caps = dict(zip(keys, (LONGEST, LONGEST, NEW_TOKENS), strict=True))
    if model.context is None:
        return {key: caps[key] for key in auto}
    prompt, answers = keys[0], keys[1:]
    beside = max(min(caps[key], model.context // 2) if key in auto else given[key] for key in answers)
    prompts = min(caps[prompt], model.context - beside) if prompt in auto else given[prompt]
    left = model.context - prompts
    if auto and min(prompts, left) < 1:
        tight = next(key for key in keys if key not in auto and given[key] >= model.context)
        raise InputError(tight, given[tight], f"fewer than the {model.context} tokens of the model's context")
    return {key: prompts if key == prompt else min(caps[key], left) for key in auto}


def _best(config: Config) -> tuple[str, bool]:
    """Choose the figure by which the best checkpoint is kept, the method's objective, and whether lower is better."""
    if config.reward.source.name != "none":
        return "eval/reward/proxy_mean", False
    if config.method.name == "sft":
        return "eval/preference/perplexity_chosen", True
    return "eval/preference/log_ratio/accuracy", False


def _scheme(config: Config) -> SparseCredit | SpansCredit | TruthCredit:
    """Choose the scheme that pays what the source gives: its own token scores, else all at the last token."""
    source = config.reward.source
    if any(isinstance(part, GoldSource) for part in source.paid()):
        return TruthCredit()
    return SpansCredit() if "token_scores" in source.offers else SparseCredit()

"""From a run's materials to what its trainer and its evaluation work with: roles, reward, credit, judge, prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config import CriticInit
from align.config.composition import general_text
from align.data.preferences import prompts_of
from align.engine.engine import Engine
from align.engine.reference import Policy
from align.engine.roles import Roles, build_roles, weights_mib
from align.evaluation import EvaluationSet, Judge, load_judge, probes_of
from align.evaluation import settings as evaluation_settings
from align.models.load import context_length
from align.rewards import Builder, Credit, References, Source, build_credit
from align.rewards.cross_tokenizer import reads_policy_tokens
from align.rewards.signals import LogRatio, WithSignals
from align.run.stages import Materials, Site, Stored
from align.worlds import World
from align.worlds import get as get_world


@dataclass(frozen=True)
class Assembly:
    """Loaded and connected; nothing is trained yet."""

    roles: Roles
    source: Source
    credit: Credit
    world: World | None
    judge: Judge
    data: EvaluationSet
    settings: dict[str, Any]  # of the evaluation, as evaluation.json states them


def assemble(site: Site, materials: Materials, stored: Stored, critic: CriticInit | None) -> Assembly:
    """Load the models that `site.config` needs and connect them; raise InputError where they do not fit each other.

    Args:
        critic: Where the critic's weights come from; None = the method has none, or nothing is trained.
    """
    config = site.config
    cross_tokenizer = _cross_tokenizer(site, materials, stored)
    own = [folder for i, folder in enumerate(stored.rewards) if i not in cross_tokenizer]
    roles = build_roles(
        config,
        device=site.device,
        dtype=site.dtype,
        reward=own[0] if own else None,
        critic_init=critic,
        more_rewards=own[1:],
        dpo=stored.dpo,
    )
    site.record.update(weights_mib={name: round(size, 3) for name, size in weights_mib(roles).items()})
    note_engine(site, roles.engine, roles.policy)
    if roles.critic_from is not None:
        site.say(f"critic starts as the {roles.critic_from.value.replace('_', ' ')}")
    world = get_world(config.data.world) if config.data.world is not None else None
    credit = build_credit(config.reward.credit)
    given, chat = materials.data, materials.chat
    references = References(roles.reference, chat, prompts_of(given.train), config.rollout, site.say)
    scored = prompts_of([*given.train, *given.held_out])
    builder = Builder(roles, references, world, scored, materials.functions, cross_tokenizer, credit.needs)
    source = _source(site, roles, builder)
    evaluation = None
    if stored.judge is not None:
        evaluation = load_judge(stored.judge, chat, site.device, site.dtype, roles.engine).score
    judging = source.frozen()
    judge = Judge(lambda batch: judging.score(batch, credit.needs), credit.assign, world, evaluation, judging.score)
    data = _evaluation_set(site, materials)
    where, method = general_text(config), config.method.name
    settings = evaluation_settings(data, judge, config.evaluation, config.rollout, method, general_text=where)
    return Assembly(roles, source, credit, world, judge, data, settings)


def note_engine(site: Site, engine: Engine, policy: Policy) -> None:
    """Record which fast paths are on, and print where a GPU launches decoding steps that were meant to be captured."""
    asked = site.config.rollout.cuda_graphs
    report = engine.report(policy, cuda_graphs=asked)
    site.record.update(engine=report)
    captured = report["paths"]["captured_steps"]
    if site.device.type == "cuda" and asked and engine.fast and not captured["on"]:
        site.say(f"rollout.cuda_graphs: not here ({captured['why']}); each decoding step is launched kernel by kernel")


def _cross_tokenizer(site: Site, materials: Materials, stored: Stored) -> dict[int, Path]:
    """The reward models that cannot read the policy's tokens, by their place."""
    found = {}
    for i, (model, folder) in enumerate(zip(site.config.reward.source.models(), stored.rewards, strict=True)):
        if model.path is not None and not reads_policy_tokens(folder, materials.chat, "reward.source.path"):
            site.say(f"{model.path} reads text: responses are re-encoded with its own tokenizer and chat template")
            found[i] = folder
    return found


def _source(site: Site, roles: Roles, builder: Builder) -> Source:
    source = builder.build(site.config.reward.source)
    if builder.scales:
        own = builder.scales.pop("reward.source", {})
        site.record.update(reward_scale=own | ({"parts": builder.scales} if builder.scales else {}))
    return WithSignals(source, None if roles.dpo is None else LogRatio(roles.dpo, roles.reference))


def _evaluation_set(site: Site, materials: Materials) -> EvaluationSet:
    config, held_out = site.config, materials.data.held_out
    prompts, limit = prompts_of(held_out), context_length(config.model)
    longest = None if limit is None else limit - config.rollout.max_new_tokens
    probes = probes_of(config.evaluation, materials.chat, prompts, world=config.data.world, longest=longest)
    return EvaluationSet.select(prompts, held_out, materials.texts, config.evaluation, probes)

"""From a run's materials to what its trainer and its evaluation work with: roles, reward, credit, judge, prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config import TRAIN, Config, CriticInit, NoCredit, NoSource
from align.data.prepared import Preferences
from align.engine.engine import Engine
from align.engine.layers import LayerReports
from align.engine.reference import Policy
from align.engine.roles import Roles, build_roles, weights_mib
from align.evaluation import EvaluationSet, Judge, load_judge, probes_of
from align.evaluation import settings as evaluation_settings
from align.evaluation.intervals import Bootstrap
from align.models.hardware import memory_left_mib
from align.models.load import context_length, load_skeleton
from align.rewards import Builder, Credit, References, Source, build_credit
from align.rewards.cross_tokenizer import reads_policy_tokens
from align.rewards.pairs import outcomes
from align.rewards.signals import LogRatio, WithSignals
from align.run.memory_plan import plan_memory
from align.run.stages import Materials, Site, Stored
from align.run.verdicts import PairAccuracy
from align.types import Pair, RewardInput, RewardOutput
from align.worlds import World
from align.worlds import get as get_world

JUDGED = 512  # held-out pairs on which a reward model that is given by path is judged
Scorer = Callable[[RewardInput], RewardOutput]


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
    activity = site.display.activity
    activity.advance("loading the models")
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
    models = (roles.policy, roles.reference, roles.critic, *roles.rewards, roles.dpo)
    LayerReports(activity).watch(models)
    site.record.update(weights_mib={name: round(size, 3) for name, size in weights_mib(roles).items()})
    note_engine(site, roles.engine, roles.policy)
    if roles.critic_from is not None:
        site.say(f"critic starts as the {roles.critic_from.value.replace('_', ' ')}")
    world = get_world(config.data.world) if config.data.world is not None else None
    credit = build_credit(config.reward.credit)
    given, chat = materials.data, materials.chat
    train = given.trained.prompts
    references = References(roles.reference, chat, train, config.rollout, site.say, activity=activity)
    scored = [*train, *given.measured.prompts]
    own_parts = (materials.functions, cross_tokenizer, credit.needs)
    builder = Builder(roles, references, world, scored, *own_parts, activity=activity, max_steps=config.max_steps)
    source = _source(site, roles, builder)
    evaluation = None
    if stored.judge is not None:
        evaluation = load_judge(stored.judge, chat, site.device, site.dtype, roles.engine, activity).score
    judge = _judge(config, source.frozen(), credit, world, evaluation)
    data = _evaluation_set(site, materials)
    settings = evaluation_settings(data, judge, config.evaluation, config.rollout, config.method.name)
    return Assembly(roles, source, credit, world, judge, data, settings)


def judge_given(site: Site, made: Assembly, materials: Materials) -> None:
    """Judge the reward models that are given by path, the run's and its judge: nobody measured them on these pairs.

    Raises:
        InputError: As `Site.judge_reward_model`.
    """
    pairs, evaluation = materials.data.reward_held_out[:JUDGED], site.config.evaluation
    if not pairs:
        return
    if any(model.path is not None for model in site.config.reward.source.models()):
        found = _measured(site, materials, made.source.frozen().score, pairs)
        site.record.update(reward_accuracy=found.as_json() | {"pairs": len(pairs)})
        site.judge_reward_model(found, "reward.source.path")
    if made.judge.evaluation is not None and evaluation.reward_model != TRAIN:
        found = _measured(site, materials, made.judge.evaluation, pairs)
        facts = {"path": evaluation.reward_model, "held_out": found.as_json() | {"pairs": len(pairs)}}
        site.record.update(evaluation_reward_model=facts)
        site.judge_judge(found)


def _measured(site: Site, materials: Materials, score: Scorer, pairs: Sequence[Pair]) -> PairAccuracy:
    found = outcomes(score, materials.chat, pairs, site.device)
    return PairAccuracy.of_outcomes(found, [pair.prompt.id for pair in pairs], Bootstrap.of(site.config.evaluation))


def _judge(config: Config, source: Source, credit: Credit, world: World | None, evaluation: Any) -> Judge:
    if isinstance(config.reward.source, NoSource):
        return Judge(world=world, evaluation=evaluation)
    assign = None if isinstance(config.reward.credit, NoCredit) else credit.assign
    return Judge(lambda batch: source.score(batch, credit.needs), assign, world, evaluation, source.score)


def note_memory(site: Site, data: Preferences) -> None:
    """Record and print what the run will take of the memory at its peak, and warn where the machine has less."""
    model, left = load_skeleton(site.config.model), memory_left_mib(site.device)
    plan = plan_memory(site.config, model, data, device=site.device, dtype=site.dtype, left=left)
    if plan is None:
        return
    site.record.update(memory_plan_mib=plan.as_json())
    site.say(plan.line)
    if plan.verdict is not None:  # no verdict on a run that ends, which had enough
        site.say(plan.verdict.line)


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
    activity = site.display.activity
    return WithSignals(source, None if roles.dpo is None else LogRatio(roles.dpo, roles.reference, activity=activity))


def _evaluation_set(site: Site, materials: Materials) -> EvaluationSet:
    config, held_out = site.config, materials.data.measured
    prompts, limit = held_out.prompts, context_length(config.model)
    longest = None if limit is None else limit - config.rollout.new_tokens
    probes = probes_of(config.evaluation, materials.chat, prompts, world=config.data.world, longest=longest)
    given = [] if held_out.pairs else held_out.demonstrations
    return EvaluationSet.select(prompts, held_out.pairs, materials.texts, config.evaluation, probes, given)

"""The four roles of a run: policy, reference, critic and reward model, on one base or on copies of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from align.config import Config, CriticInit
from align.engine.engine import Engine
from align.engine.loading import load_start_model
from align.engine.reference import Policy, ValueHead
from align.errors import InputError
from align.models.adapters import CRITIC, DPO, POLICY, REWARD, SharedBase
from align.models.load import body_of, load_causal_lm, states_width
from align.models.locate import is_adapter
from align.models.reward_folder import linear_head, load_reward_model, read_head


@dataclass(frozen=True)
class Roles:
    policy: Policy
    reference: Policy  # the start model, frozen
    critic: ValueHead | None  # None where the method has none
    reward: ValueHead | None  # None where the reward has no model; raw scores until `rescale`
    critic_from: CriticInit | None = None  # where the critic's weights come from
    more_rewards: tuple[ValueHead, ...] = ()  # further reward models: the others of an ensemble or a sum
    dpo: Policy | None = None  # whose log-ratio is credit, frozen; None where the credit needs none
    engine: Engine = field(default_factory=Engine)  # that made them

    @property
    def rewards(self) -> tuple[ValueHead, ...]:
        """Every reward model, in the order of the folders they were loaded from."""
        return () if self.reward is None else (self.reward, *self.more_rewards)


@dataclass(frozen=True)
class _Plan:
    config: Config
    device: torch.device
    dtype: torch.dtype
    reward: Path | None
    critic: CriticInit | None
    more: tuple[Path, ...] = ()
    dpo: Path | None = None

    @property
    def engine(self) -> Engine:
        return Engine.of(self.config)

    def critic_from_reward(self, fits: bool) -> bool:
        """Whether the critic starts as the reward model; `fits`: its folder can take the critic's form here."""
        if self.critic is CriticInit.reward_model and not fits:
            allowed = "auto, policy, or a reward model of this run's kind (whole, or an adapter on the same base)"
            raise InputError("method.critic_init", "reward_model", allowed)
        return fits and self.critic is not CriticInit.policy


def weights_mib(roles: Roles) -> dict[str, float]:
    """MiB of the weights of all roles together, every tensor once, and of the share of them that is trained."""
    modules = (roles.policy, roles.reference, roles.critic, roles.reward)
    weights = {t.data_ptr(): t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())}
    trained = sum(t.nbytes for t in weights.values() if t.requires_grad)
    return {"all": sum(t.nbytes for t in weights.values()) / 2**20, "trained": trained / 2**20}


def build_roles(
    config: Config,
    *,
    device: torch.device,
    dtype: torch.dtype,
    reward: Path | None,
    critic_init: CriticInit | None,
    more_rewards: Sequence[Path] = (),
    dpo: Path | None = None,
) -> Roles:
    """Load what the run needs.

    Args:
        dtype: Of compute. Trained weights are fp32 masters; a frozen LoRA base is stored in `dtype`.
        reward: Folder of the reward model, if the reward comes from one.
        critic_init: None where the method has no critic. The critic may start as `reward`, never as another.
        more_rewards: Folders of further reward models.
        dpo: Folder of the DPO policy, if the credit comes from one.

    Raises:
        InputError: A reward model that does not fit, or critic_init=reward_model where the run has none.
    """
    plan = _Plan(config, device, dtype, reward, critic_init, tuple(more_rewards), dpo)
    return _separate(plan) if config.adapter.name == "none" else _on_one_base(plan)


def _separate(plan: _Plan) -> Roles:
    """Every weight is trained: each role has its own copy."""
    policy = plan.engine.policy(
        load_start_model(plan.config.model, dtype=torch.float32, device=plan.device), plan.dtype
    )
    reference = _frozen(plan, _copy(plan))
    if plan.config.model.gradient_checkpointing:
        policy.model.activation_checkpointing_enable()
    reward = None if plan.reward is None else _frozen_classifier(plan, plan.reward)
    more = tuple(_frozen_classifier(plan, folder) for folder in plan.more)
    dpo = None if plan.dpo is None else _whole_dpo(plan, plan.dpo)
    if plan.critic is None:
        return Roles(policy, reference, None, reward, None, more, dpo, plan.engine)
    if plan.critic_from_reward(fits=plan.reward is not None) and plan.reward is not None:
        critic = _classifier(plan, plan.reward)
        return Roles(policy, reference, critic, reward, CriticInit.reward_model, more, dpo, plan.engine)
    base = _copy(plan).model
    critic = plan.engine.value_head(body_of(base), zero_head(states_width(base)).to(plan.device), plan.dtype)
    return Roles(policy, reference, critic, reward, CriticInit.policy, more, dpo, plan.engine)


def _on_one_base(plan: _Plan) -> Roles:
    """LoRA: one frozen base; an adapter for each role, none for the reference."""
    config, engine = plan.config, plan.engine
    base = load_start_model(config.model, dtype=plan.dtype, device=plan.device, quantization=config.quantization)
    body = body_of(base)
    if config.model.gradient_checkpointing:
        base.activation_checkpointing_enable()
    shared = engine.shared_base(base, config.adapter, config.seed)
    policy, reference = (engine.policy(base, plan.dtype, shared, adapter) for adapter in (POLICY, None))
    adapter = plan.reward if plan.reward is not None and is_adapter(plan.reward) else None
    folders = [] if plan.reward is None else [plan.reward, *plan.more]
    rewards = [
        _adapter_scorer(plan, shared, f"{REWARD}_{i}" if i else REWARD, folder, body)
        if is_adapter(folder)
        else _frozen_classifier(plan, folder)
        for i, folder in enumerate(folders)
    ]
    reward = rewards[0] if rewards else None
    dpo = None
    if plan.dpo is not None and is_adapter(plan.dpo):
        shared.load(DPO, plan.dpo)
        dpo = engine.policy(base, plan.dtype, shared, DPO)
    elif plan.dpo is not None:
        dpo = _whole_dpo(plan, plan.dpo)
    critic, origin = None, None
    if plan.critic is not None:
        if plan.critic_from_reward(fits=adapter is not None) and adapter is not None:
            critic, origin = _adapter_scorer(plan, shared, CRITIC, adapter, body), CriticInit.reward_model
        else:
            shared.add(CRITIC)
            head = zero_head(states_width(base)).to(plan.device)
            critic, origin = engine.value_head(body, head, plan.dtype, shared, CRITIC), CriticInit.policy
    shared.train(POLICY, *([CRITIC] if critic is not None else []))
    return Roles(policy, reference, critic, reward, origin, tuple(rewards[1:]), dpo, engine)


def zero_head(width: int) -> nn.Linear:
    """Build a head that scores everything 0: a critic that does not disturb the first advantages."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _frozen(plan: _Plan, policy: Policy) -> Policy:
    # Not wholly in `dtype`: only with what autocast computes for the policy itself is KL exactly 0 at the start.
    plan.engine.freeze(policy, policy.model, policy.dtype)
    return policy


def _copy(plan: _Plan) -> Policy:
    """Another copy of the start model, whose architecture was tried when the policy's was loaded."""
    model = load_causal_lm(plan.config.model, dtype=torch.float32, device=plan.device)
    return plan.engine.policy(model, plan.dtype)


def _whole_dpo(plan: _Plan, folder: Path) -> Policy:
    """A copy of its own, frozen; an adapter is merged into it."""
    settings = replace(plan.config.model, path=str(folder), revision=None)
    model = load_causal_lm(settings, dtype=torch.float32, device=plan.device)
    return _frozen(plan, plan.engine.policy(model, plan.dtype))


def _classifier(plan: _Plan, folder: Path) -> ValueHead:
    body, head = load_reward_model(str(folder), dtype=torch.float32, device=plan.device, key="reward.source.path")
    return plan.engine.value_head(body, head, plan.dtype)


def _frozen_classifier(plan: _Plan, folder: Path) -> ValueHead:
    scorer = _classifier(plan, folder)
    plan.engine.freeze(scorer, scorer.body, plan.dtype)
    return scorer


def _adapter_scorer(plan: _Plan, shared: SharedBase, name: str, folder: Path, body: nn.Module) -> ValueHead:
    weight, head = shared.load(name, folder), read_head(folder)
    if weight is not None:
        head = linear_head(weight)
    if head is None:
        raise InputError("reward.source.path", str(folder), "an adapter with a scalar head")
    return plan.engine.value_head(body, head.to(plan.device), plan.dtype, shared, name)

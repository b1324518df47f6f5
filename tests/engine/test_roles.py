"""Which role stands on which weights, full and LoRA, and where the critic comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import TaskType, get_peft_model

from align.config import AdapterConfig, CriticInit, EngineKind, RewardConfig, RewardModelSource, SparseCredit
from align.engine.fast.fused_lora import FusedLoraLinear
from align.engine.fast.policy import FastPolicy
from align.engine.fast.value_head import FastValueHead
from align.engine.reference import Policy, ValueHead
from align.engine.roles import Roles, build_roles
from align.errors import InputError
from align.models.adapters import lora_config
from align.models.locate import is_adapter
from align.models.reward_folder import RewardCard, read_card
from tests import tiny

LORA = AdapterConfig(name="lora", r=4, alpha=8)
IDS, MASK = torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 5, dtype=torch.long)


def build(adapter=None, reward: Path | None = None, init=CriticInit.auto) -> Roles:
    source = RewardConfig(source=RewardModelSource(path=str(reward)), credit=SparseCredit()) if reward else None
    cfg = tiny.config(adapter=adapter, reward=source)
    return build_roles(cfg, device=tiny.CPU, dtype=torch.float32, reward=reward, critic_init=init)


@torch.no_grad()
def logits(role):
    return role.logits(IDS, MASK, 5)


@torch.no_grad()
def scores(role):
    return role(IDS, MASK)


def trainable(module) -> bool:
    return any(p.requires_grad for p in module.parameters())


@pytest.fixture(scope="module")
def reward_adapter() -> Path:
    return tiny.reward_adapter(LORA.r, LORA.alpha)


def test_full_every_role_has_its_own_copy():
    roles = build(reward=tiny.reward_folder())
    assert roles.critic_from is CriticInit.reward_model
    assert torch.equal(logits(roles.policy), logits(roles.reference))
    assert torch.equal(scores(roles.critic), scores(roles.reward)) and scores(roles.critic).std() > 0.1
    sets = [{id(p) for p in role.parameters()} for role in (roles.policy, roles.reference, roles.critic, roles.reward)]
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert trainable(roles.policy) and trainable(roles.critic)
    assert not trainable(roles.reference) and not trainable(roles.reward)
    assert set(roles.policy.trained_parameters()) == {n for n, _ in roles.policy.model.named_parameters()}


def test_full_critic_from_the_policys_body_starts_at_0():
    """'Value head zero-initialised or the critic initialised from the reward model'."""
    for roles in (build(), build(reward=tiny.reward_folder(), init=CriticInit.policy)):
        assert roles.critic_from is CriticInit.policy
        assert scores(roles.critic).abs().max() == 0
        body = dict(roles.critic.body.named_parameters())
        for name, p in roles.policy.model.model.named_parameters():
            assert torch.equal(body[name], p) and body[name] is not p


def test_lora_roles_share_one_base(reward_adapter):
    roles = build(LORA, reward_adapter)
    assert roles.policy.model is roles.reference.model
    assert roles.critic.body is roles.reward.body is roles.policy.model.model
    assert roles.critic_from is CriticInit.reward_model
    assert torch.equal(logits(roles.policy), logits(roles.reference))
    assert torch.equal(scores(roles.critic), scores(roles.reward)) and scores(roles.critic).std() > 0.1
    on = {n for n, p in roles.policy.model.named_parameters() if p.requires_grad}
    assert all(".default." in n or ".critic." in n for n in on) and len(on) == 2 * 28
    for role in (roles.policy, roles.critic):
        assert all(p.requires_grad for p in role.trained_parameters().values())


def test_lora_with_a_whole_reward_model_beside_it():
    roles = build(LORA, tiny.reward_folder())
    assert roles.reward.body is not roles.policy.model.model and not trainable(roles.reward)
    assert roles.critic_from is CriticInit.policy and scores(roles.critic).abs().max() == 0


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
def test_several_reward_models_beside_a_dpo_policy(adapter, reward_adapter):
    """Each is its folder's own, in order, and none of them is trained."""
    first = reward_adapter if adapter else tiny.reward_folder(seed=1)
    folders, dpo = [first, tiny.reward_folder(seed=2), tiny.reward_folder(seed=3)], tiny.folder(seed=4)
    cfg = tiny.config(adapter=adapter)
    on = {"device": tiny.CPU, "dtype": torch.float32, "critic_init": CriticInit.auto}
    roles = build_roles(cfg, reward=first, more_rewards=folders[1:], dpo=dpo, **on)
    assert roles.rewards == (roles.reward, *roles.more_rewards) and len(roles.rewards) == 3
    assert roles.critic_from is CriticInit.reward_model
    assert torch.equal(scores(roles.critic), scores(roles.reward))
    for folder, role in zip(folders, roles.rewards, strict=True):
        alone = build_roles(cfg, reward=folder, **on | {"critic_init": None}).reward
        assert torch.equal(scores(role), scores(alone))
    assert roles.dpo is not None and torch.equal(logits(roles.dpo), logits(tiny.policy(seed=4)))
    frozen = [p for role in (*roles.more_rewards, roles.dpo) for p in role.parameters()]
    assert not any(p.requires_grad for p in frozen)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_no_reward_model_and_no_critic(adapter):
    roles = build(adapter, init=None)
    assert roles.critic is None and roles.reward is None and roles.critic_from is None


def test_a_critic_from_a_reward_model_that_cannot_be_one_is_refused():
    for adapter, reward in ((None, None), (LORA, tiny.reward_folder())):
        with pytest.raises(InputError, match=r"method\.critic_init"):
            build(adapter, reward, CriticInit.reward_model)


def test_an_adapter_without_a_head_is_refused(tmp_path):
    get_peft_model(tiny.causal(), lora_config(LORA, TaskType.CAUSAL_LM)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="scalar head"):
        build(LORA, tmp_path)


def test_cards(tmp_path):
    card = RewardCard(0.9, 0.4, 10, 90, 1.5, {"base": "x"})
    assert read_card(tmp_path) is None and not is_adapter(tmp_path)
    card.write(tmp_path)
    assert read_card(tmp_path) == card


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
@pytest.mark.parametrize("kind", EngineKind)
def test_roles_are_of_the_engine_that_the_configuration_names(kind, adapter, reward_adapter):
    reward = reward_adapter if adapter else tiny.reward_folder()
    cfg = tiny.config(adapter=adapter, engine=kind)
    made = build_roles(cfg, device=tiny.CPU, dtype=torch.bfloat16, reward=reward, critic_init=CriticInit.auto)
    fast = kind is EngineKind.auto
    assert made.engine.kind is kind
    for role in (made.policy, made.reference):
        assert (type(role) is FastPolicy) == fast and isinstance(role, Policy)
    for role in (made.critic, made.reward):
        assert (type(role) is FastValueHead) == fast and isinstance(role, ValueHead)
    assert any(isinstance(m, FusedLoraLinear) for m in made.policy.modules()) == (fast and adapter is not None)

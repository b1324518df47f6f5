"""Adapters that take turns on one base: nobody's training shows in another role."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForSequenceClassification

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.inputs import forward_arguments
from align.engine.reference import Policy
from align.engine.roles import zero_head
from align.errors import InputError
from align.models.adapters import CRITIC, POLICY, REWARD, SharedBase, active, lora_config
from align.models.load import body_of
from align.models.reward_folder import linear_head
from tests import tiny

LORA = AdapterConfig(name="lora", r=4, alpha=8)
MASK = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [0] * 2 + [1] * 5 + [0] * 2])
IDS = torch.randint(4, 33, (3, 9), generator=torch.Generator().manual_seed(0)).where(MASK == 1, tiny.chat().pad_id)


def scramble(parameters, size=0.2):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p.add_(size * torch.randn(p.shape, generator=generator))


@pytest.fixture(params=["llama", "gpt2", "qwen2"])
def shape(request) -> str:
    return request.param


@pytest.fixture
def reward_adapter(shape, tmp_path):
    """A random PEFT SEQ_CLS adapter with its head, and its scores (3,) of each row alone, by peft."""
    torch.manual_seed(1)
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny.folder(shape), num_labels=1, pad_token_id=3)
    tuned = get_peft_model(classifier, lora_config(LORA, TaskType.SEQ_CLS))
    scramble(p for p in tuned.parameters() if p.requires_grad)
    tuned.eval().save_pretrained(tmp_path / "reward")
    with torch.no_grad():
        scores = [tuned(IDS[i, MASK[i] == 1][None]).logits.item() for i in range(3)]
    return tmp_path / "reward", torch.tensor(scores)


@pytest.fixture
def roles(shape, reward_adapter):
    base = tiny.causal(shape)
    engine = Engine()
    shared = engine.shared_base(base, LORA)
    policy, reference = (engine.policy(base, torch.float32, shared, name) for name in (POLICY, None))
    head = shared.load(REWARD, reward_adapter[0])
    reward = engine.value_head(body_of(base), linear_head(head), torch.float32, shared, REWARD)
    shared.add(CRITIC)
    critic = engine.value_head(body_of(base), zero_head(head.shape[1]), torch.float32, shared, CRITIC)
    with torch.no_grad():
        critic.head.weight.normal_(generator=torch.Generator().manual_seed(2))
    shared.train(POLICY, CRITIC)
    return shared, policy, reference, critic, reward


@torch.no_grad()
def see(role) -> torch.Tensor:
    return role.logits(IDS, MASK, 9) if isinstance(role, Policy) else role(IDS, MASK)


def test_reference_is_the_base_and_the_policy_starts_as_it(shape, roles):
    _, policy, reference, _, _ = roles
    with torch.no_grad():
        base = tiny.policy(shape).logits(IDS, MASK, 9)
    assert torch.equal(see(reference), base)
    assert torch.equal(see(policy), base)  # B = 0: zero KL at the start


def test_shared_base_scores_are_the_stand_alone_classifiers(roles, reward_adapter):
    """'PEFT drops unknown heads silently': scores equal the stand-alone sequence classifier's to 1e-5."""
    reward = roles[4]
    last = 8 - MASK.flip(1).argmax(1)
    scores = see(reward)[torch.arange(3), last]
    assert scores.std() > 0.1
    torch.testing.assert_close(scores, reward_adapter[1], rtol=0, atol=1e-5)


def test_training_one_role_changes_no_other(roles):
    _, policy, reference, critic, reward = roles
    before = {role: see(role) for role in (policy, reference, critic, reward)}
    for trained in (policy, critic):
        parameters = list(trained.trained_parameters().values())
        optimizer = torch.optim.SGD([*policy.trained_parameters().values(), *critic.trained_parameters().values()], 0.5)
        loss = trained.logits(IDS, MASK, 9).square().mean() if trained is policy else trained(IDS, MASK).square().mean()
        loss.backward()
        assert all(p.grad is not None for p in parameters)
        others = policy.trained_parameters() if trained is critic else critic.trained_parameters()
        assert all(p.grad is None for p in others.values())
        optimizer.step()
        optimizer.zero_grad()
        after = {role: see(role) for role in before}
        for role, seen in after.items():
            assert torch.equal(seen, before[role]) == (role is not trained)
        before = after


def test_switching_leaves_trained_parameters_trainable_and_the_rest_frozen(roles):
    """PEFT's own switching freezes every adapter but the active one, and all of them while they are off."""
    shared, policy, reference, critic, reward = roles
    trained = {id(p) for role in (policy, critic) for n, p in role.trained_parameters().items() if "head" not in n}

    def right() -> bool:
        return {id(p) for p in shared.model.parameters() if p.requires_grad} == trained

    assert right()
    shared.model.requires_grad_(True)
    shared.train(POLICY, CRITIC)
    assert right()
    for role in (reward, reference, critic, policy):
        with role.active():
            assert right()
        assert right()


def test_a_switch_finds_the_adapters_as_others_left_them(roles):
    """Other libraries switch through PEFT, which freezes, and may leave another adapter active, or none."""
    shared, policy, reference, critic, reward = roles
    scramble(policy.trained_parameters().values())
    before = {role: see(role) for role in (policy, reference, critic, reward)}
    trained = {id(p) for p in shared.model.parameters() if p.requires_grad}
    peft = shared.model.base_model
    for leave in (lambda: peft.set_adapter(REWARD), peft.disable_adapter_layers, lambda: peft.set_adapter(CRITIC)):
        for role, seen in before.items():
            leave()
            assert torch.equal(see(role), seen)
            assert {id(p) for p in shared.model.parameters() if p.requires_grad} == trained


def test_use_nests_and_gives_the_policy_back_even_after_an_error(roles):
    """Whoever asks the model itself, outside of any role, gets the policy."""
    shared, policy, _, critic, reward = roles
    scramble(policy.trained_parameters().values())

    @torch.no_grad()
    def whoever() -> torch.Tensor:
        return policy.model(input_ids=IDS, **forward_arguments(policy.model, MASK)).logits

    expected = see(policy)
    assert torch.equal(whoever(), expected)
    with pytest.raises(KeyError), shared.use(REWARD), shared.use(None):
        raise KeyError
    assert torch.equal(whoever(), expected)
    with shared.use(REWARD):
        rewarded = whoever()
        see(critic)
        assert torch.equal(whoever(), rewarded)  # the role before, not the policy
    see(reward)
    assert torch.equal(whoever(), expected) and torch.equal(see(policy), expected)
    with active(None, "nobody"):  # a role with a model of its own
        pass


@pytest.mark.parametrize("other", [{"r": 2}, {"lora_alpha": 16}, {"use_rslora": True}, {"target_modules": "places"}])
def test_an_adapter_that_does_not_fit_is_refused(roles, shape, tmp_path, other):
    """Another alpha has the same weights and would give other scores."""
    if "target_modules" in other:
        other = {"target_modules": ["c_attn"] if shape == "gpt2" else ["q_proj"]}
    settings = {"r": LORA.r, "lora_alpha": LORA.alpha, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    get_peft_model(tiny.causal(shape), LoraConfig(**(settings | other))).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="same base and LoRA settings"):
        roles[0].load("other", tmp_path / "other")


def test_no_adapter_drops_out(roles):
    """'Dropout is off in every model, LoRA's too'."""
    shared = roles[0]
    shared.model.train()
    rates = [m.p for m in shared.model.modules() if isinstance(m, nn.Dropout)]
    assert not any(rates)
    assert lora_config(LORA, TaskType.CAUSAL_LM).lora_dropout == 0
    assert torch.equal(see(roles[1]), see(roles[1]))


def test_fresh_adapters_depend_on_the_seed_and_their_name_alone(shape):
    """A job in the middle of a sweep starts from the weights that a lone run starts from."""

    def drawn(seed: int, before: int) -> dict[str, torch.Tensor]:
        base = tiny.causal(shape)
        torch.rand(before)  # what earlier jobs of the process drew
        state = torch.get_rng_state()
        shared = SharedBase(base, LORA, seed)
        shared.add(CRITIC)
        assert torch.equal(torch.get_rng_state(), state)
        names = [(role, key) for role in (POLICY, CRITIC) for key in shared.parameters(role) if "lora_A" in key]
        return {f"{role} {key}": shared.parameters(role)[key].detach().clone() for role, key in names}

    first, again, other = drawn(1, 0), drawn(1, 17), drawn(2, 0)
    assert first and all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    policy = next(key for key in first if key.startswith(POLICY))
    assert not torch.equal(first[policy], first[policy.replace(POLICY, CRITIC)])


def test_no_detour_over_fp32_under_autocast(shape, monkeypatch):
    """PEFT would bring what an adapter reads to fp32, and autocast back: the same bits, of gradients too, without."""
    base = tiny.causal(shape).to(torch.bfloat16)
    shared = Engine().shared_base(base, LORA)
    shared.train(POLICY)
    scramble(shared.parameters(POLICY).values())
    policy, found = Engine().policy(base, torch.bfloat16, shared, POLICY), []
    layers = [m for m in base.modules() if hasattr(m, "cast_input_dtype_enabled")]
    brought: list[bool] = []  # another type, by PEFT's own layers: the others are one function of ours
    casting = BaseTunerLayer._cast_input_dtype

    def watched(self: BaseTunerLayer, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        found = casting(self, x, dtype)
        brought.append(found.dtype is not x.dtype)
        return found

    def cast(*_: object) -> None:
        for layer in layers:
            layer.cast_input_dtype_enabled = True

    monkeypatch.setattr(BaseTunerLayer, "_cast_input_dtype", watched)

    with policy.active():
        assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
    for switched_off in (True, False):
        assert all(layer.cast_input_dtype_enabled for layer in layers)  # as TRL's trainers need it
        if not switched_off:
            base.register_forward_pre_hook(cast)
        policy.zero_grad()
        logits = policy.logits(IDS, MASK, 4)
        logits.float().logsumexp(-1).sum().backward()
        found.append((logits.detach(), {k: p.grad.clone() for k, p in shared.parameters(POLICY).items()}))
        assert any(brought) == (not switched_off and shape == "gpt2")
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][k], found[1][1][k]) for k in found[0][1])

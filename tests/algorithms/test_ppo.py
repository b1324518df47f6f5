"""One PPO run on a tiny model: what an update is made of, and which way it goes."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from align.config import (
    AdapterConfig,
    AttentionCredit,
    PrefixCredit,
    RewardConfig,
    RewardModelSource,
    RolloutConfig,
    SparseCredit,
    Truncated,
)
from align.config import GoldSource as GoldConfig
from align.config.methods import PPOConfig
from align.errors import RunError
from align.metrics import compare, repeatable
from align.worlds import Gold
from tests import tiny
from tests.algorithms.plain import plain_gae
from tests.tiny import nudge, same, weights

LORA = AdapterConfig(name="lora", r=4, alpha=8)
MODEL_REWARD = RewardConfig(source=RewardModelSource(path=str(tiny.reward_folder())), credit=SparseCredit())


# --- the first minibatch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [({}, 1.0), ({"shape": "gpt2"}, 0.7), ({"shape": "qwen2"}, 1.5), ({"adapter": LORA}, 0.7), ({"epochs": 2}, 1.0)],
)
def test_ratio_is_1_and_approx_kl_0_on_the_first_minibatch(tmp_path, settings, temperature):
    """'Ratio is 1 (to 1e-5 in fp32) and approx-KL 0 on the first minibatch of a rollout'."""
    settings = dict(settings)
    method = {"learning_rate": 1e-2, "epochs": settings.pop("epochs", 1), "micro_batch_tokens": 100}
    cfg = tiny.config(method=method, rollout={"temperature": temperature}, max_steps=8, **settings)
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    first = [r for r in seen.records if r["update"] == 1]
    assert len(first) == 4 / method["epochs"]
    for record in first:
        assert record["policy/ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert record["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
        assert record["policy/approx_kl"] == pytest.approx(0, abs=1e-9)
        assert record["policy/clip_fraction"] == 0
        assert record["policy/sampling_gap"] < 1e-5
    later = [r for r in seen.records if r["update"] > 1]
    assert all(r["policy/approx_kl"] > 1e-7 and r["policy/ratio_max"] > 1.001 for r in later)
    assert all(compare(r, "ppo") == (set(), set()) for r in seen.records)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_ratio_is_1_in_bf16(tmp_path, adapter):
    """'Ratio is 1 (... 2e-2 in bf16)', since the old log-probabilities are recomputed as training computes them."""
    cfg = tiny.config(method={"learning_rate": 1e-3}, max_steps=4, adapter=adapter)
    made, seen = tiny.loop(tmp_path, cfg, dtype=torch.bfloat16)
    made.train()
    assert all(r["policy/ratio_mean"] == pytest.approx(1, abs=2e-2) for r in seen.records if r["update"] == 1)
    assert seen.column("policy/sampling_gap")[0] > 1e-5  # it was bf16
    assert {p.dtype for p in made.run.roles.policy.trained_parameters().values()} == {torch.float32}


@pytest.mark.parametrize("size", [0.0, 0.01])
def test_a_ratio_off_1_on_the_first_minibatch_stops_the_run(tmp_path, size):
    """Which is what shifted masks or wrong positions (a bias), dropout or other kernels (noise) would do."""
    made, _ = tiny.loop(tmp_path, tiny.config())
    made.examples = made.algorithm.collect(made.progress)
    logprobs = made.examples.columns["logprobs"]
    noise = size * torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
    rows = made.algorithm.minibatch(made.progress, 16)
    counted = noise[rows][made.examples.rollout.response_mask[rows] == 1]
    # Noise under which the mean ratio of this minibatch is exactly 1: only approx_kl can tell.
    logprobs.sub_(noise - counted.exp().mean().log() if size else 1e-3)
    with pytest.raises(RunError, match="ratio"):
        made.advance()


def test_the_largest_ratio_is_one_of_a_token(tmp_path):
    """Padding, whose ratio is 1 by definition, is no token."""
    made, seen = tiny.loop(tmp_path, tiny.config())
    made.examples = made.algorithm.collect(made.progress)
    made.examples.columns["logprobs"].add_(0.1)
    made.progress.update = 1
    made.advance()
    [metrics] = seen.records
    ratio = math.exp(-0.1)
    assert metrics["policy/ratio_max"] == pytest.approx(ratio, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(ratio, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(ratio - 1 + 0.1, abs=1e-5)  # k3 of old against new


# --- what a rollout is turned into ------------------------------------------------------------------------------------


def row_by_row(made, rollout):
    """Per response, unpadded and by plain forwards: (logp, reference's logp, values) of its tokens."""
    roles, out = made.run.roles, []
    temperature = made.config.rollout.temperature
    for i, n in enumerate(rollout.lengths.tolist()):
        prompt = rollout.prompt_ids[i, rollout.prompt_mask[i] == 1]
        response = rollout.response_ids[i, :n]
        ids = torch.cat([prompt, response])[None]
        with torch.no_grad():
            pair = [
                torch.log_softmax(role.model(ids).logits[0, len(prompt) - 1 : -1] / temperature, -1)
                .gather(1, response[:, None])
                .squeeze(1)
                .tolist()
                for role in (roles.policy, roles.reference)
            ]
            hidden = roles.critic.body(ids).last_hidden_state[0, len(prompt) - 1 : -1]
            out.append((*pair, roles.critic.head(hidden).squeeze(1).tolist()))
    return out


@pytest.mark.parametrize("micro_batch_tokens", [8192, 60])
@pytest.mark.parametrize("penalty", [None, -0.7])
def test_advantages_and_returns_are_those_of_each_response_by_itself(tmp_path, micro_batch_tokens, penalty):
    """'Score paid at the last response token; KL penalty per token; GAE over response tokens only' and
    'truncated_score *instead of* its score', from the definitions, on a policy that has moved."""
    method = {
        "whiten_advantages": False,
        "gamma": 0.97,
        "lam": 0.9,
        "micro_batch_tokens": micro_batch_tokens,
    }
    paid_for = {} if penalty is None else {"truncated": Truncated.penalise, "truncated_score": penalty}
    cfg = tiny.config(method=method, rollout={"temperature": 0.8} | paid_for, reward=MODEL_REWARD)
    cfg.method.kl.coef = 0.3
    made, seen = tiny.loop(tmp_path, cfg)
    nudge(made.run.roles.policy)
    nudge(made.run.roles.critic)
    experience = made.algorithm.collect(made.progress)
    rollout, columns = experience.rollout, experience.columns
    assert 0 < rollout.ended.sum() < len(rollout)
    kls = []
    samples = seen.rollouts[0][1]  # of the first rows
    for i, (sample, (logp, ref, values)) in enumerate(zip(samples, row_by_row(made, rollout), strict=False)):
        n = len(logp)
        rewards = [-0.3 * (a - b) for a, b in zip(logp, ref, strict=True)]
        paid = sample["score"] if penalty is None or bool(rollout.ended[i]) else penalty
        rewards[-1] += paid
        expected = plain_gae(rewards, values, 0.97, 0.9)
        assert columns["advantages"][i, :n].tolist() == pytest.approx(expected, abs=1e-4)
        assert columns["advantages"][i, n:].abs().sum() == 0
        returns = [a + v for a, v in zip(expected, values, strict=True)]
        assert columns["returns"][i, :n].tolist() == pytest.approx(returns, abs=1e-4)
        assert columns["values"][i, :n].tolist() == pytest.approx(values, abs=1e-4)
        assert columns["logprobs"][i, :n].tolist() == pytest.approx(logp, abs=1e-4)
        assert sample["token_rewards"] == pytest.approx([0.0] * (n - 1) + [paid], abs=1e-6)
        assert sample["kl"] == pytest.approx(sum(logp) - sum(ref), abs=1e-4)
        assert len(sample["pieces"]) == n and "".join(sample["pieces"]) == sample["response"]
        kls.append(sample["kl"])
    assert len(kls) == 8
    assert max(abs(k) for k in kls) > 0.05  # the policy had moved: the penalty's sign was seen
    if penalty is not None:
        assert experience.metrics["reward/missing_eos_rate"] == float((~rollout.ended).float().mean())


def test_rollout_metrics_are_what_the_table_says(tmp_path):
    cfg = tiny.config(rollout={"batch_size": 8, "truncated": Truncated.penalise})
    made, seen = tiny.loop(tmp_path, cfg)
    nudge(made.run.roles.policy)
    experience = made.algorithm.collect(made.progress)
    samples = seen.rollouts[0][1]
    assert len(samples) == 8  # all of this rollout
    found, rollout = experience.metrics, experience.rollout
    rows = row_by_row(made, rollout)
    d = [a - b for logp, ref, _ in rows for a, b in zip(logp, ref, strict=True)]
    k3 = [torch.tensor(-x).exp().item() - 1 + x for x in d]
    lengths = torch.tensor([float(len(r[0])) for r in rows])
    scores = torch.tensor([s["score"] for s in samples])
    truncated = float((~rollout.ended).float().mean())
    paid = [sum(s["token_rewards"]) - 0.05 * s["kl"] for s in samples]
    expected = {
        "kl/per_response_k1": sum(d) / 8,
        "kl/per_response_k3": sum(k3) / 8,
        "kl/per_token_k1": sum(d) / len(d),
        "kl/per_token_k3": sum(k3) / len(k3),
        "kl/coef": 0.05,
        "reward/score_mean": float(scores.mean()),
        "reward/score_std": float(scores.std(unbiased=False)),
        "reward/total_mean": sum(paid) / 8,
        "reward/missing_eos_rate": truncated,
        "reward/part_gold": float(scores.mean()),
        "response/length_mean": float(lengths.mean()),
        "response/length_std": float(lengths.std(unbiased=False)),
        "response/length_min": float(lengths.min()),
        "response/length_max": float(lengths.max()),
        "response/eos_rate": 1 - truncated,
        "throughput/sampled_tokens_per_second": len(d) / found["time/rollout"],
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-4)
    advantages = experience.columns["advantages"][rollout.response_mask == 1]  # whitened: mean 0, deviation 1
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages.std(unbiased=False)) == pytest.approx(1, abs=1e-3)
    assert found["advantage/min"] < found["advantage/mean"] < found["advantage/max"]


def test_whitened_rewards_keep_their_mean(tmp_path):
    """'Whiten rewards without shifting the mean': with gamma = lambda = 1 the returns show the rewards."""
    method = {"whiten_rewards": True, "whiten_advantages": False, "lam": 1.0}
    made, _ = tiny.loop(tmp_path, tiny.config(method=method))
    rewards, mask = torch.tensor([[0.0, 0.0, 3.0], [0.0, 2.0, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    columns = {name: torch.full((2, 3), 0.5) for name in ("logprobs", "ref_logprobs", "values")}
    returns = made.algorithm.advantages(rewards, columns, mask)[0]["returns"]
    mean, deviation = 1.0, 1.6**0.5 / 1.0  # of 0, 0, 3, 0, 2: mean 1, variance (1 + 1 + 4 + 1 + 1) / 5
    white = [(r - mean) / deviation + mean for r in (0.0, 0.0, 3.0)]
    torch.testing.assert_close(returns[0], torch.tensor([sum(white), white[1] + white[2], white[2]]))
    assert returns[1, 2] == 0


# --- one update -------------------------------------------------------------------------------------------------------


def test_an_update_is_adamw_on_the_clipped_losses(tmp_path):
    """The weights after the first update, from the formulas: -A at ratio 1, vf_coef * 0.5 (v - R)^2, means over the
    minibatch's tokens, each role clipped by itself, Adam eps 1e-5."""
    method = {"learning_rate": 3e-3, "critic_learning_rate": 7e-3, "max_grad_norm": 0.2, "vf_coef": 0.3}
    cfg = tiny.config(method=method, rollout={"batch_size": 8, "temperature": 0.8}, reward=MODEL_REWARD)
    made, seen = tiny.loop(tmp_path, cfg)
    made.examples = experience = made.algorithm.collect(made.progress)
    roles = made.run.roles
    policy, critic = copy.deepcopy(roles.policy.model), copy.deepcopy(roles.critic)
    made.advance()
    rollout, columns = experience.rollout, experience.columns
    tokens, policy_loss, value_loss = int(rollout.response_mask.sum()), 0.0, 0.0
    for i, n in enumerate(rollout.lengths.tolist()):
        prompt = rollout.prompt_ids[i, rollout.prompt_mask[i] == 1]
        response = rollout.response_ids[i, :n]
        ids = torch.cat([prompt, response])[None]
        logp = torch.log_softmax(policy(ids).logits[0, len(prompt) - 1 : -1] / 0.8, -1)
        logp = logp.gather(1, response[:, None]).squeeze(1)
        policy_loss = policy_loss - (columns["advantages"][i, :n] * logp).sum() / tokens
        values = critic.head(critic.body(ids).last_hidden_state[0, len(prompt) - 1 : -1]).squeeze(1)
        value_loss = value_loss + 0.5 * ((values - columns["returns"][i, :n]) ** 2).sum() / tokens
    (policy_loss + 0.3 * value_loss).backward()
    record = seen.records[0]
    assert record["value/loss"] == pytest.approx(float(value_loss.detach()), rel=1e-4)
    for role, own, rate, family in (
        (roles.policy, policy, 3e-3, "policy"),
        (roles.critic, critic, 7e-3, "value"),
    ):
        parameters = list(own.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.2)
        assert record[f"{family}/grad_norm"] == pytest.approx(float(norm), rel=1e-3)
        assert record[f"{family}/learning_rate"] == rate
        torch.optim.AdamW(parameters, lr=rate, eps=1e-5, weight_decay=0.0).step()
        expected = dict(own.named_parameters())
        for name, p in (role.model if family == "policy" else role).named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=0, atol=3e-5, msg=name)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_split_into_micro_batches_changes_nothing(tmp_path, adapter):
    """'Normalise by the global number of response tokens across micro-batches'."""
    ends = []
    for budget in (8192, 70):
        method = {"micro_batch_tokens": budget, "epochs": 2, "learning_rate": 3e-3}
        made, seen = tiny.loop(tmp_path / str(budget), tiny.config(method=method, max_steps=6, adapter=adapter))
        made.train()
        ends.append((seen.records, weights(made.run.roles.policy), weights(made.run.roles.critic)))
    (records, *roles), (split_records, *split_roles) = ends
    for whole, split in zip(records, split_records, strict=True):
        assert repeatable(split) == pytest.approx(repeatable(whole), abs=1e-5, rel=1e-4)
    for whole, split in zip(roles, split_roles, strict=True):
        for a, b in zip(whole, split, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_gradient_checkpointing_changes_no_weight(tmp_path, adapter):
    """It runs the forward pass again during backward, when another role's adapter could be on."""
    ends, passes = [], []
    for on in (False, True):
        cfg = tiny.config(max_steps=3, adapter=adapter)
        cfg.model.gradient_checkpointing = on
        made, _ = tiny.loop(tmp_path / str(on), cfg)
        layer, count = made.run.roles.policy.model.model.layers[0].mlp, [0]
        layer.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        made.train()
        ends.append(weights(made.run.roles.policy) + weights(made.run.roles.critic))
        passes.append(count[0])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert passes[1] - passes[0] == 3 * (2 if adapter else 1)  # once more in each update of the policy (and critic)


def test_lora_training_moves_neither_the_reference_nor_the_reward(tmp_path):
    folder = tiny.reward_adapter()
    source = RewardModelSource(path=str(folder))
    reward = RewardConfig(source=source, credit=AttentionCredit())
    cfg = tiny.config(method={"learning_rate": 1e-2}, adapter=LORA, reward=reward, max_steps=4)
    made, seen = tiny.loop(tmp_path, cfg)
    roles = made.run.roles
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    mask = torch.ones_like(ids)

    def see():
        with torch.no_grad():
            everything = [roles.reference.logits(ids, mask, 5), roles.reward(ids, mask)]
            return everything, roles.policy.logits(ids, mask, 5), roles.critic(ids, mask)

    (frozen, policy, critic) = see()
    assert torch.equal(policy, frozen[0]) and torch.equal(critic, frozen[1])  # each starts as the other
    made.train()
    (frozen_after, policy_after, critic_after) = see()
    assert same(frozen, frozen_after)
    assert not torch.equal(policy, policy_after) and not torch.equal(critic, critic_after)
    assert seen.column("kl/per_response_k1")[0] == 0  # the policy starts as the reference
    assert seen.column("kl/per_response_k3")[-1] > 1e-4


def test_junk_at_masked_positions_of_a_rollout_changes_no_weight(tmp_path):
    ends = []
    for junk in (0.0, float("nan")):
        made, _ = tiny.loop(tmp_path, tiny.config())
        made.examples = made.algorithm.collect(made.progress)
        outside = made.examples.rollout.response_mask == 0
        assert outside.any()
        for column in made.examples.columns.values():
            column[outside] = junk
        made.advance()
        assert made.progress.bad_steps == 0
        ends.append(weights(made.run.roles.policy) + weights(made.run.roles.critic))
    assert same(*ends)


# --- which way it goes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", [SparseCredit(), PrefixCredit()])
def test_the_reward_rises(tmp_path, credit):
    """A flipped advantage, loss or difference of prefix scores would lower it."""
    reward = RewardConfig(source=GoldConfig(), credit=credit)
    method = {"learning_rate": 3e-3, "critic_learning_rate": 3e-3, "minibatch_size": 16}
    cfg = tiny.config(method=method, rollout={"batch_size": 32}, reward=reward, max_steps=36)
    cfg.method.kl.coef = 0.01
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    scores = seen.column("reward/score_mean")
    start, end = sum(scores[:6]) / 6, sum(scores[-6:]) / 6
    assert end > start + 0.6, (start, end)
    assert seen.column("kl/per_response_k1")[-1] > 0.5


def test_the_kl_penalty_pulls_towards_the_reference(tmp_path):
    class Nothing:
        name = "nothing"

        def gold(self, row, response, ended):
            return Gold(0.0, ())

    method = {"learning_rate": 3e-3, "critic_learning_rate": 3e-3, "minibatch_size": 16}
    cfg = tiny.config(method=method, rollout={"batch_size": 32}, max_steps=32)
    cfg.method.kl.coef = 1.0
    made, seen = tiny.loop(tmp_path, cfg, source=tiny.GoldScorer(Nothing()))
    nudge(made.run.roles.policy, 0.12)
    made.train()
    kl = seen.column("kl/per_response_k1")
    assert kl[0] > 1
    assert sum(kl[-6:]) / 6 < 0.5 * kl[0], kl[::6]


def test_critic_warm_up_leaves_the_policy_untouched(tmp_path):
    """'Optional critic warm-up'."""
    cfg = tiny.config(method={"critic_warmup_steps": 3}, max_steps=5)
    made, _ = tiny.loop(tmp_path, cfg)
    policy, critic = weights(made.run.roles.policy), weights(made.run.roles.critic)
    for step in range(1, 5):
        assert made.advance()
        assert same(policy, weights(made.run.roles.policy)) == (step <= 3)
        assert not same(critic, weights(made.run.roles.critic))
        critic = weights(made.run.roles.critic)


def test_defaults_are_the_ones_that_work():
    """'Gamma 1, lambda 0.95'; '`vf_coef` 0.1'; 'Adam eps 1e-5'; a reward model is trained for two epochs."""
    method = PPOConfig()
    assert (method.gamma, method.lam, method.vf_coef, method.adam_eps) == (1.0, 0.95, 0.1, 1e-5)
    assert method.whiten_advantages and RolloutConfig().truncated is Truncated.penalise
    assert RewardModelSource().epochs == 2

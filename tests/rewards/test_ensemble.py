"""Several reward models as one: every combination by hand, prefix by prefix, and members that are single ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.config import (
    Combine,
    EnsembleSource,
    RewardConfig,
    RewardModelSource,
    RolloutConfig,
    SparseCredit,
    TrainedOn,
)
from align.engine.roles import build_roles
from align.rewards import Builder, References, reward_input
from align.rewards.combined import EnsembleScorer, combined
from align.stored.keys import reward_model_key
from align.types import RewardOutput
from tests import tiny
from tests.run.stages import HELD_OUT, LORA, TRAIN

SCORES = torch.tensor([[1.0, 2.0], [3.0, -2.0], [2.0, 0.0]])  # 3 members, 2 responses


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Combine.mean, [2, 0]),
        (Combine.minimum, [1, -2]),
        (Combine.mean_minus_variance, [2 - 0.5 * 2 / 3, 0 - 0.5 * 8 / 3]),  # divided by 3: over all members
        (Combine.mean_minus_std, [2 - 0.5 * (2 / 3) ** 0.5, 0 - 0.5 * (8 / 3) ** 0.5]),
    ],
)
def test_the_combinations(how, expected):
    assert combined(SCORES, how, 0.5).tolist() == pytest.approx(expected)


class Member:
    def __init__(self, i: int) -> None:
        self.i = i

    def score(self, batch, needs=frozenset()):
        prefix = torch.tensor([[0.0, 1.0, SCORES[self.i, 0]], [0.5, SCORES[self.i, 1], 9.0]]) * (self.i + 1)
        look = torch.tensor([[1.0, self.i], [2.0, 7.0]])
        return RewardOutput(
            total=SCORES[self.i],
            prefix_scores=prefix if "prefix_scores" in needs else None,
            attention=look if "attention" in needs else None,
            raw_total=10 * SCORES[self.i],
        )


def scored(how: Combine, *needs: str) -> RewardOutput:
    starts = tiny.prompts(2)
    batch = reward_input(tiny.rollout_of(starts, [[5, 6], [5]]), starts, tiny.chat())
    return EnsembleScorer([Member(i) for i in range(3)], how, 0.5).score(batch, frozenset(needs))


@pytest.mark.parametrize("how", list(Combine))
def test_each_prefix_is_combined_like_the_score(how):
    out = scored(how, "prefix_scores")
    members = torch.stack([Member(i).score(None, frozenset({"prefix_scores"})).prefix_scores for i in range(3)])
    assert torch.equal(out.prefix_scores, combined(members, how, 0.5))
    assert out.attention is None
    assert {name: part.tolist() for name, part in out.parts.items()} == {
        "member_0": [1, 2],
        "member_1": [3, -2],
        "member_2": [2, 0],
        "member_std": pytest.approx([(2 / 3) ** 0.5, (8 / 3) ** 0.5]),
    }
    assert out.raw_parts["member_1"].tolist() == [30, -20]


def test_attention_is_the_mean_of_normalised_rows():
    out = scored(Combine.minimum, "attention")
    first = [[1, 0], [1 / 2, 1 / 2], [1 / 3, 2 / 3]]  # rows of one token: all of it there
    assert out.attention[0].tolist() == pytest.approx([sum(column) / 3 for column in zip(*first, strict=True)])
    assert out.attention[1, 0] == 1


def test_a_trained_member_is_the_single_reward_model_of_its_seed():
    """So that a stored or shipped one serves both."""
    source = EnsembleSource(members=3, seed=5, epochs=2, trained_on=TrainedOn.prefixes, clip=3.0, reference_responses=9)
    cfg = tiny.config(reward=RewardConfig(source=source, credit=SparseCredit()))
    for i, member in enumerate(source.models()):
        single = RewardModelSource(seed=5 + i, epochs=2, trained_on=TrainedOn.prefixes)
        keys = [reward_model_key(cfg, s, TRAIN, HELD_OUT) for s in (member, single)]
        assert keys[0] == keys[1]
        assert dataclasses.asdict(member) == dataclasses.asdict(dataclasses.replace(single, reference_responses=9))
    given = EnsembleSource(members=1, paths=["a", "b"]).models()
    assert [(m.path, m.seed) for m in given] == [("a", 0), ("b", 0), (None, 0)]


@pytest.mark.parametrize("adapter", [None, LORA])
def test_members_stand_on_one_scale_and_the_critic_on_the_firsts(adapter):
    folders = (
        [tiny.reward_adapter(), tiny.reward_folder(seed=2)] if adapter else [tiny.reward_folder(seed=i) for i in (1, 2)]
    )
    source = EnsembleSource(members=0, paths=[str(f) for f in folders])
    cfg = tiny.config(adapter=adapter, reward=RewardConfig(source=source, credit=SparseCredit()))
    roles = build_roles(
        cfg,
        device=tiny.CPU,
        dtype=torch.float32,
        reward=folders[0],
        critic_init=cfg.method.critic,
        more_rewards=folders[1:],
    )
    assert len(roles.rewards) == 2 and roles.rewards[0] is roles.reward
    references = References(roles.reference, tiny.chat(), tiny.prompts(24), RolloutConfig(max_new_tokens=8))
    builder = Builder(roles, references, None, tiny.prompts(24))
    built = builder.build(source)
    batch = references.batch(0, 256)
    out = built.score(batch, frozenset({"prefix_scores"}))
    for i in range(2):
        part, raw = out.parts[f"member_{i}"], out.raw_parts[f"member_{i}"]
        assert (float(part.mean()), float(part.std(unbiased=False))) == pytest.approx((0, 1), abs=1e-5)
        scale = builder.scales[f"reward.source.member_{i}"]
        assert (float(raw.mean()), float(raw.std(unbiased=False))) == pytest.approx(
            (scale["raw_mean"], scale["raw_std"]), abs=1e-4
        )
    assert (float(out.total.mean()), float(out.total.std(unbiased=False))) == pytest.approx((0, 1), abs=1e-5)
    assert not torch.allclose(out.parts["member_0"], out.parts["member_1"], atol=0.1)
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(roles.critic(ids, mask), roles.reward(ids, mask))

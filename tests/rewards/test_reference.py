"""The zero and the unit of a reward, from the start model's own responses."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.config import RolloutConfig
from align.engine.reference import ValueHead
from align.engine.sampling import Noise, sample
from align.errors import InputError
from align.models.load import body_of
from align.models.reward_folder import linear_head
from align.rewards import GoldScorer, RewardModelScorer, reward_input
from align.rewards.reference import References, scale_of
from align.streams import permutation
from align.worlds import Gold
from tests import tiny

SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}
SHORT = RolloutConfig(**SAMPLING)


def test_reference_responses_score_0_on_average_with_deviation_1():
    """'Centre the reward model on reference responses (gain/bias)'."""
    policy, prompts, chat = tiny.policy(), tiny.prompts(24), tiny.chat()
    model = AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()
    scorer = ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)
    source = RewardModelScorer(scorer)
    references = References(policy, chat, prompts, RolloutConfig(**SAMPLING))
    mean, std = scale_of(source, references.batch(5, 99))
    prompts = [prompts[i] for i in permutation(24, 5, "reference prompts").tolist()]
    rollout = sample(policy, chat, prompts, noise=Noise(5, "reference"), **SAMPLING)
    batch = reward_input(rollout, prompts, chat)
    before = source.score(batch).total.double()
    assert (mean, std) == pytest.approx((float(before.mean()), float(before.std(unbiased=False))))
    scorer.rescale(mean, std)
    after = source.score(batch).total.double()
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    in_parts = References(policy, chat, tiny.prompts(24), RolloutConfig(decode_batch_size=5, **SAMPLING))
    split = scale_of(source, in_parts.batch(5, 24))
    assert split == pytest.approx((0, 1), abs=1e-5)


def test_a_reward_that_tells_nothing_apart_is_refused():
    class Same:
        name = "same"

        def gold(self, row, response, ended):
            return Gold(0.5, ())

    with pytest.raises(InputError, match=r"reward\.source"):
        scale_of(GoldScorer(Same()), References(tiny.policy(), tiny.chat(), tiny.prompts(), SHORT).batch(0, 6))


def test_a_choice_of_prompts_is_sampled_once_and_too_few_are_told():
    lines: list[str] = []
    references = References(tiny.policy(), tiny.chat(), tiny.prompts(6), SHORT, lines.append)
    few = references.batch(0, 4)
    assert len(few.responses) == 4 and references.batch(0, 4) is few and not lines
    assert references.batch(1, 4).prompts != few.prompts
    assert len(references.batch(0, 7).responses) == 6 and "reward scale set on 6 responses" in lines[0]

"""The zero and the unit of a reward, from the start model's own responses."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.errors import InputError
from align.models.scorer import Scorer, body_of, linear_head
from align.rewards import GoldSource, RewardModelSource, reward_input
from align.rewards.reference import reference_scale
from align.rollout import Noise, sample
from align.worlds import Gold
from tests import tiny

SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}


def test_reference_responses_score_0_on_average_with_deviation_1():
    """'Centre the reward model on reference responses (gain/bias)'."""
    policy, prompts, codec = tiny.policy(), tiny.prompts(24), tiny.codec()
    model = AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()
    scorer = Scorer(body_of(model), linear_head(model.score.weight), torch.float32)
    source = RewardModelSource(scorer)
    mean, std = reference_scale(policy, source, codec, prompts, seed=5, **SAMPLING)
    rollout = sample(policy, codec, prompts, noise=Noise(5, "reference"), **SAMPLING)
    batch = reward_input(rollout, prompts, codec)
    before = source.score(batch).total.double()
    assert (mean, std) == pytest.approx((float(before.mean()), float(before.std(unbiased=False))))
    scorer.rescale(mean, std)
    after = source.score(batch).total.double()
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    split = reference_scale(policy, source, codec, prompts, seed=5, decode_batch_size=5, **SAMPLING)
    assert split == pytest.approx((0, 1), abs=1e-5)


def test_a_reward_that_tells_nothing_apart_is_refused():
    class Same:
        name = "same"

        def gold(self, row, response, ended):
            return Gold(0.5, ())

    with pytest.raises(InputError, match=r"reward\.source"):
        reference_scale(tiny.policy(), GoldSource(Same()), tiny.codec(), tiny.prompts(), seed=0, **SAMPLING)

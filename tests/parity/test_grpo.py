"""GRPO's losses, gradients and advantages against TRL's own on the same responses."""

from __future__ import annotations

import pytest
import torch
import trl
from datasets import Dataset

from align.config.methods import GroupKLConfig, GRPOConfig, KLEstimator, KLPlace, LossLength, RatioLevel
from align.functional.groups import group_advantages
from align.metrics import Tally
from align.types import Experience
from tests import tiny
from tests.parity.sides import assert_equal, backward, gradients, loop, other_model

LONGEST, BETA, GROUP = 8, 0.2, 2
RESPONSES = ("abc", "zyxwvut", "q", "hello", "no", "nevermo")
ADVANTAGES = torch.tensor([1.0, -0.7, 0.4, -2.0, 0.0, 1.5])


def kl(coef: float, estimator: KLEstimator = KLEstimator.k3) -> GroupKLConfig:
    return GroupKLConfig(coef=coef, place=KLPlace.loss, estimator=estimator)


# align's options, TRL's attributes (defaults: loss_type dapo, token ratios, epsilon 0.2 on both sides, no KL)
VARIANTS = {
    "grpo": ({"loss_length": LossLength.response}, {"loss_type": "grpo"}),
    "dr_grpo": ({"loss_length": LossLength.constant}, {"loss_type": "dr_grpo"}),
    "bnpo": ({"loss_length": LossLength.token}, {"loss_type": "bnpo"}),
    "dapo": ({"loss_length": LossLength.token}, {"loss_type": "dapo"}),
    "dapo, clip-higher": ({"loss_length": LossLength.token, "clip_high": 0.28}, {"epsilon_high": 0.28}),
    "gspo": (
        {"loss_length": LossLength.response, "ratio": RatioLevel.sequence},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "grpo, k3": ({"loss_length": LossLength.response, "kl": kl(BETA)}, {"loss_type": "grpo", "beta": BETA}),
    "dapo, k3": ({"loss_length": LossLength.token, "kl": kl(BETA)}, {"beta": BETA}),
    "grpo, k3 with use_bias_correction_kl": (
        {"loss_length": LossLength.response, "kl": kl(BETA, KLEstimator.k3_corrected)},
        {"loss_type": "grpo", "beta": BETA, "corrected": True},
    ),
}


class Seen:
    """A reward function that keeps what it paid."""

    __name__ = "vowels"

    def __init__(self) -> None:
        self.paid: list[float] = []

    def __call__(self, completions, **_columns) -> list[float]:
        self.paid = [sum(c in "aeiou" for c in str(text)) + 0.01 * len(str(text)) for text in completions]
        return self.paid


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        num_generations=GROUP,
        per_device_train_batch_size=6,
        max_completion_length=LONGEST,
        epsilon=0.2,
        use_cpu=True,
        report_to="none",
        bf16=False,
    )
    return trl.GRPOTrainer(
        model=other_model(),
        reward_funcs=Seen(),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": p.text or "a"} for p in tiny.prompts(3)]),
        processing_class=tiny.tokenizer(),
    )


@pytest.fixture(scope="module")
def experience():
    """Responses of a policy that is neither today's nor the reference, so that ratios and the KL are not trivial."""
    rows = [tiny.said(text) for text in RESPONSES]
    rollout = tiny.rollout_of(tiny.prompts(3), rows, samples=GROUP)
    old, reference = tiny.policy(), tiny.policy()
    tiny.nudge(old, 0.02)
    logprobs, ref_logprobs = (m.response_logprobs(rollout, 1.0) for m in (old, reference))
    advantages = ADVANTAGES.unsqueeze(1) * rollout.response_mask
    return Experience(rollout, {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "advantages": advantages})


def their_loss(other, experience: Experience, settings) -> torch.Tensor:
    rollout, tokens = experience.rollout, experience.rollout.response_mask.sum()
    other.loss_type = settings.get("loss_type", "dapo")
    other.epsilon_high = settings.get("epsilon_high", other.epsilon_low)
    other.importance_sampling_level = settings.get("importance_sampling_level", "token")
    other.beta = settings.get("beta", 0.0)
    other.args.use_bias_correction_kl = settings.get("corrected", False)
    other.model.eval()  # one batch, without accumulation
    inputs = {
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask,
        "completion_ids": rollout.response_ids,
        "completion_mask": rollout.response_mask,
        "advantages": ADVANTAGES,
        "old_per_token_logps": experience.columns["logprobs"],
        "ref_per_token_logps": experience.columns["ref_logprobs"],
        "num_items_in_batch": tokens,
    }
    return other.compute_loss(other.model, inputs)


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_equal_trls(theirs, experience, tmp_path, name):
    options, settings = VARIANTS[name]
    expected = their_loss(theirs, experience, settings)
    expected.backward()
    method = GRPOConfig(**({"group_size": GROUP, "minibatch_size": 6, "kl": kl(0.0)} | options))
    made = loop(tmp_path, method, batch_size=6, max_new_tokens=LONGEST)
    tally = Tally()
    loss = backward(made, [[0, 3], [1, 2, 4, 5]], tally, experience)  # micro-batches change nothing
    assert 0 < tally.result()["policy/clip_fraction"] < 1  # so that clipping is compared as well
    assert_equal(loss, gradients(made.run.roles.policy.model), float(expected.detach()), gradients(theirs.model))


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_equal_trls(theirs, scale):
    """TRL samples, is paid, and compares within groups; align compares the same payments."""
    theirs.scale_rewards, theirs.beta = scale, 0.0
    theirs.model.train()
    texts = [p.text or "a" for p in tiny.prompts(3) for _ in range(GROUP)]
    torch.manual_seed(0)
    made = theirs._generate_and_score_completions([{"prompt": text} for text in texts])
    paid = torch.tensor(theirs.reward_funcs[0].paid)
    assert paid.view(-1, GROUP).std(1).min() > 0
    mine = group_advantages(paid, GROUP, scale_std=scale == "group")
    assert torch.allclose(mine, made["advantages"], rtol=1e-5, atol=1e-6)

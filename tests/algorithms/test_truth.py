"""What a world says of a rollout: its gold reward, and the fidelity of each scheme, on the pocket world's own rows."""

from __future__ import annotations

import json

import pytest
import torch

from align.algorithms.rollout_metrics import add_truth
from align.config import ModelConfig
from align.data.collate import collate
from align.functional import credit
from align.metrics import Tally
from align.models.load import load_chat_tokenizer
from align.rewards import GoldScorer, reward_input
from align.types import Prompt, RewardInput, Rollout
from align.worlds import get, resolve
from tests import tiny

N = 40


@pytest.fixture(scope="module")
def batch() -> RewardInput:
    """Held-out responses, chosen and rejected in turn; the last one is cut."""
    chat = load_chat_tokenizer(ModelConfig(path="align://pocket/model"))
    with open(resolve("align://pocket/held_out.jsonl")) as lines:
        rows = [json.loads(line) for _, line in zip(range(N), lines, strict=False)]
    texts = [row[("chosen", "rejected")[i % 2]] for i, row in enumerate(rows)]
    ids = [tuple(chat.encode_reply(tiny.ASKED, text)) for text in texts]
    ids[-1] = ids[-1][:-2]
    prompts = []
    for i, row in enumerate(rows):
        messages = ({"role": "user", "content": row["prompt"]},)
        prompts.append(Prompt(i, messages, row["prompt"], tuple(chat.encode_prompt(messages)), row))
    both = collate([(p.input_ids, r) for p, r in zip(prompts, ids, strict=True)], chat.pad_id, tiny.CPU)
    rollout = Rollout(
        **both.tensors(),
        ended=torch.tensor([r[-1] == chat.end_id for r in ids]),
        prompt_index=torch.arange(N),
        sample_index=torch.zeros(N, dtype=torch.long),
        sampling_logprobs=torch.zeros(both.response_ids.shape),
    )
    return reward_input(rollout, prompts, chat)


def told(batch: RewardInput, rewards: torch.Tensor) -> dict[str, float]:
    tally = Tally()
    add_truth(tally, get("pocket"), batch, rewards)
    return tally.result()


def test_the_true_credit_agrees_with_itself(batch):
    out = GoldScorer(get("pocket")).score(batch)
    assert out.token_scores is not None
    mask = batch.rollout.response_mask
    figures = told(batch, credit.own(out.token_scores, mask))
    assert figures["reward/gold_mean"] == pytest.approx(float(out.total.mean()), abs=1e-6)
    names = {f"credit/fidelity_{name}" for name in ("all", "long", "short")}
    assert {name: figures[name] for name in names} == pytest.approx(dict.fromkeys(names, 1.0), abs=1e-6)
    against = told(batch, -credit.own(out.token_scores, mask))
    assert against["credit/fidelity_all"] == pytest.approx(-1, abs=1e-6)


def test_it_sees_where_credit_stands_and_not_how_much_there_is(batch):
    out = GoldScorer(get("pocket")).score(batch)
    assert out.token_scores is not None
    mask = batch.rollout.response_mask
    true = credit.own(out.token_scores, mask)
    assert told(batch, true * 3)["credit/fidelity_long"] == pytest.approx(1, abs=1e-6)
    late = torch.nn.functional.pad(true, (3, 0))[:, :-3] * mask  # three tokens late: mostly the next segment's
    assert told(batch, late)["credit/fidelity_long"] < 0.2
    assert told(batch, credit.uniform(out.total, mask))["credit/fidelity_long"] < 0.7


def test_cut_responses_have_no_say_and_worlds_may_be_missing(batch):
    out = GoldScorer(get("pocket")).score(batch)
    assert out.token_scores is not None and not batch.rollout.ended[-1]
    rewards = credit.own(out.token_scores, batch.rollout.response_mask)
    spoiled = rewards.clone()
    spoiled[-1] = torch.randn(spoiled.shape[1])
    assert told(batch, spoiled) == told(batch, rewards)
    tally = Tally()
    add_truth(tally, None, batch, rewards)
    assert tally.result() == {}

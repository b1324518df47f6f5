"""Picking rows of a rollout: in the order asked for, without the padding that nobody needs any more."""

import torch

from align.types import Experience, Size
from tests import tiny


def example() -> Experience:
    rollout = tiny.rollout_of(tiny.prompts(3), [[5, 2], [6, 7, 8, 2], [9]])
    columns = {"logprobs": torch.arange(12.0).view(3, 4), "score": torch.tensor([1.0, 2.0, 3.0])}
    return Experience(rollout, columns)


def test_rows_keep_their_tokens_and_lose_only_padding():
    whole = example()
    lengths = whole.rollout.prompt_mask.sum(1)
    picked = whole.rows(torch.tensor([2, 0]), Size(2, 3))
    rollout = picked.sequences
    assert len(rollout) == 2
    assert rollout.prompt_ids.shape[1] == int(lengths[[2, 0]].max())
    for i, j in enumerate([2, 0]):
        assert rollout.prompt_ids[i, rollout.prompt_mask[i] == 1].tolist() == list(tiny.prompts(3)[j].input_ids)
    assert rollout.response_ids.tolist() == [[9, tiny.chat().pad_id], [5, 2]]
    assert rollout.response_mask.tolist() == [[1, 0], [1, 1]]
    assert rollout.ended.tolist() == [False, True]
    assert rollout.prompt_index.tolist() == [16, 10]
    assert rollout.lengths.tolist() == [1, 2]
    assert picked.columns["logprobs"].tolist() == [[8, 9], [0, 1]]
    assert picked.columns["score"].tolist() == [3, 1]


def test_prompt_and_response_meet_in_the_middle():
    rollout = example().rollout
    for i, prompt in enumerate(tiny.prompts(3)):
        whole = rollout.input_ids[i, rollout.attention_mask[i] == 1].tolist()
        n = int(rollout.lengths[i])
        assert whole == [*prompt.input_ids, *rollout.response_ids[i, :n].tolist()]

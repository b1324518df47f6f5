"""The world's reward: per response, at the tokens that earned it, and of every prefix."""

import pytest
import torch

from align.rewards import GoldScorer, reward_input
from align.worlds import Gold, Segment
from tests import tiny


def encode(text: str, end: bool = True) -> list[int]:
    ids = tiny.said(text)
    return ids if end else ids[:-1]


@pytest.fixture(scope="module")
def batch():
    starts = tiny.prompts(3)
    responses = [encode("abe"), encode("xyzou", end=False), encode("")]
    return reward_input(tiny.rollout_of(starts, responses), starts, tiny.chat())


def test_what_a_source_is_given(batch):
    assert batch.responses == ["abe", "xyzou", ""]
    assert list(batch.prompts) == [p.text for p in tiny.prompts(3)]
    assert [row["number"] for row in batch.rows] == [10, 13, 16]
    assert batch.offsets[0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 3], [0, 0]]
    assert batch.offsets[2].tolist() == [[0, 0]] * 5


def test_scores_and_where_they_are_earned(batch):
    out = GoldScorer(tiny.VowelWorld()).score(batch)
    assert out.total.tolist() == [0.5, 0, 0] and out.parts["gold"] is out.total
    assert out.token_scores.tolist() == [[0.25, 0, 0.25, 0, 0], [0, 0, 0, 0.25, 0.25 - 0.5], [0] * 5]
    torch.testing.assert_close(out.token_scores.sum(1), out.total)
    assert out.prefix_scores is None


def test_prefix_scores_are_the_sums_so_far(batch):
    out = GoldScorer(tiny.VowelWorld()).score(batch, frozenset({"prefix_scores"}))
    assert out.prefix_scores.tolist() == [[0, 0.25, 0.25, 0.5, 0.5, 0.5], [0, 0, 0, 0, 0.25, 0], [0] * 6]


def test_whether_a_response_ended_and_its_row_reach_the_world(batch):
    seen = []

    class World:
        name = "seeing"

        def gold(self, row, response, ended):
            seen.append((row["number"], response, ended))
            return Gold(1.0, (Segment(len(response), len(response), 1.0, "good"),))

    out = GoldScorer(World()).score(batch)
    assert seen == [(10, "abe", True), (13, "xyzou", False), (16, "", True)]
    # A segment past the text's end is paid at the last token: here the end token, or the cut.
    assert out.token_scores.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]

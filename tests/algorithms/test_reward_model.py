"""Losses of the reward model's stages as functions of scores, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from align.algorithms.reward_model import ROLE, PrefixScores, RewardModel
from align.callbacks.base import CallbackList
from align.config.methods import OfflineConfig
from align.loop.context import LoopContext
from align.loop.protocol import Progress
from align.models.hardware import one_process
from align.rewards.pairs import final_scores
from align.types import Size
from tests import tiny
from tests.run.stages import TRAIN, loaded

PAIRS = TRAIN[:6]


@pytest.fixture
def run(tmp_path) -> LoopContext:
    config = tiny.config()
    config.method = OfflineConfig(name="reward_model", learning_rate=1e-4, batch_size=4)
    return LoopContext(
        config=config,
        folder=tmp_path,
        accelerator=one_process(tiny.CPU, torch.float32),
        modules={ROLE: loaded(tiny.reward_folder())},
        chat=tiny.chat(),
        pairs=PAIRS,
        callbacks=CallbackList([]),
    )


def batch_and_scores(algorithm, index: list[int]):
    """A micro-batch of two of a minibatch of six pairs, and scores that say nothing: (4, T + 1), 99 where there is no
    prefix."""
    examples, rows = algorithm.collect(Progress()), torch.tensor(index)
    batch = examples.rows(rows, Size(6, int(examples.response_tokens.sum())))
    scores = torch.randn(4, batch.mask.shape[1] + 1, generator=torch.Generator().manual_seed(0))
    places = torch.arange(scores.shape[1])
    return batch, scores.where(places <= batch.sequences.lengths.unsqueeze(1), 99.0)


def sides(index: list[int]) -> list[tuple[int, ...]]:
    return [PAIRS[i].chosen_ids for i in index] + [PAIRS[i].rejected_ids for i in index]


def test_bradley_terry_with_a_centre(run):
    index = [4, 1]
    algorithm = RewardModel(run, 0.2)
    batch, scores = batch_and_scores(algorithm, index)
    final = [scores[i, len(side)] for i, side in enumerate(sides(index))]
    expected = sum(
        -logsigmoid(final[i] - final[i + 2]) + 0.2 * (final[i] + final[i + 2]) ** 2 for i in range(2)
    )  # fmt: skip
    assert float(algorithm.loss(batch, scores).value) == pytest.approx(float(expected) / 6, rel=1e-5)


def test_prefixes_and_whole_responses_each_by_their_mean(run):
    """Of the whole minibatch: every prefix, and once more every whole response."""
    index = [5, 2]
    algorithm = PrefixScores(run)
    batch, scores = batch_and_scores(algorithm, index)
    target = final_scores(run.modules[ROLE], tiny.chat(), PAIRS).view(-1, 2)[index].t().flatten()
    lengths = [len(side) for side in sides(index)]
    squared = [(scores[i, : n + 1] - target[i]) ** 2 for i, n in enumerate(lengths)]
    prefixes = sum(len(p.chosen_ids) + len(p.rejected_ids) + 2 for p in PAIRS)
    expected = sum(float(row.sum()) for row in squared) / prefixes + sum(float(row[-1]) for row in squared) / 12
    found = algorithm.loss(batch, scores)
    assert float(found.value) == pytest.approx(expected, rel=1e-5)
    mean = sum(float(row.sum()) for row in squared) / sum(n + 1 for n in lengths)
    assert found.metrics.result()["reward_model/prefix_error"] == pytest.approx(mean, rel=1e-5)

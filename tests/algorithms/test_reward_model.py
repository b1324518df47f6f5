"""The loss of the prefix stage by hand, on the scores of every prefix of two pairs."""

from __future__ import annotations

import pytest
import torch

from align.algorithms.reward_model import ROLE, PrefixScores
from align.callbacks.base import CallbackList
from align.config import OfflineConfig
from align.loop.context import LoopContext
from align.loop.protocol import Progress
from align.models.hardware import one_process
from align.rewards.pairs import final_scores
from align.types import Size
from tests import tiny
from tests.parity.sides import pairs
from tests.run.stages import loaded


def test_prefixes_and_whole_responses_are_two_means_over_the_minibatch(tmp_path):
    """Of squared distances to the response's own first score: chosen responses first, the empty prefix included."""
    config, model = tiny.config(), loaded(tiny.reward_folder())
    config.method = OfflineConfig(name="reward_prefixes", batch_size=4)
    run = LoopContext(
        config=config,
        folder=tmp_path,
        accelerator=one_process(tiny.CPU, torch.float32),
        modules={ROLE: model},
        chat=tiny.chat(),
        pairs=pairs(),
        callbacks=CallbackList([]),
    )
    made = PrefixScores(run)
    examples, picked = made.collect(Progress()), torch.tensor([2, 0])
    size = Size(4, int(examples.response_tokens.sum()))
    batch = examples.rows(picked, size)
    scores = torch.randn(4, batch.mask.shape[1] + 1, generator=torch.Generator().manual_seed(0))
    targets = final_scores(model, tiny.chat(), pairs()).view(4, 2)
    rows = [(i, side) for side in (0, 1) for i in picked.tolist()]
    errors = [
        ((scores[row, : n + 1] - targets[i, side]) ** 2).tolist()
        for row, ((i, side), n) in enumerate(zip(rows, batch.sequences.lengths.tolist(), strict=True))
    ]
    expected = sum(map(sum, errors)) / (size.tokens + 8) + sum(row[-1] for row in errors) / 8
    assert float(made.loss(batch, scores).value) == pytest.approx(expected, rel=1e-5)

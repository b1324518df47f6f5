"""The reward model's loss and gradient against those of TRL's RewardTrainer: same pairs and weights, head included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from align.algorithms.reward_model import ROLE, RewardModel
from align.callbacks.base import CallbackList
from align.config.methods import OfflineConfig
from align.engine.reference import ValueHead
from align.loop.context import LoopContext
from align.loop.loop import Loop
from align.models.hardware import one_process
from align.models.load import body_of
from align.models.reward_folder import linear_head
from tests import tiny
from tests.parity.sides import assert_equal, pairs


def classifier():
    return AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()


def in_one_row(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def theirs(folder: Path, center_coef: float) -> tuple[float, torch.Tensor]:
    rows = [
        {"chosen_ids": [*p.prompt.input_ids, *p.chosen_ids], "rejected_ids": [*p.prompt.input_ids, *p.rejected_ids]}
        for p in pairs()
    ]
    arguments = trl.RewardConfig(
        output_dir=str(folder),
        center_rewards_coefficient=center_coef,
        max_length=None,
        remove_unused_columns=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = trl.RewardTrainer(
        model=classifier(), args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tiny.tokenizer()
    )
    loss = trainer.compute_loss(trainer.model, dict(trainer.data_collator(rows)))
    loss.backward()
    found = {n.removeprefix("model."): p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
    found["head.weight"] = found.pop("score.weight")
    return float(loss.detach()), in_one_row(found)


def ours(folder: Path, center_coef: float, budget: int | None) -> tuple[float, torch.Tensor]:
    """Of the first update, its gradients before they are clipped."""
    start, found = classifier(), dict[str, torch.Tensor]()
    model = ValueHead(body_of(start), linear_head(start.score.weight), torch.float32)
    model.head.bias.requires_grad_(False)
    for name, parameter in model.trained_parameters().items():
        parameter.register_post_accumulate_grad_hook(lambda p, n=name: found.update({n: p.grad.clone()}))
    config, recorder = tiny.config(max_steps=1), tiny.Recorder()
    config.method = OfflineConfig(name="reward_model", learning_rate=1e-4, batch_size=4, micro_batch_tokens=budget)
    run = LoopContext(
        config=config,
        folder=folder,
        accelerator=one_process(tiny.CPU, torch.float32),
        modules={ROLE: model},
        chat=tiny.chat(),
        pairs=pairs(),
        callbacks=CallbackList([recorder]),
    )
    assert Loop(run, RewardModel(run, center_coef)).advance()
    return recorder.records[0]["reward_model/loss"], in_one_row(found)


@pytest.mark.parametrize("budget", [None, 60], ids=["whole", "split"])
@pytest.mark.parametrize("center_coef", [0.0, 0.3])
def test_loss_and_gradient_equal_trls(tmp_path, center_coef, budget):
    assert_equal(*ours(tmp_path, center_coef, budget), *theirs(tmp_path, center_coef))


@pytest.mark.parametrize("budget", [60, 1])
def test_micro_batches_change_no_gradient(tmp_path, budget):
    assert_equal(*ours(tmp_path, 0.3, budget), *ours(tmp_path, 0.3, None))

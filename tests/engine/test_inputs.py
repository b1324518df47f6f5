"""Position ids and what else a forward pass is given."""

import torch

from align.engine.inputs import autocast, forward_arguments, position_ids
from tests import tiny


def test_positions_start_at_the_first_real_token():
    """'Left-pad prompts, position_ids = cumsum(mask) - 1, clamped at 0'."""
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 0, 1, 2, 2]]


def test_models_that_take_positions_get_them():
    mask = torch.tensor([[0, 1, 1]])
    for shape in ("llama", "gpt2", "qwen2"):
        arguments = forward_arguments(tiny.causal(shape), mask)
        assert arguments["position_ids"].tolist() == [[0, 0, 1]]
        assert arguments["attention_mask"] is mask


def test_models_without_positions_get_the_mask_alone():
    class Alibi(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return input_ids

    assert set(forward_arguments(Alibi(), torch.ones(1, 3))) == {"attention_mask"}


def test_autocast_is_off_in_fp32():
    x = torch.ones(2, 2)
    with autocast(tiny.CPU, torch.float32):
        assert (x @ x).dtype == torch.float32
    with autocast(tiny.CPU, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16

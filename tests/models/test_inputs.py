"""Position ids and what else a forward pass is given."""

import torch

from align.models import inputs
from align.models.inputs import (
    SHARED_FROM,
    SHARED_FROM_ON_GPU,
    autocast,
    forward_arguments,
    position_ids,
    shared_prompts,
    shared_tokens,
)
from tests import tiny
from tests.models.reading import batch


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


def test_tokens_that_are_read_once_for_all_rows_of_a_prompt():
    """Short prompts are not shared; and a cache would not survive a second forward pass."""
    model = tiny.causal()
    mask = torch.zeros(3, SHARED_FROM + 2)
    for row, length in enumerate((SHARED_FROM - 1, SHARED_FROM, SHARED_FROM + 2)):
        mask[row, -length:] = 1
    assert shared_tokens(model, mask).tolist() == [0, SHARED_FROM, SHARED_FROM + 2]
    model.activation_checkpointing_enable()
    assert shared_tokens(model, mask).tolist() == [0, 0, 0]


def test_on_a_gpu_longer_prompts_alone_are_read_once(monkeypatch):
    """A second pass costs it more; what stands in for one here is any device that is no CPU."""
    mask = torch.ones(2, SHARED_FROM_ON_GPU, device="meta")
    assert inputs._shared_from(mask) == SHARED_FROM_ON_GPU > inputs._shared_from(torch.ones(2, 3)) == SHARED_FROM
    monkeypatch.setattr(inputs, "_shared_from", lambda _like: 51)
    assert shared_tokens(tiny.causal(), torch.ones(1, 50)).tolist() == [0]
    assert shared_tokens(tiny.causal(), torch.ones(1, 51)).tolist() == [51]
    assert shared_prompts(batch((50,), (3, 3, 3), (0, 0, 0))) is None
    assert shared_prompts(batch((51,), (3, 3, 3), (0, 0, 0))) is not None

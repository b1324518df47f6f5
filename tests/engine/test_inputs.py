"""Position ids and what else a forward pass is given."""

import pytest
import torch

from align.engine import inputs
from align.engine import policy as policy_module
from align.engine.inputs import (
    SHARED_FROM,
    SHARED_FROM_ON_GPU,
    autocast,
    forward_arguments,
    position_ids,
    shared_prompts,
)
from tests import tiny
from tests.engine.reading import batch


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


@pytest.mark.parametrize(("shape", "under_checkpointing"), [("llama", True), ("gpt2", False)])
def test_tokens_that_are_read_once_for_all_rows_of_a_prompt(shape, under_checkpointing):
    """Short prompts are not shared; a cache would not survive a second forward pass, which packed rows do without."""
    policy = tiny.policy(shape)
    mask = torch.zeros(3, SHARED_FROM + 2)
    for row, length in enumerate((SHARED_FROM - 1, SHARED_FROM, SHARED_FROM + 2)):
        mask[row, -length:] = 1
    expected = [0, SHARED_FROM, SHARED_FROM + 2]
    assert policy.shared_tokens(mask).tolist() == expected
    policy.model.activation_checkpointing_enable()
    assert policy.shared_tokens(mask).tolist() == (expected if under_checkpointing else [0, 0, 0])


def test_on_a_gpu_longer_prompts_alone_are_read_once(monkeypatch):
    """A second pass costs it more; what stands in for one here is any device that is no CPU."""
    mask = torch.ones(2, SHARED_FROM_ON_GPU, device="meta")
    assert inputs.shared_from(mask) == SHARED_FROM_ON_GPU > inputs.shared_from(torch.ones(2, 3)) == SHARED_FROM
    for module in (inputs, policy_module):
        monkeypatch.setattr(module, "shared_from", lambda _like: 51)
    assert tiny.policy().shared_tokens(torch.ones(2, 51)).tolist() == [51, 51]
    assert tiny.policy().shared_tokens(torch.ones(2, 50)).tolist() == [0, 0]
    assert shared_prompts(batch((50,), (3, 3, 3), (0, 0, 0))) is None
    assert shared_prompts(batch((51,), (3, 3, 3), (0, 0, 0))) is not None

"""From the configuration of a credit scheme to its function and to the signal that it needs."""

import pytest
import torch

from align.config import AttentionCredit, CreditConfig, PrefixCredit, SparseCredit, UniformCredit
from align.functional import credit
from align.rewards import build_credit
from align.types import RewardOutput

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
OUT = RewardOutput(
    total=torch.tensor([2.0, -3.0]),
    prefix_scores=torch.tensor([[0.0, 1.5, 2.0, 9.0], [1.0, 0.0, -1.0, -2.0]]),
    attention=torch.tensor([[0.2, 0.6, 0.0], [0.1, 0.1, 0.2]]),
)


def test_each_scheme_calls_its_function():
    found = {type(c).__name__: build_credit(c) for c in (SparseCredit(), UniformCredit(), PrefixCredit())}
    assert {k: set(v.needs) for k, v in found.items()} == {
        "SparseCredit": set(),
        "UniformCredit": set(),
        "PrefixCredit": {"prefix_scores"},
    }
    assert found["SparseCredit"].assign(OUT, MASK).tolist() == [[0, 2, 0], [0, 0, -3]]
    assert found["UniformCredit"].assign(OUT, MASK).tolist() == [[1, 1, 0], [-1, -1, -1]]
    assert found["PrefixCredit"].assign(OUT, MASK).tolist() == [[1.5, 0.5, 0], [-1, -1, -1]]


def test_attention_takes_its_mix():
    for mix in (0.8, 0.25):
        scheme = build_credit(AttentionCredit(mix=mix))
        assert scheme.needs == {"attention"}
        assert torch.equal(scheme.assign(OUT, MASK), credit.attention(OUT.total, OUT.attention, MASK, mix))


def test_a_missing_signal_or_scheme_is_a_programming_error():
    for config in (PrefixCredit(), AttentionCredit()):
        with pytest.raises(TypeError, match="signal"):
            build_credit(config).assign(RewardOutput(total=OUT.total), MASK)
    with pytest.raises(TypeError, match="no credit scheme"):
        build_credit(CreditConfig(name="other"))

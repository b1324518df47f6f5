"""From the configuration of a credit scheme to its function and to the signal that it needs."""

import pytest
import torch

from align.config import (
    AttentionCredit,
    AutoCredit,
    CreditConfig,
    ImplicitCredit,
    PrefixCredit,
    PrefixStep,
    SparseCredit,
    TruthCredit,
    UniformCredit,
)
from align.config.groups import CREDITS
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


def test_steps_of_prefix():
    by_two = build_credit(PrefixCredit(step=PrefixStep.k, k=2))
    assert by_two.needs == {"prefix_scores"}
    assert by_two.assign(OUT, MASK).tolist() == [[0, 2, 0], [0, -2, -1]]


def test_implicit_takes_its_scale_and_clip():
    out = RewardOutput(total=OUT.total, log_ratio=torch.tensor([[1.0, -4.0, 9.0], [0.5, 0.0, -1.0]]))
    rewards = build_credit(ImplicitCredit(scale=0.5, clip=1.0)).assign(out, MASK)
    assert rewards.tolist() == [[0.5, 1.0, 0], [0.25, 0, -3.5]]


def test_true_credit_is_the_sources_own():
    scheme = build_credit(TruthCredit())
    assert scheme.needs == {"token_scores"}
    out = RewardOutput(total=OUT.total, token_scores=torch.tensor([[3.0, -1.0, 8.0], [0.0, -3.0, 0.0]]))
    assert scheme.assign(out, MASK).tolist() == [[3, -1, 0], [0, -3, 0]]


def test_every_option_has_a_scheme():
    for name, config in CREDITS.items():
        if config is AutoCredit:  # replaced by one of the others before a scheme is built
            continue
        assert build_credit(config()).needs == config().needs | config().adds, name


def test_a_missing_signal_or_scheme_is_a_programming_error():
    for config in (PrefixCredit(), AttentionCredit(), ImplicitCredit(), TruthCredit()):
        with pytest.raises(TypeError, match="signal"):
            build_credit(config).assign(RewardOutput(total=OUT.total), MASK)
    with pytest.raises(TypeError, match="no credit scheme"):
        build_credit(CreditConfig(name="other"))

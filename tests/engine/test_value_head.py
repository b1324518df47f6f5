"""One score per prefix: which position holds it, and the attention behind the last one."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.engine.passes import read_values
from align.engine.reference import ValueHead
from align.engine.roles import zero_head
from align.errors import InputError
from align.models.load import body_of
from align.models.reward_folder import linear_head
from align.types import Rollout
from tests import tiny

SHAPES = ["llama", "gpt2", "qwen2"]
PROMPTS, RESPONSES = [[5, 6, 7], [8], [9, 10, 11, 12, 13]], [[4, 5], [20, 21, 22, 2], [14]]


def classifier(shape):
    return AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder(shape)).eval()


def scorer(shape="llama") -> ValueHead:
    model = classifier(shape)
    return ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)


def rollout() -> Rollout:
    pad = tiny.chat().pad_id
    return Rollout(
        prompt_ids=torch.tensor([[pad] * (5 - len(p)) + p for p in PROMPTS]),
        prompt_mask=torch.tensor([[0] * (5 - len(p)) + [1] * len(p) for p in PROMPTS]),
        response_ids=torch.tensor([r + [pad] * (4 - len(r)) for r in RESPONSES]),
        response_mask=torch.tensor([[1] * len(r) + [0] * (4 - len(r)) for r in RESPONSES]),
        ended=torch.tensor([False, True, False]),
        prompt_index=torch.arange(3),
        sample_index=torch.zeros(3, dtype=torch.long),
        sampling_logprobs=torch.zeros(3, 4),
    )


@torch.no_grad()
def alone(shape, ids) -> float:
    return classifier(shape)(torch.tensor([ids])).logits.item()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_prefix_scores_as_it_does_alone(shape):
    """One causal forward of a padded batch scores all prefixes: position i holds the text up to token i."""
    batch = rollout()
    with torch.no_grad():
        scores = scorer(shape)(batch.input_ids, batch.attention_mask)
    assert scores.dtype == torch.float32 and scores.shape == (3, 9)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        whole = [*prompt, *response]
        for n in range(1, len(whole) + 1):
            place = 5 - len(prompt) + n - 1
            torch.testing.assert_close(scores[i, place].item(), alone(shape, whole[:n]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_value_of_a_token_is_that_of_the_text_before_it(shape):
    """Values are read from the prompt's last token on; one place further, the critic would see what it values."""
    batch = rollout()
    values = read_values(scorer(shape), batch, 16384)
    assert values.shape == (3, 4)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = [alone(shape, prompt + response[:t]) for t in range(len(response))]
        assert values[i, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        shifted = [alone(shape, prompt + response[: t + 1]) for t in range(len(response))]
        assert max(abs(a - b) for a, b in zip(expected, shifted, strict=True)) > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_of_the_last_layer(shape):
    batch, model = rollout(), scorer(shape)
    kernel = model.body.config._attn_implementation
    assert kernel != "eager"
    with torch.no_grad():
        plain = model(batch.input_ids, batch.attention_mask)
        scores, weights = model.with_attention(batch.input_ids, batch.attention_mask)
    assert model.body.config._attn_implementation == kernel
    assert weights.shape == (3, 9, 9)
    reference = AutoModelForSequenceClassification.from_pretrained(
        tiny.reward_folder(shape), attn_implementation="eager"
    ).eval()
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        start, n = 5 - len(prompt), len(prompt) + len(response)
        row = weights[i, start + n - 1]  # of the last response token
        assert row.sum().item() == pytest.approx(1, abs=1e-5)
        assert row[:start].sum() == row[start + n :].sum() == 0
        with torch.no_grad():
            out = reference(torch.tensor([[*prompt, *response]]), output_attentions=True)
        torch.testing.assert_close(row[start : start + n], out.attentions[-1][0].mean(0)[-1], rtol=0, atol=1e-5)
    real = batch.attention_mask == 1
    torch.testing.assert_close(scores[real], plain[real], rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(batch.input_ids, batch.attention_mask), plain)  # the fused kernel is back


def test_the_kernel_comes_back_after_an_error():
    model = scorer()
    with pytest.raises(IndexError):
        model.with_attention(torch.tensor([[10**6]]), torch.ones(1, 1))
    assert model.body.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks for m in model.body.modules())


def test_a_body_without_attention_is_refused():
    model = scorer()
    model.body.layers = torch.nn.ModuleList()
    with pytest.raises(InputError, match="attention"):
        model.with_attention(torch.tensor([[5]]), torch.ones(1, 1))


def test_rescale_folds_mean_and_deviation_into_the_head():
    """'Centre the reward model on reference responses (gain/bias)'; twice, as a bias is there by then."""
    model, batch = scorer(), rollout()
    with torch.no_grad():
        before = model(batch.input_ids, batch.attention_mask)
        model.rescale(1.5, 2.0)
        once = model(batch.input_ids, batch.attention_mask)
        model.rescale(-0.25, 0.5)
        twice = model(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(once, (before - 1.5) / 2)
    torch.testing.assert_close(twice, ((before - 1.5) / 2 + 0.25) / 0.5)


def test_a_zero_head_values_everything_0():
    """'Value head zero-initialised'."""
    batch = rollout()
    critic = ValueHead(body_of(tiny.causal()), zero_head(24), torch.float32)
    assert critic(batch.input_ids, batch.attention_mask).abs().max() == 0


def test_trained_parameters_are_body_and_head():
    model = scorer()
    assert {id(p) for p in model.trained_parameters().values()} == {id(p) for p in model.parameters()}

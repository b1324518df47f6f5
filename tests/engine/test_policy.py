"""Log-probabilities of left-padded batches against plain forwards, and weights that come back bit for bit."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.inputs import position_ids
from align.engine.reference import Policy
from align.models.adapters import POLICY, SharedBase
from tests import tiny

SHAPES = ["llama", "gpt2", "qwen2"]
PAD = tiny.chat().pad_id


def batch(junk: int = PAD):
    """Left-padded prompts, right-padded responses: (ids, mask, response mask, rows as (prompt, response))."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        (torch.randint(4, 33, (p,), generator=generator), torch.randint(4, 33, (t,), generator=generator))
        for p, t in [(3, 5), (9, 2), (1, 4), (6, 1)]
    ]
    ids = torch.full((4, 14), junk)
    mask = torch.zeros(4, 14, dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        start, stop = 9 - len(prompt), 9 + len(response)
        ids[i, start:stop] = torch.cat([prompt, response])
        mask[i, start:stop] = 1
    return ids, mask, mask[:, 9:], rows


def plain(model, prompt, response, temperature):
    """Log-probabilities and entropies of one response, unpadded, by transformers alone."""
    with torch.no_grad():
        logits = model(torch.cat([prompt, response])[None]).logits[0]
    logp = torch.log_softmax(logits / temperature, -1)[len(prompt) - 1 : -1]
    return logp.gather(1, response[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_a_padded_batch_are_those_of_each_row_alone(shape, temperature):
    """'position_ids = cumsum(mask) - 1': forgetting it cost 34 nats on GPT-2. 'All divided by the temperature.'"""
    raw = AutoModelForCausalLM.from_pretrained(tiny.folder(shape)).eval()
    ids, mask, response_mask, rows = batch()
    with torch.no_grad():
        stats = tiny.policy(shape)(tiny.split(ids, mask, 5), temperature)
    for i, (prompt, response) in enumerate(rows):
        logp, entropy = plain(raw, prompt, response, temperature)
        torch.testing.assert_close(stats.logprobs[i, response_mask[i] == 1], logp, rtol=0, atol=1e-5)
        torch.testing.assert_close(stats.entropy[i, response_mask[i] == 1], entropy, rtol=0, atol=1e-5)


def test_forgotten_position_ids_would_show_on_gpt2():
    raw = tiny.causal("gpt2")
    ids, mask, _, rows = batch()
    counted_from_padding = torch.arange(14).expand(4, 14)
    with torch.no_grad():
        logits = raw(ids, attention_mask=mask, position_ids=counted_from_padding).logits[2, 8:12]
    logp = torch.log_softmax(logits, -1).gather(1, rows[2][1][:, None]).squeeze(1)
    assert (logp - plain(raw, *rows[2], 1.0)[0]).abs().max() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_at_padding_changes_nothing(shape):
    policy = tiny.policy(shape)
    outcomes = []
    for junk in (PAD, 7):
        ids, mask, response_mask, _ = batch(junk)
        policy.zero_grad()
        logprobs = policy(tiny.split(ids, mask, 5), 1.0).logprobs
        logprobs[response_mask == 1].sum().backward()
        outcomes.append([logprobs[response_mask == 1].detach(), *(p.grad.clone() for p in policy.parameters())])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_dropout_is_off_whatever_the_mode():
    """'Dropout is off in every model': GPT-2's configuration asks for .1."""
    policy = tiny.policy("gpt2").train()
    ids, mask, _, _ = batch()
    assert torch.equal(policy(tiny.split(ids, mask, 5), 1.0).logprobs, policy(tiny.split(ids, mask, 5), 1.0).logprobs)


def test_entropy_has_no_gradient_and_logprobs_have():
    ids, mask, _, _ = batch()
    stats = tiny.policy()(tiny.split(ids, mask, 5), 1.0)
    assert stats.logprobs.requires_grad and not stats.entropy.requires_grad


def scramble(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("shape", SHAPES)
def test_full_weights_come_back_bit_for_bit_and_load_with_transformers_alone(shape, tmp_path):
    policy = tiny.policy(shape)
    scramble(policy.parameters())
    policy.save(tmp_path)
    kept = {k: v.clone() for k, v in policy.model.state_dict().items()}
    ids, mask, _, _ = batch()
    with torch.no_grad():
        expected = policy.logits(ids, mask, 14)
    scramble(policy.parameters(), seed=1)
    policy.restore(tmp_path)
    assert all(torch.equal(v, kept[k]) for k, v in policy.model.state_dict().items())
    fresh = Engine().policy(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), torch.float32)
    with torch.no_grad():
        assert torch.equal(fresh.logits(ids, mask, 14), expected)


def test_tied_weights_come_back_tied(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.model_config("llama", tie_word_embeddings=True))
    policy = Policy(model.eval(), torch.float32)
    scramble(policy.parameters())
    policy.save(tmp_path)
    kept = model.lm_head.weight.clone()
    scramble(policy.parameters(), seed=1)
    policy.restore(tmp_path)
    assert torch.equal(model.lm_head.weight, kept)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_comes_back_bit_for_bit_and_loads_with_peft_alone(shape, tmp_path):
    base = tiny.causal(shape)
    shared = SharedBase(base, AdapterConfig(name="lora", r=4, alpha=8))
    policy = Policy(base, torch.float32, shared, POLICY)
    shared.add("critic")
    shared.train(POLICY, "critic")
    scramble(policy.trained_parameters().values())
    policy.save(tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.is_file()) == [".json", ".md", ".safetensors"]
    assert not any("critic" in k for k in load_file(tmp_path / "adapter_model.safetensors"))
    kept = {k: v.detach().clone() for k, v in policy.trained_parameters().items()}
    ids, mask, _, _ = batch()
    with torch.no_grad():
        expected = policy.logits(ids, mask, 14)
    scramble(policy.trained_parameters().values(), seed=1)
    policy.restore(tmp_path)
    assert all(torch.equal(v, kept[k]) for k, v in policy.trained_parameters().items())
    assert all(p.requires_grad for p in policy.trained_parameters().values())
    plain = AutoModelForCausalLM.from_pretrained(tiny.folder(shape))
    alone = PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        found = alone(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

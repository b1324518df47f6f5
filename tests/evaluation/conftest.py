"""A tiny random Llama on a byte tokenizer, prompts of different lengths, and a world that rewards vowels."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.engine.reference import Policy
from align.models.chat_setup import make_chat_tokenizer
from align.rewards import GoldScorer
from align.types import Pair, Prompt
from align.worlds import Gold, Segment
from tests import tiny

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


class Vowels:
    """Gold = share of vowels, minus a half where the response was cut."""

    name = "vowels"

    def gold(self, row, response, ended):
        n = max(1, len(response))
        parts = [Segment(i, i + 1, 1 / n, "good") for i, c in enumerate(response) if c in "aeiou"]
        if not ended:
            parts.append(Segment(len(response), len(response), -0.5, "cut"))
        return Gold(sum(p.credit for p in parts), tuple(parts))


@pytest.fixture(scope="session")
def chat():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "<s>", "</s>", "<pad>"])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return make_chat_tokenizer(tokenizer, GenerationConfig())


def build_policy(chat, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        eos_token_id=chat.end_id,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # favour ASCII letters and the end, so that texts are short and readable
        model.lm_head.weight[chat.end_id] *= 3
    return Policy(model, torch.float32)


@pytest.fixture(scope="session")
def policy(chat):
    return build_policy(chat, 0)


@pytest.fixture(scope="session")
def trained(chat):
    """The same model some steps later."""
    moved = build_policy(chat, 0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in moved.model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=random)
    return moved


@pytest.fixture(scope="session")
def prompts(chat):
    texts = ["a", "say something nice", "what is two and two?", "hm", "list three animals", "no", "ü is a letter"]
    prompts = []
    for i, text in enumerate(texts):
        messages = ({"role": "user", "content": text},)
        row = {"length": "long" if len(text) > 6 else "short", "word_limit": 0 if i == 1 else None}
        prompts.append(Prompt(10 + i, messages, text, tuple(chat.encode_prompt(messages)), row))
    return prompts


@pytest.fixture(scope="session")
def pairs(chat, prompts):
    chosen = ["yes", "you look well today", "4", "", "cat, dog, hen", "no no no", "indeed"]
    return [
        Pair(p, c, "bad", tuple(chat.encode_reply(tiny.ASKED, c)), tuple(chat.encode_reply(tiny.ASKED, "bad")))
        for p, c in zip(prompts, chosen, strict=True)
    ]


@pytest.fixture(scope="session")
def world():
    return Vowels()


@pytest.fixture(scope="session")
def source(world):
    return GoldScorer(world)

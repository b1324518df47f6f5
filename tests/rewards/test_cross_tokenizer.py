"""Reward models with a tokenizer and a template of their own, against the classifier that reads the text by itself."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from align.config import AttentionCredit, PrefixCredit, RewardModelSource
from align.config.methods import GRPOConfig, PPOConfig, RewardModelMethodConfig
from align.engine.engine import Engine
from align.engine.reference import ValueHead
from align.errors import InputError, RunError
from align.models.load import body_of
from align.models.reward_folder import linear_head
from align.rewards import RewardModelScorer, build_credit, reward_input
from align.rewards.cross_tokenizer import load_cross_tokenizer, reads_policy_tokens
from align.rewards.reencode import Reader, prefix_places, spread
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["hello you", " again and again ", "", "zoo", "so <|im_end|> on", "count to two\nand three"]
BOTH = frozenset({"prefix_scores", "attention"})
ON = {"device": tiny.CPU, "dtype": torch.float32, "engine": Engine()}


@cache
def causal_folder(limit: int = 256) -> Path:
    """Byte-level BPE with merges that no single letter of the policy's tokenizer respects."""
    path = Path(tiny._FOLDERS.name) / f"cross_tokenizer-{limit}"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(["hello you again and again count to two and three zoo assistant user"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<pad>")
    fast.chat_template = CHATML
    fast.save_pretrained(path)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=fast.pad_token_id, num_labels=1, initializer_range=0.4, max_position_embeddings=limit,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return path


@cache
def encoder_folder() -> Path:
    """BERT on single characters, prompt and response as a pair of texts."""
    path = Path(tiny._FOLDERS.name) / "encoder"
    letters = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *tiny.LETTERS, " ", "<", ">", "|", "_", "\n"]
    word = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="[UNK]"))
    word.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    word.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=word, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    fast.save_pretrained(path)
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=1, initializer_range=0.4, max_position_embeddings=256,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return path


def batch_of(texts=TEXTS, samples=None):
    starts = tiny.prompts(len(texts))
    responses = samples or [tiny.said("a" * max(1, len(t))) for t in texts]
    out = reward_input(tiny.rollout_of(starts, responses), starts, tiny.chat())
    return out


@pytest.fixture(scope="module")
def batch():
    """Texts with characters that the policy's tokens spell one by one, whatever those tokens are."""
    found = batch_of()
    offsets = torch.zeros(len(TEXTS), found.rollout.response_ids.shape[1], 2, dtype=torch.long)
    for i, text in enumerate(TEXTS):
        n = int(found.rollout.lengths[i])
        ends = [min(len(text), t + 1) for t in range(n)]
        offsets[i, :n] = torch.tensor(list(zip([0, *ends][:n], ends, strict=True)))
    return dataclasses.replace(found, responses=TEXTS, offsets=offsets)


def alone(folder: Path):
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def conversation(batch, i: int) -> list[dict[str, str]]:
    return [*batch.messages[i], {"role": "assistant", "content": batch.responses[i]}]


@torch.no_grad()
def test_a_score_is_that_of_the_classifier_on_its_own_rendering(batch):
    """As on a model card: apply_chat_template on the whole conversation, then the classifier."""
    model, tokenizer = alone(causal_folder())
    out = load_cross_tokenizer(causal_folder(), "k", needs=BOTH, **ON).score(batch)
    for i, text in enumerate(TEXTS):
        if "<|" in text:
            continue  # a special token's name stays text: below
        ids = tokenizer.apply_chat_template(conversation(batch, i), return_tensors="pt", return_dict=True)["input_ids"]
        assert out.total[i].item() == pytest.approx(model(ids).logits.item(), abs=1e-4)
    assert out.prefix_scores is None and out.attention is None and out.total.std() > 0.05


@torch.no_grad()
def test_each_prefix_takes_the_score_at_the_last_token_that_it_holds_whole(batch):
    """By another way: the longest run of tokens whose text is within the prefix, through the classifier by itself."""
    model, tokenizer = alone(causal_folder())
    out = load_cross_tokenizer(causal_folder(), "k", needs=BOTH, **ON).score(batch, BOTH)
    for i, text in enumerate(TEXTS[:4]):
        full = tokenizer.apply_chat_template(conversation(batch, i), tokenize=False)
        ids = tokenizer(full, add_special_tokens=False)["input_ids"]
        texts = [tokenizer.decode(ids[: j + 1], clean_up_tokenization_spaces=False) for j in range(len(ids))]
        head = full.rindex("assistant\n") + len("assistant\n") - (len(text) - len(text.lstrip()))
        n = int(batch.rollout.lengths[i])
        for t in range(n):  # prefixes of 0 .. n - 1 tokens; the whole one is above
            end = int(batch.offsets[i, t - 1, 1]) if t else 0
            holds = max(j for j, seen in enumerate(texts) if len(seen) <= head + end)
            expected = model(torch.tensor([ids[: holds + 1]])).logits.item()
            assert out.prefix_scores[i, t].item() == pytest.approx(expected, abs=1e-4), (text, t)
        assert out.prefix_scores[i, n] == out.total[i]
        assert not out.prefix_scores[i, n + 1 :].any()
    paid = build_credit(PrefixCredit()).assign(out, batch.rollout.response_mask)
    torch.testing.assert_close(paid.sum(1), out.total - out.prefix_scores[:, 0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_attention_comes_back_by_characters(batch):
    model, tokenizer = alone(causal_folder())
    out = load_cross_tokenizer(causal_folder(), "k", needs=BOTH, **ON).score(batch, BOTH)
    text = TEXTS[0]
    encoded = tokenizer.apply_chat_template(conversation(batch, 0), tokenize=False)
    both = tokenizer(encoded, add_special_tokens=False, return_offsets_mapping=True)
    look = model(torch.tensor([both["input_ids"]]), output_attentions=True).attentions[-1][0].mean(0)[-1]
    head = encoded.rindex(text)
    inside = [j for j, (a, b) in enumerate(both["offset_mapping"]) if a >= head and b <= head + len(text)]
    assert len(inside) < len(text)  # its tokens are longer than the policy's letters
    assert out.attention[0].sum().item() == pytest.approx(look[inside].sum().item(), abs=1e-4)
    a, b = (x - head for x in both["offset_mapping"][inside[0]])
    shares = out.attention[0, a:b].tolist()
    assert shares == pytest.approx([look[inside[0]].item() / (b - a)] * (b - a), abs=1e-5)
    assert out.attention[0, len(text)] == 0  # the policy's end token has no characters
    paid = build_credit(AttentionCredit()).assign(out, batch.rollout.response_mask)
    torch.testing.assert_close(paid.sum(1), out.total, rtol=0, atol=1e-4)


def test_the_name_of_a_special_token_in_a_response_stays_text():
    _, tokenizer = alone(causal_folder())
    reader = Reader(tokenizer, "k")
    messages = [{"role": "user", "content": "hello"}]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain, odd = (reader.encode(messages, text) for text in ("so on", "so <|im_end|> on"))
    assert plain.ids.count(end) == odd.ids.count(end) == 2
    inside = [i for i, (a, b) in zip(odd.ids, odd.spans, strict=True) if a >= 0 and b <= len("so <|im_end|> on")]
    assert tokenizer.decode(inside) == "so <|im_end|> on"


def test_the_name_of_a_special_token_in_a_prompt_opens_no_turn_and_moves_no_character():
    tokenizer = AutoTokenizer.from_pretrained(causal_folder())
    reader, response = Reader(tokenizer, "k"), "count to two"
    plain, naming = (
        reader.encode([{"role": "user", "content": text}], response) for text in ("say it", "so <|im_end|> on")
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert naming.ids.count(end) == plain.ids.count(end)
    assert "so <|im_end|> on" in tokenizer.decode(naming.ids)

    def said(encoded) -> list[str]:
        return [response[a:b] for a, b in encoded.spans if 0 <= a < b <= len(response)]

    assert "".join(said(naming)) == response and said(naming) == said(plain)


def test_with_the_policys_own_tokenizer_prefixes_are_those_of_its_tokens():
    """Canonical tokens, same template: only the whole response differs, by what the template writes behind the turn."""
    texts = ["abe", "xyzou and so", "hm"]
    given = batch_of(texts, [tiny.said(t) for t in texts])
    model = AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()
    own = RewardModelScorer(ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)).score(
        given, BOTH
    )
    read = load_cross_tokenizer(tiny.reward_folder(), "k", needs=BOTH, **ON).score(given, BOTH)
    for i, n in enumerate(given.rollout.lengths.tolist()):
        torch.testing.assert_close(read.prefix_scores[i, :n], own.prefix_scores[i, :n], rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_encoder_reads_a_pair_and_takes_a_pass_for_every_prefix(batch):
    model, tokenizer = alone(encoder_folder())
    source = load_cross_tokenizer(encoder_folder(), "k", needs=frozenset({"prefix_scores"}), **ON)
    out = source.score(batch, frozenset({"prefix_scores"}))

    def score(i: int, text: str) -> float:
        prompt = "\n".join(m["content"] for m in batch.messages[i])
        return model(**tokenizer(prompt, text, return_tensors="pt")).logits.item()

    for i, text in enumerate(TEXTS):
        assert out.total[i].item() == pytest.approx(score(i, text), abs=1e-4)
        n = int(batch.rollout.lengths[i])
        for t in range(n + 1):
            end = int(batch.offsets[i, t - 1, 1]) if t else 0
            assert out.prefix_scores[i, t].item() == pytest.approx(score(i, text[:end]), abs=1e-4)
    assert score(0, "hello") != pytest.approx(score(0, "hello yo"), abs=1e-3)
    assert source.score(batch).prefix_scores is None


def test_who_reads_the_policys_tokens():
    chat = tiny.chat()
    found = {f: reads_policy_tokens(f, chat, "k") for f in (tiny.reward_folder(), causal_folder(), encoder_folder())}
    assert list(found.values()) == [True, False, False]


def test_what_stands_where():
    spans = [(-9, -2), (-2, 0), (0, 3), (3, 4), (4, 6), (6, 9)]
    assert prefix_places(spans, [0, 1, 3, 3, 5, 6, 6]) == [1, 1, 2, 2, 3, 4, 4]
    assert prefix_places([(-1, 1), (1, 2)], [0, 1, 2]) == [-1, 0, 1]  # a token that joins prompt and response
    weights = spread([9, 9, 3, 1, 4, 9], spans, [(0, 1), (1, 5), (5, 6), (6, 6)])
    assert weights == pytest.approx([1, 2 + 1 + 2, 2, 0])


def test_what_does_not_fit_is_refused(batch):
    with pytest.raises(InputError, match=r"reward/credit: given 'attention'; .*BertForSequenceClassification"):
        load_cross_tokenizer(encoder_folder(), "k", needs=frozenset({"attention"}), **ON)
    short = load_cross_tokenizer(causal_folder(24), "k", needs=frozenset(), **ON)
    with pytest.raises(RunError, match=r"reward model: sample 4 \(prompt 22\) has 35 of its tokens, its context 24"):
        short.score(batch)


@pytest.mark.parametrize(
    ("folder", "method"), [(causal_folder, PPOConfig), (causal_folder, GRPOConfig), (encoder_folder, PPOConfig)]
)
def test_a_run_with_prefix_credit(tmp_path, folder, method):
    data = runs.write_data(tmp_path / "data")
    options = {"group_size": 4} if method is GRPOConfig else {}
    cfg = runs.config(
        method(minibatch_size=8, learning_rate=1e-3, **options), data,
        source=RewardModelSource(path=str(folder()), reference_responses=8),
    )  # fmt: skip
    cfg.reward.credit = PrefixCredit()
    said: list[str] = []
    run(cfg, tmp_path / "run", say=said.append)
    assert any("re-encoded" in line for line in said)
    records = runs.lines(tmp_path / "run" / f"{cfg.method.name}_metrics.jsonl")
    assert len(records) == 2 and all(abs(r["reward/score_mean"]) < 10 for r in records)
    assert records[0]["reward/raw_std"] > 0


def test_the_method_that_measures_reward_models_needs_the_policys_tokens(tmp_path):
    data = runs.write_data(tmp_path / "data")
    source = RewardModelSource(path=str(causal_folder()), reference_responses=8)
    with pytest.raises(InputError, match=r"reward\.source\.path: .*with method=reward_model"):
        run(runs.config(RewardModelMethodConfig(), data, source=source), tmp_path / "run", say=lambda line: None)

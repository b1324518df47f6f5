"""The reward model: what it reads, what it learns, and that it is trained once."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from align.config import AdapterConfig, Config, RewardConfig, RewardModelSource, SparseCredit
from align.engine.value_head import ValueHead, body_of, linear_head
from align.errors import InputError
from align.models.adapters import REWARD, SharedBase
from align.models.chat_tokenizer import make_chat_tokenizer
from align.models.reward_folder import is_adapter, read_card
from align.stored.reward_model import (
    classifier_on,
    ensure_reward_model,
    longer_wins,
    pair_accuracy,
    reward_model_key,
    train_reward_model,
)
from align.types import Pair
from tests import tiny

LORA = AdapterConfig(name="lora", r=4, alpha=8)
RATE = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 4}
ON = {"device": tiny.CPU, "dtype": torch.float32}


def make_pairs(n: int, seed: int) -> list[Pair]:
    """Words of the first letters of the alphabet are preferred to words of the last; length says nothing."""
    rng = random.Random(seed)
    starts = tiny.prompts(8)

    def word(letters: str) -> str:
        return "".join(rng.choices(letters, k=rng.randint(2, 6)))

    return [tiny.pair(rng.choice(starts), word("abcdefgh"), word("stuvwxyz")) for _ in range(n)]


TRAIN, HELD_OUT = make_pairs(128, 0), make_pairs(60, 1)


def setting(adapter: AdapterConfig | None = None, **source) -> tuple[Config, RewardModelSource]:
    options = RewardModelSource(**(RATE | source))
    return tiny.config(adapter=adapter, reward=RewardConfig(source=options, credit=SparseCredit())), options


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cfg, source = setting()
    lines: list[str] = []
    card = train_reward_model(
        folder, cfg, source, tiny.chat(), TRAIN, HELD_OUT, key={"some": "key"}, say=lines.append, **ON
    )
    return folder, card, lines


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


# --- training ---------------------------------------------------------------------------------------------------------


def alone(model, pair: Pair, response: tuple[int, ...]) -> float:
    with torch.no_grad():
        return model(torch.tensor([[*pair.prompt.input_ids, *response]])).logits.item()


def test_it_learns_and_says_how_well(trained):
    """'Always report held-out accuracy *and* the accuracy of "the longer one wins"'."""
    folder, card, lines = trained
    assert card.accuracy > 0.9
    assert 0.2 < card.longer_wins < 0.8
    assert (card.train_pairs, card.held_out_pairs) == (128, 60)
    assert read_card(folder) == card
    assert any("step" in line and "accuracy" in line for line in lines)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    wins = [alone(model, p, p.chosen_ids) > alone(model, p, p.rejected_ids) for p in HELD_OUT]
    assert sum(wins) / len(wins) == pytest.approx(card.accuracy)


def test_lora_learns_and_scores_the_same_on_a_shared_base(tmp_path):
    cfg, source = setting(LORA, learning_rate=3e-2)
    card = train_reward_model(tmp_path, cfg, source, tiny.chat(), TRAIN, HELD_OUT, key={}, **ON)
    assert card.accuracy > 0.9 and is_adapter(tmp_path)
    alone_model = AutoModelForSequenceClassification.from_pretrained(tiny.folder(), num_labels=1)
    alone_model = PeftModel.from_pretrained(alone_model, tmp_path).eval()
    base = tiny.causal()
    shared = SharedBase(base, LORA)
    head = shared.load(REWARD, tmp_path)
    shared_scorer = ValueHead(body_of(base), linear_head(head), torch.float32, shared, REWARD)
    assert pair_accuracy(shared_scorer, tiny.chat(), HELD_OUT) == pytest.approx(card.accuracy)
    for p in HELD_OUT[:5]:
        ids = torch.tensor([[*p.prompt.input_ids, *p.chosen_ids]])
        with torch.no_grad():
            score = shared_scorer(ids, torch.ones_like(ids))[0, -1].item()
        assert score == pytest.approx(alone(alone_model, p, p.chosen_ids), abs=1e-5)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_micro_batches_bound_what_is_read_at_once_and_leave_the_gradient_as_it_is(adapter, tmp_path, monkeypatch):
    """Parts of different sizes, chosen and rejected kept together; the gradients of each update before clipping."""
    seen: list[list[torch.Tensor]] = []
    sizes: list[int] = []
    clip, forward = Accelerator.clip_grad_norm_, torch.nn.Embedding.forward

    def watch_clip(self, parameters, *args, **kwargs):
        parameters = list(parameters)
        seen.append([p.grad.clone() for p in parameters if p.grad is not None])
        return clip(self, parameters, *args, **kwargs)

    def watch_forward(self, ids):
        if torch.is_grad_enabled():
            sizes.append(ids.numel())
        return forward(self, ids)

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", watch_clip)
    monkeypatch.setattr(torch.nn.Embedding, "forward", watch_forward)

    def train(budget: int | None) -> tuple[list[list[torch.Tensor]], list[int]]:
        seen.clear(), sizes.clear()
        cfg, source = setting(adapter, epochs=1, micro_batch_tokens=budget)
        folder = tmp_path / str(budget)
        train_reward_model(folder, cfg, source, tiny.chat(), TRAIN[:30], HELD_OUT[:2], key={}, **ON)
        return list(seen), list(sizes)

    (whole, at_once), (parts, at_a_time) = train(None), train(80)
    assert len(at_once) == len(whole) == 4 and max(at_once) > 160  # 30 pairs: the last batch is smaller
    assert len(at_a_time) > 3 * len(parts) and max(at_a_time) <= 80 and len(parts) == 4
    for a, b in zip(whole[0], parts[0], strict=True):
        assert torch.allclose(a, b, atol=1e-6 + 1e-4 * float(a.abs().max()))
    assert sum(float(a.norm()) for a in whole[0]) > 0.1


def test_training_reads_exactly_the_policys_tokens(monkeypatch, tmp_path):
    """Pre-tokenised rows: prompt and response ids as they are, no second EOS, nothing cut; PAD by the chat."""
    seen: list[list[int]] = []
    forward = torch.nn.Embedding.forward

    def watch(self, ids):
        if self.num_embeddings == len(tiny.chat().tokenizer) and ids.dim() == 2 and torch.is_grad_enabled():
            seen.extend(ids.tolist())
        return forward(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", watch)
    cfg, source = setting(epochs=1, batch_size=4)
    train_reward_model(tmp_path, cfg, source, tiny.chat(), TRAIN[:8], [], key={}, **ON)
    expected = {(*p.prompt.input_ids, *r) for p in TRAIN[:8] for r in (p.chosen_ids, p.rejected_ids)}
    pad = tiny.chat().pad_id
    assert {tuple(i for i in row if i != pad) for row in seen} == expected
    assert len(seen) == 16
    assert all(i.count(tiny.chat().end_id) == 2 for i in map(list, expected))  # one of the prompt's, one to end
    assert read_card(tmp_path).accuracy is None  # nothing held out, nothing claimed


def test_the_score_of_a_pair_is_read_at_the_last_real_token(trained):
    """'Score the last non-pad token', whatever the padding and whichever side it is on."""
    folder, _, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scorer = ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)
    expected = [alone(model, p, r) for p in HELD_OUT[:6] for r in (p.chosen_ids, p.rejected_ids)]
    sides = [[*p.prompt.input_ids, *r] for p in HELD_OUT[:6] for r in (p.chosen_ids, p.rejected_ids)]
    width, pad = max(map(len, sides)), tiny.chat().pad_id
    for left in (True, False):
        fill = [[pad] * (width - len(s)) for s in sides]
        ids = torch.tensor([f + s if left else s + f for f, s in zip(fill, sides, strict=True)])
        mask = (ids != pad).long()
        last = torch.full((len(sides),), width - 1) if left else mask.sum(1) - 1
        with torch.no_grad():
            ours = scorer(ids, mask)[torch.arange(len(sides)), last]
            theirs = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, 0]
        assert ours.tolist() == pytest.approx(expected, abs=1e-4)
        assert theirs.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("budget", [16384, 40, 1])
def test_pair_accuracy_counts_wins_and_half_of_ties(trained, budget):
    model = AutoModelForSequenceClassification.from_pretrained(trained[0]).eval()
    scorer = ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)
    good = HELD_OUT[:10]
    good = [p for p in good if alone(model, p, p.chosen_ids) > alone(model, p, p.rejected_ids)]
    bad = [dataclasses.replace(p, chosen_ids=p.rejected_ids, rejected_ids=p.chosen_ids) for p in good[:3]]
    ties = [dataclasses.replace(p, rejected_ids=p.chosen_ids) for p in good[:1]]
    found = pair_accuracy(scorer, tiny.chat(), [*good, *bad, *ties], budget)
    assert found == pytest.approx((len(good) + 0.5) / (len(good) + 4))


def test_longer_wins():
    start = tiny.prompts(1)[0]
    pairs = [tiny.pair(start, c, r) for c, r in [("aaa", "b"), ("aa", "b"), ("a", "bb"), ("aa", "bb")]]
    assert longer_wins(pairs) == (1 + 1 + 0 + 0.5) / 4


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen2"])
def test_the_head_starts_small(shape):
    """'Head std 1/sqrt(d+1)'; the body is the start model's; no dropout."""
    cfg = tiny.config(shape=shape)
    heads = []
    for seed in range(15):
        torch.manual_seed(seed)
        heads.append(classifier_on(cfg, tiny.chat(), tiny.CPU, torch.float32).score.weight.detach())
    width = heads[0].shape[1]
    drawn = torch.cat(heads)
    assert float(drawn.std()) == pytest.approx((width + 1) ** -0.5, rel=0.12)
    assert abs(float(drawn.mean())) < 0.05
    model = classifier_on(cfg, tiny.chat(), tiny.CPU, torch.float32)
    start = body_of(tiny.causal(shape)).state_dict()
    assert all(torch.equal(v, start[k]) for k, v in body_of(model).state_dict().items())
    assert model.config.pad_token_id == tiny.chat().pad_id
    assert not [p for p in model.parameters() if p.is_meta]
    assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_centring_pulls_scores_to_0(tmp_path):
    """'Optional centring loss lambda * mean((r_c + r_r)^2)'."""
    sums = {}
    for coef in (0.0, 10.0):
        cfg, source = setting(center_coef=coef)
        folder = tmp_path / str(coef)
        train_reward_model(folder, cfg, source, tiny.chat(), TRAIN, [], key={}, **ON)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        both = [alone(model, p, p.chosen_ids) + alone(model, p, p.rejected_ids) for p in HELD_OUT[:20]]
        sums[coef] = sum(x * x for x in both) / len(both)
    assert sums[10.0] < 0.2 * sums[0.0]


# --- stored and reused ------------------------------------------------------------------------------------------------


def test_trained_once_and_reused():
    cfg, source = setting(epochs=1)
    lines: list[str] = []
    folder = ensure_reward_model(cfg, source, tiny.chat(), TRAIN[:16], HELD_OUT[:4], say=lines.append, **ON)
    told = len(lines)
    assert told >= 2 and "longer response wins" in lines[-1]
    weights = folder / "model.safetensors"
    before = (weights.stat().st_mtime_ns, weights.stat().st_ino)
    again = ensure_reward_model(cfg, source, tiny.chat(), TRAIN[:16], HELD_OUT[:4], say=lines.append, **ON)
    assert again == folder and len(lines) == told
    assert (weights.stat().st_mtime_ns, weights.stat().st_ino) == before
    assert sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) == [folder.name]
    assert read_card(folder).key == reward_model_key(cfg, source, TRAIN[:16], HELD_OUT[:4])
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt")) + list(folder.rglob("*.pkl"))


def test_the_key_holds_what_a_reward_model_depends_on_and_nothing_else():
    def key(train=TRAIN, held_out=HELD_OUT, shape="llama", adapter=None, **source):
        cfg, options = setting(adapter, **source)
        if shape != "llama":
            cfg.model.path = str(tiny.folder(shape))
        return reward_model_key(cfg, options, train, held_out)

    base = key()
    assert base == key()
    changes = [
        key(train=TRAIN[1:]),
        key(train=TRAIN[::-1]),
        key(held_out=HELD_OUT[1:]),
        key(shape="gpt2"),
        key(adapter=LORA),
        key(adapter=AdapterConfig(name="lora", r=8, alpha=8)),
        key(seed=1),
        key(epochs=3),
        key(batch_size=4),
        key(learning_rate=1e-3),
        key(center_coef=0.5),
    ]
    everything = [base, *changes]
    assert all(a != b for i, a in enumerate(everything) for b in everything[:i])
    assert key(reference_responses=7) == base  # the scale is measured by each run
    cfg, options = setting()
    cfg.seed, cfg.max_steps, cfg.method.learning_rate = 5, 99, 0.5
    assert reward_model_key(cfg, options, TRAIN, HELD_OUT) == base  # shared by every run and sweep job


def test_a_given_reward_model_is_taken_as_it_is(tmp_path):
    cfg, source = setting(path=str(tiny.reward_folder()))
    assert ensure_reward_model(cfg, source, tiny.chat(), TRAIN, HELD_OUT, **ON) == tiny.reward_folder()


def test_an_unknown_asset_is_named():
    cfg, source = setting(path="align://nowhere/model")
    with pytest.raises(InputError, match=r"reward\.source\.path"):
        ensure_reward_model(cfg, source, tiny.chat(), TRAIN, HELD_OUT, **ON)


def test_without_a_pad_token_the_end_token_is_still_the_one_that_is_scored(tmp_path):
    """Left to itself TRL would pad with EOS, and train the score of the last token that is not EOS."""
    chat = make_chat_tokenizer(tiny.tokenizer())
    chat.tokenizer.pad_token = None  # as with a GPT-2 tokenizer, whose PAD is no special token
    cfg, source = setting()
    train_reward_model(tmp_path, cfg, source, chat, TRAIN[:16], HELD_OUT[:4], key={}, **ON)
    assert chat.tokenizer.pad_token is None
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert model.config.pad_token_id == chat.pad_id
    scorer = ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)
    for pair in TRAIN[:4]:
        ids = torch.tensor([[*pair.prompt.input_ids, *pair.chosen_ids]])
        padded = torch.cat([ids, torch.full((1, 3), chat.pad_id)], dim=1)
        with torch.no_grad():
            at_the_end = scorer(ids, torch.ones_like(ids))[0, -1]
            torch.testing.assert_close(model(padded).logits[0, 0], at_the_end, rtol=0, atol=1e-5)

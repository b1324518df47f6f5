"""Reward models of a run: what they learn, on which models, how they are stored, and that they are trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from transformers import AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from align import metrics
from align.config import AttentionCredit, CriticInit, RewardModelSource
from align.config.methods import PPOConfig
from align.engine.roles import build_roles
from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import body_of
from align.models.locate import HEAD, is_adapter
from align.models.reward_folder import read_card, read_head
from align.rewards.pairs import pair_accuracy, prefix_figures
from align.run.reward_models import ensure_reward_model, train_reward_model
from align.run.runner import run
from align.run.stage import RECORDS
from align.stored.keys import reward_model_key
from tests import tiny
from tests.algorithms import runs
from tests.run.stages import HELD_OUT, LORA, ON, TRAIN, alone, loaded, setting, stage

STILL = {"learning_rate": 1e-30}  # moves no weight: what is stored is what training began with


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cfg, source = setting()
    lines: list[str] = []
    return folder, train_reward_model(stage(folder, cfg, say=lines.append), source, {"some": "key"}), lines


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


# --- training ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_how_well(trained):
    """'Always report held-out accuracy *and* the accuracy of "the longer one wins"'."""
    folder, card, lines = trained
    assert card.accuracy > 0.9
    assert 0.2 < card.longer_wins < 0.8
    assert (card.train_pairs, card.held_out_pairs) == (128, 60)
    assert read_card(folder) == card
    assert lines == ["training the reward model on 128 pairs, once"]
    model = loaded(folder)
    wins = [alone(model, p, p.chosen_ids) > alone(model, p, p.rejected_ids) for p in HELD_OUT]
    assert sum(wins) / len(wins) == pytest.approx(card.accuracy)


def test_every_record_has_every_metric_of_the_table(trained):
    """64 updates; the rate rises over 5% of them, rounded up, and falls linearly to 0."""
    records = runs.lines(trained[0] / RECORDS)
    assert [r["step"] for r in records] == list(range(1, 65))
    assert all(metrics.compare(r, "reward_model") == (set(), set()) for r in records)
    rates = [r["reward_model/learning_rate"] / 1e-2 for r in records]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *[n / 60 for n in range(60, 0, -1)]])
    assert records[-1]["reward_model/loss"] < 0.3 < 0.6 < records[0]["reward_model/loss"]


def test_one_update_has_no_warm_up(tmp_path):
    cfg, source = setting(epochs=1)
    train_reward_model(stage(tmp_path, cfg, TRAIN[:8], []), source, {})
    assert [r["reward_model/learning_rate"] for r in runs.lines(tmp_path / RECORDS)] == [1e-2]


def without_pad() -> ChatTokenizer:
    chat = make_chat_tokenizer(tiny.tokenizer())
    chat.tokenizer.pad_token = None  # as with a GPT-2 tokenizer, whose PAD is no special token
    return chat


@pytest.mark.parametrize("budget", [None, 80])
@pytest.mark.parametrize("chat", [tiny.chat, without_pad])
def test_the_first_loss_by_hand(tmp_path, chat, budget):
    """-log s(r_w - r_l) + c (r_w + r_l)^2 over the pairs, scored at the last token, however they are split."""
    cfg, source = setting(epochs=1, center_coef=0.3, micro_batch_tokens=budget, **STILL)
    train_reward_model(stage(tmp_path, cfg, TRAIN[:8], [], chat=chat()), source, {})
    model, losses, margins = loaded(tmp_path), [], []
    for pair in TRAIN[:8]:
        chosen, rejected = (alone(model, pair, ids) for ids in (pair.chosen_ids, pair.rejected_ids))
        margins.append(chosen - rejected)
        losses.append(-float(logsigmoid(torch.tensor(chosen - rejected))) + 0.3 * (chosen + rejected) ** 2)
    (record,) = runs.lines(tmp_path / RECORDS)
    assert record["reward_model/loss"] == pytest.approx(sum(losses) / 8, rel=1e-5)
    assert record["reward_model/margin"] == pytest.approx(sum(margins) / 8, rel=1e-5)
    assert record["reward_model/accuracy"] == sum(m > 0 for m in margins) / 8
    assert record["tokens/policy"] == sum(
        2 * len(p.prompt.input_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in TRAIN[:8]
    )
    assert model.body.config.pad_token_id == chat().pad_id
    assert read_card(tmp_path).accuracy is None  # nothing held out, nothing claimed


def test_centring_pulls_scores_to_0(tmp_path):
    """'Optional centring loss lambda * mean((r_c + r_r)^2)'."""
    sums = {}
    for coef in (0.0, 10.0):
        cfg, source = setting(center_coef=coef)
        train_reward_model(stage(tmp_path / str(coef), cfg, held_out=[]), source, {})
        model = loaded(tmp_path / str(coef))
        both = [alone(model, p, p.chosen_ids) + alone(model, p, p.rejected_ids) for p in HELD_OUT[:20]]
        sums[coef] = sum(x * x for x in both) / len(both)
    assert sums[10.0] < 0.2 * sums[0.0]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen2"])
def test_the_head_starts_small(shape, tmp_path):
    """'Head std 1/sqrt(d+1)'; the body is the start model's; no dropout."""
    heads = []
    for seed in range(15):
        cfg, source = setting(shape=shape, seed=seed, epochs=1, **STILL)
        train_reward_model(stage(tmp_path / str(seed), cfg, TRAIN[:1], []), source, {})
        head = read_head(tmp_path / str(seed))
        assert head.bias.item() == 0
        heads.append(head.weight.detach())
    width = heads[0].shape[1]
    drawn = torch.cat(heads)
    assert float(drawn.std()) == pytest.approx((width + 1) ** -0.5, rel=0.12)
    assert abs(float(drawn.mean())) < 0.05
    start, model = body_of(tiny.causal(shape)).state_dict(), loaded(tmp_path / "0").body
    assert all(torch.allclose(v, start[k], rtol=0, atol=1e-20) for k, v in model.state_dict().items())
    assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
def test_the_seed_decides_and_nothing_that_was_drawn_before(adapter, tmp_path):
    weights = []
    for i, (seed, drawn) in enumerate([(0, 1), (0, 2), (1, 1)]):
        torch.manual_seed(drawn)
        state = torch.get_rng_state()
        cfg, source = setting(adapter, seed=seed, epochs=1)
        train_reward_model(stage(tmp_path / str(i), cfg, TRAIN[:16], []), source, {})
        assert torch.equal(torch.get_rng_state(), state)
        body = "model.safetensors" if adapter is None else "adapter_model.safetensors"
        weights.append(load_file(tmp_path / str(i) / body) | load_file(tmp_path / str(i) / HEAD))
    first, again, other = weights
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["weight"], other["weight"])


# --- on any causal language model -------------------------------------------------------------------------------------


def test_a_trained_adapter_scores_alike_alone_and_on_a_shared_base(tmp_path):
    """As reward and as the critic's start, beside a policy of its own; the critic is a copy."""
    cfg, source = setting(LORA, learning_rate=3e-2)
    card = train_reward_model(stage(tmp_path, cfg), source, {})
    assert card.accuracy > 0.9 and is_adapter(tmp_path)
    roles = build_roles(cfg, reward=tmp_path, critic_init=CriticInit.auto, **ON)
    assert roles.critic_from is CriticInit.reward_model and roles.reward.body is roles.policy.model.model
    merged = loaded(tmp_path)
    for role in (roles.reward, roles.critic):
        assert pair_accuracy(role, tiny.chat(), HELD_OUT) == pytest.approx(card.accuracy)
        for p in HELD_OUT[:5]:
            assert alone(role, p, p.chosen_ids) == pytest.approx(alone(merged, p, p.chosen_ids), rel=1e-5, abs=1e-5)
    tiny.nudge(roles.critic)
    assert alone(roles.reward, HELD_OUT[0], HELD_OUT[0].chosen_ids) == pytest.approx(
        alone(merged, HELD_OUT[0], HELD_OUT[0].chosen_ids), rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
@pytest.mark.parametrize("shape", ["granite", "cohere2"])
def test_a_head_on_what_transformers_has_no_classifier_for(shape, adapter, tmp_path):
    """Trained, stored, loaded with equal scores, and rewarding, tokens included, in a run of PPO."""
    assert shape not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    data = runs.write_data(tmp_path / "data")
    source = RewardModelSource(learning_rate=1e-2, epochs=4, batch_size=8, reference_responses=8)
    method = PPOConfig(minibatch_size=4)
    cfg = runs.config(method, data, source=source, model=str(tiny.folder(shape)), adapter=adapter)
    cfg.reward.credit = AttentionCredit()
    run(cfg, tmp_path / "run", say=lambda line: None)
    records = runs.lines(tmp_path / "run" / "ppo_metrics.jsonl")
    assert len(records) == 2 and all(metrics.compare(record, "ppo") == (set(), set()) for record in records)
    (folder,) = (p for p in (tmp_path / "home" / "reward_models").iterdir() if p.is_dir())
    card = read_card(folder)
    assert card.accuracy > 0.9 and is_adapter(folder) == (adapter is not None)
    held_out = [
        tiny.pair(p, *sides) for p, sides in zip(tiny.prompts(4), [("aei", "x"), ("aeiou", "yz")] * 2, strict=True)
    ]
    roles = build_roles(cfg, reward=folder, critic_init=None, **ON)
    tolerance = 1e-6 if adapter is None else 1e-5  # merging an adapter into the weights rounds them
    for p in held_out:
        assert alone(loaded(folder), p, p.chosen_ids) == pytest.approx(
            alone(roles.reward, p, p.chosen_ids), rel=tolerance, abs=tolerance
        )


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
@pytest.mark.parametrize("shape", ["granite", "cohere2", "gpt2"])
def test_what_is_loaded_scores_as_what_was_trained(shape, adapter, tmp_path):
    """The figures of the card are the trained model's, those here the stored one's."""
    cfg, source = setting(adapter, shape, epochs=1)
    card = train_reward_model(stage(tmp_path, cfg, TRAIN[:32]), source, {})
    figures = prefix_figures(loaded(tmp_path), tiny.chat(), HELD_OUT)
    for name, values in card.prefix_scores["end"].items():
        assert figures[name] == pytest.approx(values, abs=1e-6 if adapter is None else 1e-5)


def test_the_body_is_a_model_of_transformers(trained):
    model = AutoModel.from_pretrained(trained[0]).eval()
    head = load_file(trained[0] / HEAD)
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {"weight": (1, 24), "bias": (1,)}
    pair = HELD_OUT[0]
    ids = torch.tensor([[*pair.prompt.input_ids, *pair.chosen_ids]])
    with torch.no_grad():
        score = model(ids).last_hidden_state[0, -1] @ head["weight"][0] + head["bias"]
    assert float(score) == pytest.approx(alone(loaded(trained[0]), pair, pair.chosen_ids), abs=1e-5)


# --- stored and reused ------------------------------------------------------------------------------------------------


def test_trained_once_and_reused():
    cfg, source = setting(epochs=1)
    lines: list[str] = []
    folder = ensure_reward_model(stage(None, cfg, TRAIN[:16], HELD_OUT[:4], say=lines.append), source)
    said = len(lines)
    assert said == 2 and "longer response wins" in lines[-1]
    weights = folder / "model.safetensors"
    before = (weights.stat().st_mtime_ns, weights.stat().st_ino)
    again = ensure_reward_model(stage(None, cfg, TRAIN[:16], HELD_OUT[:4], say=lines.append), source)
    assert again == folder and len(lines) == said
    assert (weights.stat().st_mtime_ns, weights.stat().st_ino) == before
    assert sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) == [folder.name]
    assert read_card(folder).key == reward_model_key(cfg, source, TRAIN[:16], HELD_OUT[:4])
    names = {p.name for p in folder.rglob("*")}
    assert {"model.safetensors", HEAD, "config.json", "reward_model.json", RECORDS, "tokenizer.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))] and not list(folder.rglob("*_step_*"))


def test_a_given_reward_model_is_taken_as_it_is():
    cfg, source = setting(path=str(tiny.reward_folder()))
    assert ensure_reward_model(stage(None, cfg), source) == tiny.reward_folder()


def test_an_unknown_asset_is_named():
    cfg, source = setting(path="align://nowhere/model")
    with pytest.raises(InputError, match=r"reward\.source\.path"):
        ensure_reward_model(stage(None, cfg), source)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
def test_a_reward_model_as_start_model_is_refused(adapter, tmp_path):
    """Also where embeddings are tied, so that its body has every weight of a language model."""
    cfg, source = setting(adapter, epochs=1)
    train_reward_model(stage(tmp_path / "stored", cfg, TRAIN[:8], []), source, {})
    config = tmp_path / "stored" / "config.json"
    if adapter is None:
        config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    cfg.model.path = str(tmp_path / "stored")
    with pytest.raises(InputError, match=r"^model\.path: .*reward\.source\.path") as caught:
        build_roles(cfg, reward=None, critic_init=None, **ON)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_what_a_failed_training_wrote_is_not_in_the_next_ones_folder(tmp_path, monkeypatch):
    cfg, source = setting(epochs=1)
    partial: list[Path] = []

    def litter(line: str) -> None:
        (folder,) = (tmp_path / "home" / "reward_models").glob(".*.partial")
        partial.append(folder)
        (folder / "litter").mkdir()
        (folder / "model-00002-of-00002.safetensors").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_reward_model(stage(None, cfg, TRAIN[:16], HELD_OUT[:4], say=litter), source)
    folder = ensure_reward_model(stage(None, cfg, TRAIN[:16], HELD_OUT[:4]), source)
    assert partial and not partial[0].exists()
    assert not {"litter", "model-00002-of-00002.safetensors"} & {p.name for p in folder.iterdir()}

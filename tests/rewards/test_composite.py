"""A weighted sum: every part before and after, signals per token that add up, and the state of what runs."""

from __future__ import annotations

import pytest
import torch

from align.config import (
    AttentionCredit,
    CompositeSource,
    EnsembleSource,
    FunctionSource,
    GoldSource,
    ImplicitCredit,
    Normalise,
    PrefixCredit,
    Returns,
    RewardConfig,
    RewardModelSource,
    RolloutConfig,
    RulesSource,
    SpansCredit,
    SparseCredit,
    TruthCredit,
)
from align.config.composition import check_all
from align.config.rules import RepetitionRule, WordLimitRule
from align.engine.roles import build_roles
from align.errors import InputError
from align.rewards import Builder, References, build_credit, reward_input
from tests import tiny

SPANS = FunctionSource(path="tests/tiny.py:prompt", returns=Returns.spans)
NO_LIMIT = WordLimitRule(weight=0.0)
RULES = RulesSource(word_limit=NO_LIMIT, repetition=RepetitionRule(weight=1.0, size=1))


def built(source, **kwargs):
    cfg = tiny.config(reward=RewardConfig(source=source, credit=SparseCredit()))
    folders = [tiny.reward_folder(seed=1 + i) for i, _ in enumerate(source.models())]
    first = folders[0] if folders else None
    roles = build_roles(
        cfg, device=tiny.CPU, dtype=torch.float32, reward=first, critic_init=None, more_rewards=folders[1:]
    )
    references = References(roles.reference, tiny.chat(), tiny.prompts(24), RolloutConfig(max_new_tokens=8))
    builder = Builder(roles, references, tiny.VowelWorld(), tiny.prompts(24), **kwargs)
    return builder.build(source), builder


@pytest.fixture(scope="module")
def batch():
    starts = tiny.prompts(3)
    texts = ["aeb", "xy xy xy", "oooo"]
    return reward_input(tiny.rollout_of(starts, [tiny.said(t) for t in texts]), starts, tiny.chat())


def test_parts_weights_and_what_they_were_before(batch):
    """gold .5/0/1, clipped at .75; distinct words 1, 1/3, 1."""
    source, _ = built(
        CompositeSource(parts={"world": GoldSource(clip=0.75), "text": RULES}, weights={"world": 2.0, "text": -1.0})
    )
    out = source.score(batch)
    assert out.raw_parts["world"].tolist() == [0.5, 0, 1]
    assert out.parts["world"].tolist() == [1.0, 0, 1.5]
    assert out.raw_parts["text"].tolist() == pytest.approx([1, 1 / 3, 1])
    assert out.parts["text"].tolist() == pytest.approx([-1, -1 / 3, -1])
    assert out.total.tolist() == pytest.approx([0, -1 / 3, 0.5])


def test_signals_per_token_add_up_and_a_part_without_any_is_paid_at_the_end(batch):
    parts = {"world": GoldSource(), "text": RULES, "model": RewardModelSource(path="given")}
    source, builder = built(
        CompositeSource(parts=parts, weights={"text": 0.5, "model": 3.0}, normalise=Normalise.reference)
    )
    mask = batch.rollout.response_mask
    out = source.score(batch, frozenset({"prefix_scores"}))
    paid = build_credit(PrefixCredit()).assign(out, mask)
    torch.testing.assert_close(paid.sum(1), out.total - out.prefix_scores[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.token_scores.sum(1), out.total, rtol=0, atol=1e-5)
    assert set(builder.scales) == {"reward.source", "reward.source.parts.model"}
    # Before the whole is normalised: gold's own differences, the model's, and the rule at the last token.
    std = builder.scales["reward.source"]["raw_std"]
    alone = built(CompositeSource(parts={"m": RewardModelSource(path="given")}))[0].score(
        batch, frozenset({"prefix_scores"})
    )
    model = build_credit(PrefixCredit()).assign(alone, mask)
    expected = torch.zeros(mask.shape)
    expected[0, 0] = expected[0, 1] = expected[2, 0] = expected[2, 1] = expected[2, 2] = expected[2, 3] = 0.25
    for i, n in enumerate(batch.rollout.lengths.tolist()):
        expected[i, n - 1] += 0.5 * [1, 1 / 3, 1][i]
    torch.testing.assert_close(paid, (expected + 3 * model) / std, rtol=0, atol=1e-5)


def test_inner_parts_are_logged_by_name(batch):
    two = RulesSource(repetition=RepetitionRule(weight=1.0, size=1), word_limit=WordLimitRule(weight=2.0, limit=1))
    out = built(CompositeSource(parts={"text": two}))[0].score(batch)
    assert set(out.parts) == {"text"}
    assert set(out.raw_parts) == {"text", "text.repetition", "text.word_limit"}


def test_the_state_of_its_parts_is_kept_and_evaluation_leaves_it_alone(batch):
    parts = {
        "a": GoldSource(normalise=Normalise.running),
        "b": GoldSource(),
        "c": GoldSource(normalise=Normalise.running),
    }
    source, _ = built(CompositeSource(parts=parts, normalise=Normalise.running))
    source.score(batch)
    saved = source.state()
    assert set(saved) == {"running", "source"} and set(saved["source"]) == {"a", "c"}
    assert source.frozen().score(batch).total.tolist() == [1.5, 0, 3]
    assert source.state() == saved
    again, _ = built(CompositeSource(parts=parts, normalise=Normalise.running))
    again.load_state(saved)
    assert torch.equal(again.score(batch).total, source.score(batch).total)


def test_reward_models_are_taken_in_order(batch):
    parts = {"one": RewardModelSource(path="x"), "two": RewardModelSource(path="y")}
    out = built(CompositeSource(parts=parts))[0].score(batch)
    for i, name in enumerate(parts):
        single = built(CompositeSource(parts=dict(list(parts.items())[i : i + 1])))
        if i == 0:
            torch.testing.assert_close(single[0].score(batch).parts[name], out.parts[name])
    assert not torch.allclose(out.parts["one"], out.parts["two"], atol=0.05)


@pytest.mark.parametrize(
    ("source", "credit", "message"),
    [
        (CompositeSource(), None, r"reward\.source\.parts: given {}; allowed: one source or more"),
        (CompositeSource(parts={"a": RULES}, weights={"b": 1.0}), None, r"reward\.source\.weights\.b: .*of a$"),
        (CompositeSource(parts={"a": RULES}, weights={"a": float("nan")}), None, r"weights\.a: .*finite"),
        (CompositeSource(parts={"a/b": RULES}), None, r"parts: given 'a/b'"),
        (
            CompositeSource(parts={"a": RulesSource(word_limit=NO_LIMIT)}),
            None,
            r"reward\.source\.parts\.a: given 'no rule'",
        ),
        (CompositeSource(parts={"a": GoldSource(clip=0.0)}), None, r"reward\.source\.parts\.a\.clip: given 0\.0"),
        (CompositeSource(parts={"a": RULES}), PrefixCredit(), "prefix_scores: composite offers none"),
        (CompositeSource(parts={"a": RewardModelSource()}), AttentionCredit(), "attention: composite offers none"),
        (RULES, AttentionCredit(), "attention: rules offers none"),
        (FunctionSource(path="tests/tiny.py:prompt"), PrefixCredit(), "prefix_scores: function offers none"),
        (FunctionSource(path="tests/tiny.py:prompt"), SpansCredit(), "token_scores: function offers none"),
        (EnsembleSource(), SpansCredit(), "token_scores: ensemble offers none"),
        (
            CompositeSource(parts={"a": RULES, "m": RewardModelSource()}),
            SpansCredit(),
            "token_scores: composite",
        ),
        (EnsembleSource(), TruthCredit(), "token_scores: ensemble offers none"),
        (SPANS, TruthCredit(), "'truth'; allowed: another one, .* only the world knows it"),
        (CompositeSource(parts={"f": SPANS}), TruthCredit(), "only the world knows it"),
        (FunctionSource(path="nowhere.py:f"), None, r"reward\.source\.path: .*no such file"),
        (FunctionSource(path="tests/tiny.py"), None, r"reward\.source\.path: .*FILE\.py:NAME"),
        (
            FunctionSource(path="tests/tiny.py:promt"),
            None,
            r"reward\.source\.path: .*one of the functions there: tokenizer,",
        ),
        (CompositeSource(parts={"f": FunctionSource(path="x:f")}), None, r"reward\.source\.parts\.f\.path"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(source, credit, message):
    cfg = tiny.config(reward=RewardConfig(source=source, credit=credit or SparseCredit()))
    cfg.data.path, cfg.data.world = str(tiny.folder() / "config.json"), "pocket"
    with pytest.raises(InputError, match=message):
        check_all(cfg)


MIXED = CompositeSource(parts={"f": SPANS, "r": RULES, "m": RewardModelSource()})


@pytest.mark.parametrize(
    ("source", "credit"),
    [
        *((source, PrefixCredit()) for source in (SPANS, CompositeSource(parts={"f": SPANS, "r": RULES}))),
        *((source, SpansCredit()) for source in (SPANS, GoldSource(), MIXED)),
        *((source, TruthCredit()) for source in (GoldSource(), CompositeSource(parts={"w": GoldSource(), "r": RULES}))),
        *((source, ImplicitCredit()) for source in (SPANS, RULES, EnsembleSource(), MIXED)),
    ],
    ids=lambda section: section.name,
)
def test_what_fits_passes(source, credit):
    cfg = tiny.config(reward=RewardConfig(source=source, credit=credit))
    cfg.data.path, cfg.data.world = str(tiny.folder() / "config.json"), "pocket"
    check_all(cfg)


def test_the_worlds_credit_in_a_sum_stays_where_it_is_and_the_rest_is_paid_at_the_end(batch):
    """Gold pays each vowel .25 where it stands; the rule is paid at the end token, and so is what the clip cut off."""
    source, _ = built(CompositeSource(parts={"world": GoldSource(clip=0.75), "text": RULES}, weights={"world": 2.0}))
    credit = build_credit(TruthCredit())
    out = source.score(batch, credit.needs)
    paid = credit.assign(out, batch.rollout.response_mask)
    assert paid[0].tolist()[:4] == [0.5, 0.5, 0, 1.0]
    assert paid[2].tolist()[:5] == [0.5, 0.5, 0.5, 0.5, 1.0 - 0.5]
    torch.testing.assert_close(paid.sum(1), out.total)

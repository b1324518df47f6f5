import copy
import itertools
import math
import statistics

import pytest
import torch

from align.activity import Activity, Work
from align.config import EvaluationConfig, RolloutConfig
from align.data.texts import Text
from align.errors import InputError
from align.evaluation import EvaluationSet, Judge, evaluate, passages, probes_of
from align.evaluation.figures import correlation, gap
from align.evaluation.perturbations import perturbations_of, response_perturbations_of
from align.evaluation.probes import shifts
from align.models.chat_tokenizer import make_chat_tokenizer
from align.types import Prompt, RewardOutput
from tests import tiny

SETTINGS = EvaluationConfig(num_prompts=4, num_pairs=2, num_texts=1, num_probes=3, seed=2)
ROLLOUT = RolloutConfig(batch_size=64, max_new_tokens=8)
KINDS = {"length", "flattery", "grader", "typos", "context"}


def longer_is_better(batch):
    """A proxy that pays for characters, whatever they say."""
    return RewardOutput(total=torch.tensor([len(text) / 10 for text in batch.responses]))


@pytest.fixture(scope="module")
def probes(chat, prompts):
    return probes_of(SETTINGS, chat, prompts, world=None, longest=120)


@pytest.fixture(scope="module")
def result(policy, chat, prompts, pairs, world, probes):
    data = EvaluationSet.select(prompts, pairs, passages([Text("some text")], chat, longest=None), SETTINGS, probes)
    judge = Judge(longer_is_better, world=world)
    return evaluate(policy, policy, chat, data, judge, evaluation=SETTINGS, rollout=ROLLOUT)


def test_an_evaluation_says_how_far_it_is(policy, chat, prompts, pairs, world, probes, result):
    """Its share rises from 0 to 1 over all parts, and no figure changes for it."""
    heard: list[Work] = []
    activity = Activity(heard.append, itertools.count().__next__)
    data = EvaluationSet.select(prompts, pairs, passages([Text("some text")], chat, longest=None), SETTINGS, probes)
    judge = Judge(longer_is_better, world=world)
    found = evaluate(policy, policy, chat, data, judge, evaluation=SETTINGS, rollout=ROLLOUT, activity=activity)
    assert found.summary == result.summary
    named = [work for work in heard if work.what]
    assert {work.phase for work in named} == {"evaluation"}
    shares = [work.share for work in named]
    assert shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert shares == sorted(shares)
    kinds = list(dict.fromkeys(work.what for work in named))
    assert kinds == [
        "responses sampled",
        "scores",
        "responses read for the KL",
        "held-out responses read",
        "general texts read",
    ]
    assert any(
        work.what == "responses read for the KL" and work.done == work.total == SETTINGS.num_prompts for work in named
    )


def test_perturbations_keep_the_prompts_id_and_row(probes, chat):
    assert len(probes) == 3
    for probe in probes:
        assert set(probe.perturbations) <= KINDS
        for kind, perturbation in probe.perturbations.items():
            assert (perturbation.id, perturbation.row) == (probe.prompt.id, probe.prompt.row)
            assert perturbation.text == perturbations_of(probe.prompt.text, SETTINGS.seed)[kind]
            assert list(perturbation.input_ids) == chat.encode_prompt([{"role": "user", "content": perturbation.text}])


def test_an_unperturbed_prompt_is_answered_as_in_the_rest_of_the_evaluation(result):
    main = {s["prompt_id"]: s["response"] for s in result.samples}
    again = {r["prompt_id"]: r["response"] for r in result.probes if r["on"] == "prompts" and r["kind"] == "original"}
    shared = set(main) & set(again)
    assert shared and all(main[i] == again[i] for i in shared)


def test_figures_follow_from_the_rows(result, world, prompts):
    rows = {p.id: p.row for p in prompts}
    for on in ("prompts", "responses"):
        found = [r for r in result.probes if r["on"] == on]
        originals = {r["prompt_id"]: r for r in found if r["kind"] == "original"}
        figures = result.summary["probes"][on]
        for kind in {r["kind"] for r in found} - {"original"}:
            perturbations = [r for r in found if r["kind"] == kind]
            moved = [r["proxy"] - originals[r["prompt_id"]]["proxy"] for r in perturbations]
            assert figures["count"][kind] == len(perturbations)
            assert figures["proxy_shift"][kind] == pytest.approx(statistics.fmean(moved), abs=1e-6)
            assert figures["proxy_rises"][kind] == sum(m > 0 for m in moved) / len(moved)
            gold = [r["gold"] - originals[r["prompt_id"]]["gold"] for r in perturbations]
            assert figures["gold_shift"][kind] == pytest.approx(statistics.fmean(gold), abs=1e-9)
            paid = [m > 0 and g <= 0 for m, g in zip(moved, gold, strict=True)]
            assert figures["pays"][kind] == sum(paid) / len(paid)
    for row in result.probes:
        if row["on"] == "responses":
            assert row["gold"] == world.gold(rows[row["prompt_id"]], row["response"], True).total


def test_a_proxy_that_counts_characters_falls_for_what_makes_them(result):
    figures = result.summary["probes"]["responses"]
    for kind in ("filler", "repetition", "confident"):
        assert figures["proxy_shift"][kind] > 0 and figures["proxy_rises"][kind] == 1.0
    assert figures["proxy_shift"].get("truncation", -1) < 0
    rows = [r for r in result.probes if r["on"] == "responses"]
    original = next(r for r in rows if r["kind"] == "original")
    made = response_perturbations_of(original["response"], original["prompt"], SETTINGS.seed)
    assert {r["kind"]: r["response"] for r in rows if r["prompt_id"] == original["prompt_id"]} == {
        "original": original["response"],
        **made,
    }
    strongest = result.summary["probes"]["strongest"]["responses"]
    assert figures["proxy_shift"][strongest] == max(figures["proxy_shift"].values()) > 0


def test_no_kind_is_the_strongest_where_none_raises_the_proxy(policy, chat, prompts, pairs, world, probes):
    data = EvaluationSet.select(prompts, pairs, passages([Text("some text")], chat, longest=None), SETTINGS, probes)
    judge = Judge(lambda batch: RewardOutput(total=torch.zeros(len(batch.responses))), world=world)
    found = evaluate(policy, policy, chat, data, judge, evaluation=SETTINGS, rollout=ROLLOUT).summary["probes"]
    assert found["strongest"] == {"prompts": None, "responses": None}


def test_shifts_by_hand():
    def row(i, kind, proxy, gold, tokens=3, **more):
        return {"prompt_id": i, "kind": kind, "proxy": proxy, "gold": gold, "tokens": tokens, **more}

    rows = [row(1, "original", 0.0, 1.0), row(1, "x", 2.0, 0.5, 7), row(2, "original", 1.0, None)]
    rows += [row(2, "x", 0.5, None, 4), row(3, "x", 9.0, 9.0)]  # the last has no original
    assert shifts(rows, "gold") == {
        "count": {"x": 2},
        "proxy_shift": {"x": 0.75},
        "proxy_shift_se": {"x": 1.25},
        "gold_shift": {"x": -0.5},
        "proxy_rises": {"x": 0.5},
        "pays": {"x": 1.0},
        "length_shift": {"x": 2.5},
    }
    assert "pays" not in shifts(rows, None)


def test_prompts_file_finds_rows_by_text_and_knows_no_gold_of_others(tmp_path, chat, prompts, world):
    path = tmp_path / "prompts.txt"
    path.write_text("hm\n  shout: HM\nunheard of\n")
    config = EvaluationConfig(num_probes=2, prompts_file=str(path))
    known, other = probes_of(config, chat, prompts, world=None, longest=None)
    assert known.prompt is prompts[3] and set(known.perturbations) == {"shout"}
    assert other.prompt.id < 0 and not other.prompt.row and set(other.perturbations) <= KINDS
    assert Judge(longer_is_better, world=world).gold(other.prompt, "aa", True) is None
    with pytest.raises(InputError, match=r"prompts_file: .*unheard.*at most 30 tokens"):
        probes_of(config, chat, prompts, world=None, longest=30)


def test_a_prompts_file_whose_prompts_the_template_cuts_is_refused(tmp_path, chat):
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'][:20]")
    path = tmp_path / "prompts.txt"
    for content, cut in (("hm\n  shout: HM\n", False), ("hm\n  shout: HM, AND SO ON TO THE END\n", True)):
        path.write_text(content)
        config = EvaluationConfig(num_probes=1, prompts_file=str(path))
        assert len(probes_of(config, chat, [], world=None, longest=None)) == 1
        if cut:
            with pytest.raises(InputError, match=r"prompts_file: .*: hm.*writes whole"):
                probes_of(config, make_chat_tokenizer(tokenizer), [], world=None, longest=None)
        else:
            assert len(probes_of(config, make_chat_tokenizer(tokenizer), [], world=None, longest=None)) == 1


def test_prompts_that_are_too_long_for_their_perturbations_are_not_probed(chat, prompts):
    every = probes_of(EvaluationConfig(num_probes=99), chat, prompts, world=None, longest=None)
    some = probes_of(EvaluationConfig(num_probes=99), chat, prompts, world=None, longest=90)
    assert 0 < len(some) < len(every) == len(prompts)
    assert probes_of(EvaluationConfig(num_probes=0), chat, prompts, world=None, longest=None) == []


def test_only_the_last_user_message_is_perturbed(chat):
    messages = tuple(
        {"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes?"), ("user", "sing now"))
    )
    prompt = Prompt(5, messages, "sing now", tuple(chat.encode_prompt(messages)), {"a": 1})
    (probe,) = probes_of(EvaluationConfig(num_probes=1), chat, [prompt], world=None, longest=None)
    perturbation = probe.perturbations["length"]
    assert (
        perturbation.messages[:2] == messages[:2]
        and perturbation.messages[2]["content"] == perturbation.text != "sing now"
    )


def test_a_longer_perturbation_than_the_context_is_left_out(policy, chat, pairs, prompts, world, probes):
    data = EvaluationSet.select(prompts, pairs, passages([Text("some text")], chat, longest=None), SETTINGS, probes)
    rollout = RolloutConfig(batch_size=64, max_new_tokens=60)
    judge = Judge(longer_is_better, world=world)
    found = evaluate(policy, policy, chat, data, judge, evaluation=SETTINGS, rollout=rollout).probes
    assert all(len(chat.encode_reply(tiny.ASKED, r["response"])) < 128 for r in found if r["on"] == "responses")


def test_gap_and_correlation_by_hand(world):
    old = [{"proxy": 0.0, "gold": 0.0}, {"proxy": 2.0, "gold": 4.0}]
    new = [{"proxy": 3.0, "gold": 2.0}, {"proxy": 5.0, "gold": 4.0}]
    judge = Judge(longer_is_better, world=world)
    assert gap(new, old, judge) == {"proxy_gain": 3.0, "quality_gain": 0.5, "gap": 2.5}
    assert gap(new, old, Judge(longer_is_better)) == {"proxy_gain": 3.0, "quality_gain": None, "gap": None}
    assert gap(new, [old[0], old[0]], judge)["proxy_gain"] is None
    assert correlation([1, 2, 3], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert correlation([1, 1], [1.0, 2.0]) is None and correlation([1, 2], [math.nan, 2.0]) is None


def test_a_second_reward_model_judges_where_no_gold_is_known(policy, chat, prompts, pairs, probes):
    data = EvaluationSet.select(prompts, pairs, passages([Text("some text")], chat, longest=None), SETTINGS, probes)
    judge = Judge(longer_is_better, evaluation=longer_is_better)
    summary = evaluate(policy, policy, chat, data, judge, evaluation=SETTINGS, rollout=ROLLOUT).summary
    assert summary["win_rate"]["judge"] == "evaluation"
    assert summary["reward"]["evaluation_mean"] == summary["reward"]["proxy_mean"]
    assert summary["reward"]["gold_mean"] is None
    figures = summary["probes"]["responses"]
    assert figures["evaluation_shift"] == figures["proxy_shift"] and set(figures["pays"].values()) == {0.0}

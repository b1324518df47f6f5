import json
import math
import statistics
from dataclasses import replace

import pytest
import torch

from align import metrics
from align.config import EvaluationConfig, RolloutConfig
from align.data.texts import Text
from align.evaluation import (
    EvaluationSet,
    Judge,
    evaluate,
    load_before,
    passages,
    probes_of,
    save_after,
    save_before,
    settings,
)
from align.evaluation.change import JUDGES
from align.evaluation.intervals import Bootstrap
from align.files import read_lines
from align.functional import credit

TEXTS = [Text("the quick brown fox", "prose"), Text("lazy dogs sleep", "prose"), Text("1 + 1 = 2", "sums")]
ENDS = ("perplexity", "forgetting_perplexity", "forgetting_by_kind", "kl_per_response", "cut_rate")  # at the top
EVALUATION = EvaluationConfig(num_prompts=6, num_pairs=5, num_texts=3, num_probes=3, verbosity_word_limit=3, seed=4)
ROLLOUT = RolloutConfig(batch_size=4, max_new_tokens=10, temperature=0.9)


@pytest.fixture(scope="module")
def data(chat, prompts, pairs):
    probes = probes_of(EVALUATION, chat, prompts, world=None, longest=118)
    return EvaluationSet.select(prompts, pairs, passages(TEXTS, chat, longest=None), EVALUATION, probes)


@pytest.fixture(scope="module")
def judge(source, world):
    return Judge(source.score, lambda output, mask: credit.uniform(output.total, mask), world)


@pytest.fixture(scope="module")
def run(policy, chat, data, judge):
    def once(model, baseline=None, judge=judge):
        return evaluate(model, policy, chat, data, judge, evaluation=EVALUATION, rollout=ROLLOUT, baseline=baseline)

    return once


@pytest.fixture(scope="module")
def before(run, policy):
    return run(policy)


@pytest.fixture(scope="module")
def after(run, trained, before):
    return run(trained, before.samples)


def test_start_model_against_itself(before):
    summary = before.summary
    even = {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert summary["win_rate"] == even | {"judge": "gold", "length_controlled": even | {"length_effect": 0.0}}
    assert summary["proxy_gold_gap"] == {"proxy_gain": 0.0, "quality_gain": 0.0, "gap": 0.0}
    assert summary["kl_per_response"] == 0.0
    assert set(summary["kl"].values()) == {0.0}


def test_summary_has_exactly_these_keys_and_all_are_in_the_table(after):
    assert set(after.summary) == {
        *("perplexity", "forgetting_perplexity", "kl_per_response", "kl", "kl_by", "reward", "gold_by"),
        *("preference", "cut_rate", "ended_only", "forgetting_by_kind"),
        *(f"{name}_{end}" for name in ENDS for end in ("low", "high")),
        *(
            "win_rate",
            "verbosity",
            "eos_rate",
            "diversity",
            "repetition",
            "length_correlation",
            "proxy_gold_gap",
            "probes",
        ),
    }
    assert set(after.summary["gold_by"]) == set(after.summary["kl_by"]) == {"long", "short"}
    names = {metrics.lookup(n).name for n in metrics.flatten(after.summary)}
    known = {f"eval/{n}" for n in metrics.evaluation_definitions("ppo")}
    absent = {n for n in known if "evaluation_" in n}  # there is no reward model that only judges
    absent |= {n for n in known if n.endswith("_unscored")}  # every response has a score
    assert known - names - absent <= {"eval/lm_eval/*", "eval/diversity/distinct_3"}  # no response of three words
    assert names <= known


def test_figures_follow_from_the_samples(before, after, prompts):
    old, new = before.samples, after.samples
    assert [s["prompt_id"] for s in old] == [s["prompt_id"] for s in new]
    gold = [s["gold"] for s in new]
    assert after.summary["reward"]["gold_mean"] == pytest.approx(sum(gold) / 6)
    assert after.summary["reward"]["gold_se"] == pytest.approx(statistics.stdev(gold) / 6**0.5)
    assert after.summary["reward"]["proxy_mean"] == pytest.approx(sum(gold) / 6, abs=1e-6)  # the source is the world's
    wins = [(a["gold"] > b["gold"]) + 0.5 * (a["gold"] == b["gold"]) for a, b in zip(new, old, strict=True)]
    assert after.summary["win_rate"]["mean"] == pytest.approx(sum(wins) / 6)
    limits = {p.id: 0 if p.row["word_limit"] == 0 else 3 for p in prompts}
    kept = [len(s["response"].split()) <= limits[s["prompt_id"]] for s in new]
    assert after.summary["verbosity"]["compliance_rate"] == sum(kept) / 6
    lengths = {p.id: p.row["length"] for p in prompts}
    for name, whole in (("gold_by", after.summary["reward"]["gold_mean"]), ("kl_by", after.summary["kl_per_response"])):
        parts = after.summary[name]
        assert sum(parts[lengths[s["prompt_id"]]] for s in new) / 6 == pytest.approx(whole)
        assert parts["short"] != parts["long"]
    for s in new:
        assert "".join(s["pieces"]) == s["response"]
        assert len(s["pieces"]) == len(s["token_rewards"]) == s["tokens"]
        assert sum(s["token_rewards"]) == pytest.approx(s["proxy"], abs=1e-6)
        assert sum(segment[2] for segment in s["segments"]) == s["gold"]


def test_repeatable_and_leaves_the_global_random_state_alone(run, trained, before, after):
    state = torch.random.get_rng_state()
    again = run(trained, before.samples)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again == after
    assert after.samples != before.samples


def test_without_a_world_the_reward_judges(run, trained, before, judge):
    blind = Judge(judge.score)
    summary = run(trained, before.samples, blind).summary
    assert summary["reward"]["gold_mean"] is None
    assert summary["win_rate"]["judge"] == "proxy"
    assert "gold_by" not in summary and "kl_by" not in summary


def test_baseline_of_other_prompts_is_refused(run, trained, before):
    with pytest.raises(ValueError, match="other prompts"):
        run(trained, before.samples[1:])


@pytest.mark.parametrize(
    ("change", "rate"),
    [
        (lambda s: {}, 0.5),
        (lambda s: {"ended": not s["ended"]}, 1.0),
        (lambda s: {"tokens": s["tokens"] + 1}, 1.0),
        (lambda s: {"response": s["response"] + "x"}, 1.0),
    ],
)
def test_only_a_response_itself_ties_with_one_that_scores_less(run, policy, before, change, rate):
    """As it may in another batch, by a rounding."""
    less = [s | {"gold": s["gold"] - 1e-6} | change(s) for s in before.samples]
    found = run(policy, less).summary["win_rate"]
    assert found["mean"] == rate
    assert found["length_controlled"]["mean"] == pytest.approx(rate)


def test_choice_is_seeded_and_in_order(chat, prompts, pairs):
    texts = passages(TEXTS, chat, longest=None)

    def ids(seed, n):
        config = EvaluationConfig(num_prompts=n, num_pairs=2, num_texts=9, seed=seed)
        chosen = EvaluationSet.select(prompts, pairs, texts, config)
        assert len(chosen.pairs) == 2
        assert len(chosen.texts) == 3
        return [p.id for p in chosen.prompts]

    assert ids(0, 3) == ids(0, 3) == sorted(ids(0, 3))
    assert len({tuple(ids(seed, 3)) for seed in range(8)}) > 1
    assert ids(0, 99) == [p.id for p in prompts]


def test_files_round_trip(tmp_path, before, after, data, judge):
    conditions = settings(data, judge, EVALUATION, ROLLOUT)
    assert load_before(tmp_path) is None
    save_before(tmp_path, before, conditions)
    assert json.loads((tmp_path / "evaluation.json").read_text())["after"] is None
    assert load_before(tmp_path) == before  # a resumed run computes its win rate from these
    content = save_after(tmp_path, before, after, conditions, Bootstrap.of(EVALUATION))
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored == content
    assert stored["before"] == before.summary
    assert stored["after"] == after.summary
    assert stored["delta"]["reward"]["gold_mean"] == pytest.approx(
        after.summary["reward"]["gold_mean"] - before.summary["reward"]["gold_mean"]
    )
    assert stored["delta"]["perplexity"] == after.summary["perplexity"] - before.summary["perplexity"]
    assert "judge" not in stored["delta"]["win_rate"] and "gold_se" not in stored["delta"]["reward"]
    move = stored["delta"]["preference"]["logprob"]
    assert move["margin_low"] < move["margin"] < move["margin_high"]
    assert stored["settings"]["delta"] == metrics.DELTA
    assert stored["settings"]["num_prompts"] == 6
    assert stored["settings"]["judge"] == "gold"
    assert stored["settings"]["temperature"] == 0.9
    found = {n for n in metrics.flatten(stored["after"], "x") if not n.startswith("x/probes/")}
    fixed = {"x/" + n for n in stored["settings"]["definitions"] if "*" not in n}
    families = {
        f"x/{family}/{n}"
        for family, names in (
            *(("gold_by", "long short"), ("kl_by", "long short"), ("length_correlation", "proxy gold")),
            ("forgetting_by_kind", "prose sums"),
            *(("forgetting_by_kind_low", "prose"), ("forgetting_by_kind_high", "prose")),
        )
        for n in names.split()
    }
    assert found - fixed == families
    assert fixed - found <= {
        *(f"x/{group}/evaluation_{end}" for group in ("reward", "ended_only") for end in ("mean", "se")),
        *(f"x/{group}/{name}_unscored" for group in ("reward", "ended_only") for name in JUDGES),
        "x/diversity/distinct_3",
    }
    assert [{"phase": "after", **row} for row in after.probes] == [
        row for row in read_lines(tmp_path / "evaluation_probes.jsonl") if row["phase"] == "after"
    ]
    phases = [s["phase"] for s in read_lines(tmp_path / "evaluation_samples.jsonl")]
    assert phases == ["before"] * 6 + ["after"] * 6
    assert load_before(tmp_path) == before


def test_a_score_that_is_not_a_number_is_null_on_disk_and_left_out_of_the_win_rate(run, policy, judge, tmp_path):
    def broken(batch):
        output = judge.score(batch)
        output.total[0] = math.nan
        return output

    first = run(policy, judge=Judge(broken))
    save_before(tmp_path, first, {})
    loaded = load_before(tmp_path)
    assert loaded.samples[0]["proxy"] is None
    assert run(policy, loaded.samples, Judge(broken)).summary["win_rate"]["mean"] == 0.5


def test_a_response_without_a_score_is_left_out_of_means_and_changes_and_counted(run, policy, trained, judge, tmp_path):
    def partial(batch):
        output = judge.score(batch)
        applies = torch.arange(len(output.total)) != 1
        return replace(output, total=output.total.where(applies, torch.nan), applies=applies)

    first = run(policy, judge=Judge(partial))
    second = run(trained, first.samples, Judge(partial))
    assert second.samples[1]["proxy"] is None and second.summary["reward"]["proxy_unscored"] == 1
    means = [[s["proxy"] for s in found.samples if s["proxy"] is not None] for found in (first, second)]
    assert [len(scores) for scores in means] == [5, 5]
    old, new = map(statistics.fmean, means)
    assert second.summary["reward"]["proxy_mean"] == pytest.approx(new)
    moved = save_after(tmp_path, first, second, {}, Bootstrap.of(EVALUATION))["delta"]["reward"]
    assert moved["proxy_mean"] == pytest.approx(new - old) and moved["proxy_unscored"] == 0
    assert moved["proxy_mean_low"] <= moved["proxy_mean"] <= moved["proxy_mean_high"]


def test_without_a_judge_everything_but_scores_is_measured(run, trained, policy, before, data):
    start = run(policy, judge=None)
    found = run(trained, start.samples, None)
    judged = {"reward", "gold_by", "win_rate", "length_correlation", "proxy_gold_gap", "probes", "kl_by"}
    assert set(found.summary) == set(before.summary) - judged
    assert found.probes == [] and all(s["proxy"] is None and "token_rewards" not in s for s in found.samples)
    assert found.summary["preference"]["log_ratio"]["accuracy"] is not None
    assert "win_rate" not in found.summary["ended_only"]
    conditions = settings(data, None, EVALUATION, ROLLOUT)
    assert conditions["judge"] is None and conditions["num_probes"] == 0


def test_a_world_judges_without_a_reward(run, trained, before, world):
    found = run(trained, before.samples, Judge(world=world)).summary
    assert found["win_rate"]["judge"] == "gold" and found["reward"]["proxy_mean"] is None
    assert "proxy_gold_gap" not in found and "proxy_rises" not in found["probes"]["prompts"]


def test_cut_responses_are_counted_and_left_out_of_the_ended_ones(before, after):
    ended = [s for s in after.samples if s["ended"]]
    assert after.summary["cut_rate"] == pytest.approx(1 - after.summary["eos_rate"]) == 1 - len(ended) / 6
    found = after.summary["ended_only"]
    assert found["responses"] == len(ended) < 6
    assert found["tokens_mean"] == pytest.approx(statistics.fmean(s["tokens"] for s in ended))
    assert found["gold_mean"] == pytest.approx(statistics.fmean(s["gold"] for s in ended))
    both = sum(a["ended"] and b["ended"] for a, b in zip(before.samples, after.samples, strict=True))
    assert found["win_rate"]["prompts"] == both

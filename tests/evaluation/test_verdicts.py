"""What went wrong in a run is said, with its figure and the key to turn; a healthy run is not complained of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from align.config.methods import DPOConfig
from align.config.trl import TRLKTOConfig
from align.errors import ERROR, WARNING
from align.evaluation.intervals import Bootstrap
from align.evaluation.too_small import HeldOut
from align.evaluation.verdicts import judge_run, status_of
from align.run.verdicts import PairAccuracy, Watch, chance_verdict, judge_verdict, lost_rows, one_sided
from align.types import Completion
from tests import tiny

BEFORE = {
    "kl_per_response": 0.0,
    "kl": {},
    "repetition": {"rate": 0.1},
    "diversity": {"entropy": 1.0},
    "perplexity": 10.0,
    "forgetting_perplexity": 20.0,
    "eos_rate": 0.95,
}
ROSE = {"proxy_mean": 1.0, "proxy_mean_low": 0.5, "proxy_mean_high": 1.5, "gold_mean": None}
HEALTHY = {**BEFORE, "kl_per_response": 3.0, "perplexity": 9.5, "forgetting_perplexity": 20.3}
COUNTS = {
    "rows": 100, "train": 60, "held_out": 20, "train_prompts": 60, "held_out_prompts": 20,
    "long_prompts_dropped": 20, "long_prompts_truncated": 16, "responses_cut": 32, "responses": 160,
}  # fmt: skip


def judge(before, after, reward=ROSE, learned: bool | None = True, all_cut: bool = False):
    evaluation = {"before": before, "after": after, "delta": {"reward": reward}, "settings": {"num_prompts": 128}}
    return judge_run(tiny.config(), evaluation, HeldOut(128, 256), learned=learned, all_cut=all_cut)


def judged(learned: bool | None = True, reward=ROSE, all_cut: bool = False, **changes):
    return judge(BEFORE, tiny.changed(HEALTHY, changes), reward, learned, all_cut)


def test_a_healthy_run_has_none():
    assert judged() == [] and status_of([]) == "finished"
    assert judged(learned=None) == []


@pytest.mark.parametrize(
    ("change", "within", "beyond", "key"),
    [
        ("kl_per_response", 10.0, 10.1, "method.learning_rate"),
        ("repetition__rate", 0.3, 0.31, "method.learning_rate"),
        ("diversity__entropy", 0.02, 0.019, "method.learning_rate"),
        ("perplexity", 15.0, 15.1, "method.learning_rate"),
        ("forgetting_perplexity", 22.0, 22.1, "method.learning_rate"),
        ("eos_rate", 0.8, 0.79, "rollout.max_new_tokens"),
    ],
)
def test_each_bound_is_one_of_the_configuration(change, within, beyond, key):
    assert judged(**{change: within}) == []
    (verdict,) = judged(**{change: beyond})
    assert (verdict.level, verdict.key) == (WARNING, key) and verdict.figure is not None
    assert verdict.line.startswith("warning: ") and verdict.line.endswith(f"(turn {key})")
    assert status_of([verdict]) == "finished with 1 warning" and status_of([verdict] * 2) == "finished with 2 warnings"


def test_what_the_start_model_did_already_is_no_collapse():
    before = {**BEFORE, "repetition": {"rate": 0.5}, "diversity": {"entropy": 0.01}}
    assert judge(before, {**before, "kl_per_response": 1.0}) == []


def test_a_bound_on_kl_that_is_no_estimate_is_not_judged():
    assert judged(kl_per_response=50.0, kl={"per_response_upper_bound": 50.0}) == []


def moves(judge, mean, low, high):
    return {f"{judge}_mean": mean, f"{judge}_mean_low": low, f"{judge}_mean_high": high}


def test_the_proxy_up_while_the_judge_falls_is_hacking_where_both_intervals_say_so():
    (verdict,) = judged(reward=ROSE | moves("evaluation", -0.5, -0.9, -0.1))
    assert verdict.figure == -0.5 and verdict.key == "method.kl.coef"
    assert "the reward rose by 1.000 while the evaluation reward fell by 0.500" in verdict.what
    (verdict,) = judged(reward=ROSE | moves("gold", -0.4, -0.9, -0.1) | moves("evaluation", -0.5, -0.9, -0.1))
    assert "gold reward fell by 0.400" in verdict.what  # the truth first, and once
    assert judged(reward=ROSE | moves("evaluation", -0.5, -1.1, 0.1)) == []
    assert judged(reward=ROSE | moves("evaluation", 0.5, 0.1, 0.9)) == []
    assert judged(reward=moves("proxy", 1.0, -0.1, 2.1) | moves("evaluation", -0.5, -0.9, -0.1)) == []
    assert judged(reward=moves("proxy", -1.0, -1.5, -0.5) | moves("evaluation", -0.5, -0.9, -0.1)) == []
    assert judged(reward=ROSE | moves("evaluation", None, None, None)) == []


def test_a_run_without_a_gradient_is_an_error():
    watch = Watch()
    assert watch.learned is None
    watch.on_step({"step": 1, "policy/grad_norm": 0.0})
    watch.on_step({"step": 1, "reward_model/grad_norm": 1.0})
    assert watch.learned is False
    (verdict,) = judged(learned=watch.learned)
    assert verdict.level == ERROR and "nothing was learned" in verdict.what
    assert not watch.all_cut and verdict.key != "rollout.max_new_tokens"
    watch.on_step({"step": 2, "policy/grad_norm": 0.1, "response/eos_rate": 0.0})
    assert watch.learned is True and watch.all_cut
    (verdict,) = judged(learned=False, all_cut=watch.all_cut)
    assert verdict.key == "rollout.max_new_tokens" and "every sampled response was cut" in verdict.what
    watch.on_step({"step": 3, "response/eos_rate": 0.1})
    assert not watch.all_cut


def test_lost_rows_are_judged_limit_by_limit():
    config = tiny.config()
    assert list(lost_rows(config, COUNTS)) == []
    more = {**COUNTS, "long_prompts_dropped": 21, "long_prompts_truncated": 17, "responses_cut": 33}
    found = {verdict.key: verdict.figure for verdict in lost_rows(config, more)}
    assert found == {"data.max_prompt_tokens": 17 / 80, "data.max_response_tokens": 33 / 160}
    assert len(list(lost_rows(config, more))) == 3


def test_labels_of_one_kind_are_judged_where_a_method_learns_from_both():
    kto, dpo = (replace(tiny.config(), method=method) for method in (TRLKTOConfig(), DPOConfig()))
    good, bad = (Completion(tiny.prompts(1)[0], "a", (5,), label) for label in (True, False))
    (verdict,) = one_sided(kto, [good, good])
    assert (verdict.level, verdict.key) == (WARNING, "data.label_column")
    assert "all 2 labelled completions are desirable" in verdict.what
    assert "are undesirable" in next(one_sided(kto, [bad])).what
    assert not [*one_sided(kto, [good, bad]), *one_sided(kto, []), *one_sided(dpo, [good])]


def test_a_reward_model_is_judged_by_prompts_and_not_by_pairs():
    found = PairAccuracy.of_mean(0.6, 100, 0.95)
    assert (found.low, found.high) == pytest.approx((0.504, 0.696), abs=1e-3)  # .6 -+ 1.96 * sqrt(.24 / 100)
    assert chance_verdict(found, "reward.source") is None
    assert chance_verdict(PairAccuracy.of_mean(0.6, 100, 0.99), "reward.source") is not None  # 2.576 of those
    verdict = chance_verdict(PairAccuracy.of_mean(0.6, 50, 0.95), "reward.source")
    assert verdict is not None and verdict.figure == 0.6 and "of 50 prompts" in verdict.what
    assert chance_verdict(PairAccuracy.of_mean(0.4, 10_000, 0.95), "reward.source") is not None  # worse than chance


def test_where_outcomes_are_known_their_prompts_are_resampled():
    """Forty pairs of four prompts, three of them right: pair by pair .75 would be far above chance."""
    outcomes, prompts = torch.tensor([1.0] * 30 + [0.0] * 10), [i // 10 for i in range(40)]
    found = PairAccuracy.of_outcomes(outcomes, prompts, Bootstrap(0.95, 0))
    assert (found.accuracy, found.low, found.high, found.prompts) == (0.75, 0.25, 1.0, 4)
    assert PairAccuracy.of_outcomes(outcomes, list(range(40)), Bootstrap(0.95, 0)).low > 0.5
    alone = PairAccuracy.of_outcomes(outcomes, [7] * 40, Bootstrap(0.95, 0))
    assert alone == PairAccuracy.of_mean(0.75, 1, 0.95)


def test_a_judge_at_chance_is_named_as_the_judge():
    verdict = judge_verdict(PairAccuracy.of_mean(0.55, 50, 0.95))
    assert verdict is not None and (verdict.level, verdict.key) == (WARNING, "evaluation.reward_model")
    assert "the judge is not shown to be better than chance" in verdict.what and "0.550 [" in verdict.what
    assert judge_verdict(PairAccuracy.of_mean(0.8, 50, 0.95)) is None

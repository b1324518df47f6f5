"""The table of every metric a run writes, and the accumulator that holds them until they are written.

A metric is defined once, here: name, unit, reduction over micro-batches and ranks, and formula. Metrics outside the
table cannot be logged. KL is in nats, per response and per token, always policy against reference at the sampling
temperature. "Token" means a response token that counts (mask 1, end token included) unless stated otherwise. Imports no
torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Reduction = Literal["mean", "std", "min", "max", "last"]
Level = Literal["rollout", "update", "run", "evaluation"]

RECORD_FIELDS = ("step", "seconds", "rollout", "update")  # of a step record, beside its metrics
EVALUATION_FIELDS = ("step", "seconds", "phase")  # of an evaluation record, beside its metrics
REPEATABLE = ("seconds", "time/", "throughput/", "memory/")  # what may differ in a repeated or resumed run

ON_POLICY = ("ppo", "grpo")
OFFLINE = ("dpo", "sft")
TRAINED = (*ON_POLICY, *OFFLINE)
REWARD = ("reward_model", "reward_prefixes")  # models that are trained for a run, on ends and then on prefixes
ON_LOOP = (*TRAINED, *REWARD)
TRL_PAIRS = ("trl_dpo", "trl_kto")  # TRL's own trainers: what they log is mapped in algorithms/trl/metrics.py
TRL_ON_POLICY = ("trl_grpo", "trl_rloo")
TRL = (*TRL_PAIRS, *TRL_ON_POLICY)
UPDATED = (*TRAINED, *TRL)
SCORED = (*ON_POLICY, *TRL_ON_POLICY)


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str  # a trailing * stands for any further name
    unit: str
    reduction: Reduction  # over micro-batches and ranks; a mean is (sum, count) until it is written
    level: Level  # rollout: repeated on every update of the rollout; update: of one optimizer step; run: cumulative
    definition: str
    methods: tuple[str, ...] = ON_POLICY
    optional: bool = False  # may be absent from records, as its definition states


_KL = "with d = log pi - log pi_ref of a sampled token"

# fmt: off
_ROWS: tuple[Metric, ...] = (
    Metric("reward/score_mean", "reward", "mean", "rollout",
           "score of a response, before KL and missing-EOS penalty", methods=SCORED),
    Metric("reward/score_std", "reward", "std", "rollout",
           "population deviation of the scores over the rollout", methods=SCORED),
    Metric("reward/total_mean", "reward", "mean", "rollout", "what is maximised: sum over a response of its token "
           "rewards, score of truncation and KL penalty -kl/coef * d included, before whitening"),
    Metric("reward/missing_eos_rate", "share", "mean", "rollout", "responses whose score was replaced by the "
           "rollout.truncated_score because they are cut (0 unless rollout.truncated=penalise)", methods=SCORED),
    Metric("reward/gold_mean", "reward", "mean", "rollout", "true reward of the same responses, where a world knows "
           "it; a gap to reward/score_mean that widens shows reward hacking", methods=SCORED, optional=True),
    Metric("reward/length_correlation", "1", "last", "rollout", "Pearson correlation of a response's tokens and its "
           "score over the rollout; 0 where one does not vary", methods=SCORED),
    Metric("reward/part_*", "reward", "mean", "rollout",
           "one part of the score, normalised, clipped and weighted as it is summed; of an ensemble each member, and "
           "the deviation over members (member_std)", methods=SCORED, optional=True),
    Metric("reward/raw_mean", "reward", "mean", "rollout", "score of a response before it was normalised and clipped; "
           "absent where it was not", methods=SCORED, optional=True),
    Metric("reward/raw_std", "reward", "std", "rollout",
           "population deviation of those", methods=SCORED, optional=True),
    Metric("reward/raw_part_*", "reward", "mean", "rollout",
           "one part before it was normalised, clipped and weighted", methods=SCORED, optional=True),
    Metric("reward/not_applicable_*", "share", "mean", "rollout",
           "responses to which a part does not apply, its function having returned None: left out of its mean and of "
           "the sum; absent where all apply", methods=SCORED, optional=True),
    Metric("reward/unscored_rate", "share", "mean", "rollout", "responses to which no part applies: left out of all "
           "means, of baselines and of what is learned from", methods=SCORED, optional=True),
    Metric("reward/logged_*", "any", "mean", "rollout",
           "number that a reward function noted with log_metric", methods=SCORED, optional=True),
    Metric("credit/fidelity_*", "1", "last", "rollout",
           "correlation, within a response, of the credit summed per segment with the true credit of the segments (the "
           "end of the response is one), both centred per response and pooled over the responses that ended; over all, "
           "and over those whose row's `length` has that value; absent where no world is known or nothing varies. For "
           "sparse credit it shows where the score is paid, not how well it is spread", optional=True),
    Metric("kl/per_response_k1", "nats/response", "mean", "rollout", f"mean over responses of sum_t d, {_KL}"),
    Metric("kl/per_response_k3", "nats/response", "mean", "rollout",
           "mean over responses of sum_t (exp(-d) - 1 + d): never negative, unbiased like k1"),
    Metric("kl/per_token_k1", "nats/token", "mean", "rollout",
           "sum of d over all tokens / number of tokens", methods=(*ON_POLICY, "trl_rloo")),
    Metric("kl/per_token_k3", "nats/token", "mean", "rollout", "sum of exp(-d) - 1 + d over all tokens / their number"),
    Metric("kl/coef", "reward/nat", "last", "rollout", "beta of the KL penalty used on this rollout"),
    Metric("advantage/mean", "reward", "mean", "rollout",
           "over all tokens of the rollout: GAE before whitening (PPO), the group's advantage (GRPO)"),
    Metric("advantage/std", "reward", "std", "rollout", "population deviation of the advantages over the tokens"),
    Metric("advantage/min", "reward", "min", "rollout", "smallest advantage of a token"),
    Metric("advantage/max", "reward", "max", "rollout", "largest advantage of a token"),
    Metric("value/mean", "reward", "mean", "rollout",
           "critic's prediction at rollout time, over tokens", methods=("ppo",)),
    Metric("value/explained_variance", "share", "last", "rollout", "1 - var(returns - values) / var(returns) over all "
           "tokens of the rollout; 1 = perfect, 0 = no better than a constant", methods=("ppo",)),
    Metric("value/loss", "reward^2", "mean", "update",
           "0.5 max((v - R)^2, (clip(v) - R)^2), mean over tokens, before vf_coef", methods=("ppo",)),
    Metric("value/clip_fraction", "share", "mean", "update",
           "tokens where the clipped value loss is the larger", methods=("ppo",)),
    Metric("value/grad_norm", "1", "last", "update",
           "L2 norm of the critic's gradient before clipping", methods=("ppo",)),
    Metric("value/learning_rate", "1", "last", "update", "of the critic's optimizer at this step", methods=("ppo",)),
    Metric("policy/loss", "reward", "mean", "update", "-min(ratio A, clip(ratio) A), mean over tokens"),
    Metric("policy/ratio_mean", "1", "mean", "update", "pi / pi_old over tokens, pi_old of the policy that "
           "sampled the rollout"),
    Metric("policy/ratio_max", "1", "max", "update", "largest pi / pi_old"),
    Metric("policy/clip_fraction", "share", "mean", "update",
           "tokens where the clipped objective is the smaller", methods=(*ON_POLICY, "trl_grpo")),
    Metric("policy/approx_kl", "nats/token", "mean", "update", "k3 of old against new policy, ratio - 1 - log ratio, "
           "over tokens: how far the updates of one rollout have moved; not the KL to the reference"),
    Metric("policy/entropy", "nats/token", "mean", "update",
           "entropy of the next-token distribution over tokens", methods=(*ON_POLICY, "sft", *TRL)),
    Metric("policy/grad_norm", "1", "last", "update",
           "L2 norm of the policy's gradient before clipping", methods=UPDATED),
    Metric("policy/learning_rate", "1", "last", "update", "of the policy's optimizer at this step", methods=UPDATED),
    Metric("group/zero_std_fraction", "share", "last", "rollout",
           "groups whose responses all get the same reward, and so have no gradient", methods=("grpo", *TRL_ON_POLICY)),
    Metric("dpo/loss", "nats", "mean", "update", "loss of a pair, mean over pairs", methods=("dpo", "trl_dpo")),
    Metric("dpo/margin", "reward", "mean", "update", "beta * [(log pi - log pi_ref)(chosen) - (log pi - log "
           "pi_ref)(rejected)]; without pi_ref if reference-free", methods=("dpo", *TRL_PAIRS)),
    Metric("dpo/accuracy", "share", "mean", "update", "pairs with a margin above 0, ties half", methods=("dpo",)),
    Metric("dpo/chosen_logp", "nats", "mean", "update", "log pi of chosen responses, per token if length-normalised; "
           "falls together with the next where DPO fails", methods=("dpo", *TRL_PAIRS)),
    Metric("dpo/rejected_logp", "nats", "mean", "update", "log pi of rejected responses", methods=("dpo", *TRL_PAIRS)),
    Metric("dpo/accuracy_strict", "share", "mean", "update",
           "pairs with a margin above 0; ties, as on the first update, count nothing", methods=("trl_dpo",)),
    Metric("dpo/chosen_reward", "reward", "mean", "update", "beta * (log pi - log pi_ref)(chosen)", methods=TRL_PAIRS),
    Metric("dpo/rejected_reward", "reward", "mean", "update",
           "beta * (log pi - log pi_ref)(rejected)", methods=TRL_PAIRS),
    Metric("dpo/chosen_logit", "nats", "mean", "update",
           "logits of all tokens of the vocabulary at the chosen responses' positions", methods=TRL_PAIRS),
    Metric("dpo/rejected_logit", "nats", "mean", "update",
           "the same at the rejected responses' positions", methods=TRL_PAIRS),
    Metric("dpo/token_accuracy", "share", "mean", "update",
           "tokens of the chosen responses that the policy finds most likely", methods=("trl_dpo",)),
    Metric("kto/loss", "1", "mean", "update", "loss of a response, mean over responses", methods=("trl_kto",)),
    Metric("kto/kl", "nats/response", "mean", "update", "KTO's reference point: log pi - log pi_ref of responses to "
           "other prompts, mean, not below 0; 0 with apo_zero_unpaired", methods=("trl_kto",)),
    Metric("policy/total_loss", "reward", "mean", "update",
           "what is minimised, as the method adds it up, KL in the loss included", methods=TRL_ON_POLICY),
    Metric("policy/response_clip_fraction", "share", "mean", "update",
           "responses whose clipped objective is the smaller, the ratio being the response's", methods=("trl_rloo",)),
    Metric("kl/per_token_k3_update", "nats/token", "mean", "update",
           "k3 to the reference of the update's tokens under the policy as it is, times pi / pi_old with "
           "bias_correction_kl; absent with beta 0", methods=("trl_grpo",), optional=True),
    Metric("reward/paid_mean", "reward", "mean", "rollout",
           "score of a response, missing-EOS penalty in its place, before KL", methods=TRL_ON_POLICY),
    Metric("reward/paid_std", "reward", "std", "rollout",
           "sample deviation of those over the rollout (n - 1)", methods=TRL_ON_POLICY),
    Metric("response/ended_length_mean", "tokens", "mean", "rollout",
           "length of the responses that ended by themselves; 0 where none did", methods=TRL_ON_POLICY),
    Metric("response/ended_length_min", "tokens", "min", "rollout", "shortest of those", methods=TRL_ON_POLICY),
    Metric("response/ended_length_max", "tokens", "max", "rollout", "longest of those", methods=TRL_ON_POLICY),
    Metric("reward_model/loss", "nats", "mean", "update", "-log s(r_w - r_l) + c (r_w + r_l)^2 with the scores of a "
           "pair's responses and reward.source.center_coef", methods=("reward_model",)),
    Metric("reward_model/margin", "reward", "mean", "update",
           "score of the chosen response less the rejected one's, mean over pairs", methods=("reward_model",)),
    Metric("reward_model/accuracy", "share", "mean", "update",
           "pairs of the update whose chosen response scores higher, ties half", methods=("reward_model",)),
    Metric("reward_model/prefix_error", "reward^2", "mean", "update", "(score of a prefix - score of its whole "
           "response before this stage)^2, mean over prefixes", methods=("reward_prefixes",)),
    Metric("reward_model/grad_norm", "1", "last", "update",
           "L2 norm of the reward model's gradient before clipping", methods=REWARD),
    Metric("reward_model/learning_rate", "1", "last", "update", "of its optimizer at this step", methods=REWARD),
    Metric("sft/loss", "nats/token", "mean", "update", "-log pi over the chosen responses' tokens", methods=("sft",)),
    Metric("policy/sampling_gap", "nats/token", "mean", "rollout",
           "|log pi while sampling - log pi recomputed for training| over tokens: how far the two passes disagree"),
    Metric("response/length_mean", "tokens", "mean", "rollout",
           "length of a response, end token included", methods=SCORED),
    Metric("response/length_std", "tokens", "std", "rollout", "population deviation of the lengths"),
    Metric("response/length_min", "tokens", "min", "rollout", "shortest response", methods=SCORED),
    Metric("response/length_max", "tokens", "max", "rollout", "longest response", methods=SCORED),
    Metric("response/eos_rate", "share", "mean", "rollout", "responses that ended by themselves", methods=SCORED),
    Metric("time/rollout", "s", "last", "rollout", "sampling the responses"),
    Metric("time/reward", "s", "last", "rollout", "scoring them and spreading the scores over tokens"),
    Metric("time/advantage", "s", "last", "rollout", "policy, reference and critic passes over the "
           "rollout, and the advantages"),
    Metric("time/update", "s", "last", "update", "forward, backward and optimizer of this step", methods=ON_LOOP),
    Metric("time/total", "s", "last", "update",
           "since the previous record, all that lies between included", methods=(*UPDATED, *REWARD)),
    Metric("throughput/policy_tokens_per_second", "tokens/s", "last", "update",
           "prompt and response tokens of this update / time/update", methods=ON_LOOP),
    Metric("throughput/sampled_tokens_per_second", "tokens/s", "last", "rollout",
           "response tokens of the rollout / time/rollout"),
    Metric("tokens/policy", "tokens", "last", "run", "prompt and response tokens that went through the policy's "
           "forward and backward since the run began, without padding: the budget of a fair comparison; of trl_grpo "
           "and trl_rloo counted when they are sampled", methods=(*UPDATED, *REWARD)),
    Metric("memory/peak_mib", "MiB", "max", "run",
           "peak so far: allocated on the accelerator, else resident size of the process", methods=(*UPDATED, *REWARD)),
    Metric("event/bad_steps", "steps", "last", "run",
           "updates or rollouts not used so far because something in them was not finite", methods=ON_LOOP),
    Metric("event/overflows", "steps", "last", "run", "updates skipped so far by the gradient scaler of fp16, which "
           "then halves its scale; 0 without one", methods=ON_LOOP),
)

_JUDGES = ("proxy", "gold", "evaluation")
_PROBED = (
    ("prompts", "the response to a perturbed prompt against that to the prompt itself"),
    ("responses", "a perturbed response against itself"),
)
_PROBE_FIGURES = (
    ("count", "pairs", "pairs compared, by kind of perturbation"),
    ("proxy_shift", "reward", "mean difference of the proxy reward"),
    ("proxy_shift_se", "reward", "standard error of that mean"),
    ("gold_shift", "reward", "mean difference of the gold reward, by the data row of the prompt itself"),
    ("gold_shift_se", "reward", "standard error of that mean"),
    ("evaluation_shift", "reward", "mean difference by the reward model that only judges"),
    ("evaluation_shift_se", "reward", "standard error of that mean"),
    ("proxy_rises", "share", "pairs in which the proxy rises"),
    ("pays", "share", "pairs in which the proxy rises and quality (gold, else evaluation) does not"),
    ("length_shift", "tokens", "mean difference in length"),
)


def _ends(name: str, unit: str, over: str) -> tuple[tuple[str, str, str], ...]:
    """Return the rows of a figure's interval; a family's stand under `name_low/*` and `name_high/*`."""
    stem, star = (name[:-2], "/*") if name.endswith("/*") else (name, "")
    what = stem.rpartition("/")[2] + (" of each" if star else "")
    return (
        (f"{stem}_low{star}", unit, f"lower end of the bootstrap interval of {what}, over {over}"),
        (f"{stem}_high{star}", unit, "upper end of that interval"),
    )


_SCORED_PAIRS = (
    ("logprob", "log pi of the whole response"),
    ("log_ratio", "log pi - log pi_ref of the whole response, DPO's implicit reward without beta"),
    ("per_token", "log pi per token of the response"),
)
_PREFERENCE = tuple(
    row
    for name, score in _SCORED_PAIRS
    for row in (
        (f"preference/{name}/accuracy", "share", f"pairs whose chosen response has the higher {score}; ties half; null "
         "where no pair differs, as the log-ratio's at the start"),
        *_ends(f"preference/{name}/accuracy", "share", "prompts"),
        (f"preference/{name}/margin", "nats/token" if name == "per_token" else "nats",
         f"mean over pairs of chosen less rejected: {score}"),
        *_ends(f"preference/{name}/margin", "nats/token" if name == "per_token" else "nats", "prompts"),
    )
)
_EVALUATION: tuple[tuple[str, str, str], ...] = (
    ("perplexity", "1",
     "exp(-mean log pi) over all tokens of held-out chosen responses, or demonstrations, temperature 1"),
    *_ends("perplexity", "1", "prompts"),
    ("preference/pairs", "pairs", "held-out pairs on which the policy's preference is measured, at temperature 1"),
    ("preference/prompts", "prompts", "different prompts among them"),
    *_PREFERENCE,
    ("preference/perplexity_chosen", "1", "perplexity again: of the chosen responses"),
    *_ends("preference/perplexity_chosen", "1", "prompts"),
    ("preference/perplexity_rejected", "1", "the same of the rejected responses"),
    *_ends("preference/perplexity_rejected", "1", "prompts"),
    ("forgetting_perplexity", "1", "exp(-mean log pi) over general text, tokens after the first, no chat template"),
    *_ends("forgetting_perplexity", "1", "texts"),
    ("forgetting_by_kind/*", "1", "the same of the texts of one kind, where they have kinds"),
    *_ends("forgetting_by_kind/*", "1", "texts"),
    ("kl_per_response", "nats/response",
     "k1 to the reference of responses sampled on held-out prompts; of best-of-n an upper bound"),
    *_ends("kl_per_response", "nats/response", "responses"),
    ("kl/per_response_k1", "nats/response", "kl_per_response again"),
    ("kl/per_response_k1_se", "nats/response", "standard error of kl_per_response over responses"),
    ("kl/per_response_k3", "nats/response", "k3 to the reference of those responses"),
    ("kl/per_response_k3_se", "nats/response", "its standard error over responses"),
    ("kl/per_token_k1", "nats/token", "k1 summed over all tokens / number of tokens"),
    ("kl/per_token_k1_se", "nats/token", "its standard error over responses, as of a ratio (Cochran 1977, eq. 6.13)"),
    ("kl/per_token_k3", "nats/token", "k3 summed over all tokens / number of tokens"),
    ("kl/per_token_k3_se", "nats/token", "its standard error over responses, as of a ratio"),
    ("reward/proxy_mean", "reward", "score by the run's own reward, before any penalty of the trainer"),
    ("reward/gold_mean", "reward", "the world's true reward; null where no world is known"),
    ("reward/evaluation_mean", "reward", "score by the reward model that only judges (evaluation.reward_model)"),
    *((f"reward/{judge}_se", "reward", "standard error of that mean over prompts")
      for judge in _JUDGES),
    *((f"reward/{judge}_unscored", "responses", "those without a score, left out of the mean; absent without any")
      for judge in _JUDGES),
    ("kl_by/*", "nats/response", "k1 of the rows whose `length` column has that value, where a world is known"),
    ("gold_by/*", "reward", "gold reward of the rows whose `length` column has that value"),
    ("win_rate/mean", "share",
     "responses that score above the start model's on the same prompt and noise; ties half, equal responses too"),
    ("win_rate/low", "share", "lower end of the percentile bootstrap interval over prompts"),
    ("win_rate/high", "share", "upper end of that interval"),
    ("win_rate/length_controlled/mean", "share", "sigmoid(theta) of the regression of wins on the length difference "
     "(arXiv 2404.04475; align/evaluation/length_control.py)"),
    ("win_rate/length_controlled/low", "share", "lower end of its percentile bootstrap interval over prompts"),
    ("win_rate/length_controlled/high", "share", "upper end of that interval"),
    ("win_rate/length_controlled/length_effect", "1", "phi of that regression: above 0 where longer responses win"),
    ("verbosity/mean_tokens", "tokens", "length of a response, end token included"),
    *_ends("verbosity/mean_tokens", "tokens", "responses"),
    ("verbosity/median_tokens", "tokens", "median of those lengths"),
    ("verbosity/std_tokens", "tokens", "population deviation of those lengths"),
    ("verbosity/mean_words", "words", "words between white space"),
    ("verbosity/compliance_rate", "share", "responses within the row's, else the evaluation's, word limit"),
    ("diversity/distinct_1", "share", "different words / words over all responses, lower case (arXiv 1510.03055)"),
    ("diversity/distinct_2", "share", "the same of pairs of neighbouring words"),
    ("diversity/distinct_3", "share", "the same of three neighbouring words"),
    ("diversity/self_bleu", "share", "mean BLEU-4 of a response against all others (arXiv 1802.01886)"),
    ("diversity/entropy", "nats/token", "entropy of the policy's next-token distribution over all tokens"),
    ("repetition/rate", "share", "4-grams of words that the response has already had, mean (arXiv 1908.04319)"),
    *_ends("repetition/rate", "share", "responses"),
    ("repetition/responses", "share", "responses in which a 4-gram of words stands twice"),
    *_ends("repetition/responses", "share", "responses"),
    ("eos_rate", "share", "responses that ended by themselves"),
    ("cut_rate", "share", "responses cut at rollout.max_new_tokens: 1 - eos_rate"),
    *_ends("cut_rate", "share", "responses"),
    ("ended_only/responses", "responses", "those that ended by themselves; the figures below are over them"),
    ("ended_only/tokens_mean", "tokens", "their length, end token included"),
    *_ends("ended_only/tokens_mean", "tokens", "responses"),
    *((f"ended_only/{judge}_mean", "reward", f"reward/{judge}_mean of them") for judge in _JUDGES),
    *((f"ended_only/{judge}_se", "reward", "standard error of that mean") for judge in _JUDGES),
    *((f"ended_only/{judge}_unscored", "responses", "those without a score among them") for judge in _JUDGES),
    ("ended_only/win_rate/mean", "share", "win rate over the prompts to which the start model's response ended too"),
    ("ended_only/win_rate/low", "share", "lower end of its percentile bootstrap interval over prompts"),
    ("ended_only/win_rate/high", "share", "upper end of that interval"),
    ("ended_only/win_rate/prompts", "prompts", "their number"),
    ("lm_eval/*", "1", "task/metric of lm-evaluation-harness, as it defines them (evaluation.lm_eval)"),
    ("length_correlation/*", "1", "Pearson correlation of a response's tokens and its score by that judge"),
    ("proxy_gold_gap/proxy_gain", "1", "rise of the mean proxy since the start / deviation of the start's scores"),
    ("proxy_gold_gap/quality_gain", "1",
     "the same of the gold reward, or of the reward model that only judges where no gold is known"),
    ("proxy_gold_gap/gap", "1", "proxy_gain - quality_gain: what over-optimisation opens"),
    *((f"probes/{on}/{name}/*", unit, f"{what}: {definition}")
      for on, what in _PROBED for name, unit, definition in _PROBE_FIGURES),
)
# Figures of one method's evaluation, beside or in place of some of the above.
_EVALUATION_OF: dict[str, tuple[tuple[str, str, str], ...]] = {
    "best_of_n": (
        ("kl/per_response_upper_bound", "nats/response",
         "log n - (n - 1) / n (arXiv 2401.01879), in place of k1 and k3"),
    ),
    "reward_model": (
        ("reward_model/accuracy", "share", "held-out pairs whose chosen response it scores higher, ties half"),
        ("reward_model/longer_wins", "share", "the same of the judge that prefers the response with more tokens"),
        ("reward_model/held_out_pairs", "pairs", "on which that was measured"),
        ("reward_model/train_pairs", "pairs", "on which it was trained"),
        ("reward_model/seconds", "s", "that its training took"),
    ),
}
# fmt: on

# What `delta` of evaluation.json holds, for that file and the documentation.
DELTA = (
    "after - before of every figure, by the same names. Its ends _low and _high are those of the percentile bootstrap "
    "interval of the difference itself, both evaluations resampled by the same prompts: of accuracies, margins and "
    "perplexities of held-out pairs or demonstrations, mean rewards, mean length, repetition and cut responses. The "
    "ends of a win rate are its own less 0.5, the start model's against itself. Other figures have no ends, and none a "
    "standard error"
)

# Rows of the table at the end of a run and at the head of the report: metric and label.
HEADLINE: tuple[tuple[str, str], ...] = (
    ("eval/reward_model/accuracy", "reward model, held-out accuracy"),
    ("eval/reward_model/longer_wins", "the longer response wins"),
    ("eval/preference/log_ratio/accuracy", "held-out accuracy, log-ratio"),
    ("eval/preference/log_ratio/margin", "held-out margin, log-ratio, nats"),
    ("eval/preference/logprob/accuracy", "held-out accuracy, log-prob."),
    ("eval/preference/per_token/accuracy", "held-out accuracy, per token"),
    ("eval/reward/gold_mean", "gold reward"),
    ("eval/reward/proxy_mean", "proxy reward"),
    ("eval/reward/evaluation_mean", "evaluation reward model"),
    ("eval/win_rate/mean", "win rate against the start"),
    ("eval/win_rate/length_controlled/mean", "win rate, length-controlled"),
    ("eval/kl_per_response", "KL to the reference, nats/response"),
    ("eval/perplexity", "perplexity, held-out responses"),
    ("eval/preference/perplexity_rejected", "perplexity, rejected responses"),
    ("eval/forgetting_perplexity", "perplexity, general text"),
    ("eval/verbosity/mean_tokens", "response length, tokens"),
    ("eval/verbosity/compliance_rate", "within the word limit"),
    ("eval/cut_rate", "cut at the length limit"),
)

METRICS: dict[str, Metric] = {m.name: m for m in _ROWS} | {
    f"eval/{name}": Metric(f"eval/{name}", unit, "last", "evaluation", definition, methods=(method,), optional=True)
    for method, rows in {"all": _EVALUATION, **_EVALUATION_OF}.items()
    for name, unit, definition in rows
}
_FAMILIES = tuple(name[:-1] for name in METRICS if name.endswith("*"))


def find(name: str) -> Metric | None:
    """Return the table's row for a metric, None without one; `reward/part_length` has the row `reward/part_*`."""
    if name not in METRICS:
        name = next((f"{p}*" for p in _FAMILIES if name.startswith(p) and len(name) > len(p)), name)
    return METRICS.get(name)


def lookup(name: str) -> Metric:
    """Return the table's row for a metric.

    Raises:
        KeyError: The table has no such metric.
    """
    found = find(name)
    if found is None:
        raise KeyError(f"{name!r} is not in the metrics table (align/metrics.py)")
    return found


def evaluation_definitions(method: str) -> dict[str, str]:
    """Return the definitions of the figures of a method's evaluation.json, by their names there."""
    return {name: definition for name, _, definition in (*_EVALUATION, *_EVALUATION_OF.get(method, ()))}


def compare(record: Mapping[str, Any], method: str) -> tuple[set[str], set[str]]:
    """Compare a step record of `method` with the table: (missing, extra) names."""
    known = {n: m for n, m in METRICS.items() if method in m.methods and m.level != "evaluation"}
    required = {*RECORD_FIELDS, *(n for n, m in known.items() if not m.optional)}
    extra = {n for n in set(record) - set(RECORD_FIELDS) if (row := find(n)) is None or row.name not in known}
    return required - set(record), extra


def repeatable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a record that must be equal when a run is repeated with the same seed or resumed."""
    return {k: v for k, v in record.items() if not k.startswith(REPEATABLE)}


def flatten(summary: Mapping[str, Any], prefix: str = "eval") -> dict[str, float]:
    """Flatten an evaluation's nested summary: `{"win_rate": {"low": .4}}` -> `{"eval/win_rate/low": .4}`.

    Leaves that are not numbers (null, the judge's name) are left out.
    """
    flat: dict[str, float] = {}
    for key, value in summary.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, name))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat


def headline(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, str, float | None, float | None, float | None]]:
    """Yield name, label, before, after and change of the HEADLINE figures that either evaluation summary holds."""
    old, new = flatten(before), flatten(after)
    for name, label in HEADLINE:
        a, b = old.get(name), new.get(name)
        if a is not None or b is not None:
            yield name, label, a, b, None if a is None or b is None else b - a


def interval(name: str, figures: Mapping[str, float]) -> tuple[float, float] | None:
    """Return a flat figure's own interval, of `win_rate/low` or of `cut_rate_low`; None without one."""
    for stem in (name.removesuffix("mean"), f"{name}_"):
        if f"{stem}low" in figures and f"{stem}high" in figures:
            return figures[f"{stem}low"], figures[f"{stem}high"]
    return None


# --- accumulation ----------------------------------------------------------------------------------------------------
# A state is a short list of floats; `_COMBINE` must be associative, so that any split into parts gives the same result.
State = Sequence[float]


def _extreme(pick: Callable[[float, float], float], a: State, b: State) -> list[float]:
    return [math.nan if math.isnan(a[0]) or math.isnan(b[0]) else pick(a[0], b[0])]


def moments(values: Sequence[float]) -> list[float]:
    """Compute (count, mean, squared deviations) of the values; NaN where one is not finite."""
    if not values:
        return [0.0, 0.0, 0.0]
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    return [float(len(values)), mean, math.fsum((v - mean) ** 2 for v in values)]


def combine_moments(a: State, b: State) -> list[float]:
    """Combine (count, mean, squared deviations); Chan et al. 1979, eq. 2.1: stable where a sum of squares is not."""
    n = a[0] + b[0]
    if n == 0:
        return [0.0, 0.0, 0.0]
    delta = b[1] - a[1]
    return [n, a[1] + delta * b[0] / n, a[2] + b[2] + delta * delta * a[0] * b[0] / n]


_COMBINE: dict[Reduction, Callable[[State, State], list[float]]] = {
    "mean": lambda a, b: [a[0] + b[0], a[1] + b[1]],
    "std": combine_moments,
    "min": partial(_extreme, min),
    "max": partial(_extreme, max),
    "last": lambda a, b: list(b),
}


def _finish(reduction: Reduction, state: State) -> float:
    if reduction == "mean":
        return state[0] / state[1] if state[1] else math.nan
    if reduction == "std":
        return math.sqrt(state[2] / state[0]) if state[0] else math.nan
    return state[0]


class Tally:
    """Accumulator of metrics between two records.

    A mean stays (sum, count) until it is read, so that splits into micro-batches or ranks change nothing; NaN is kept,
    never skipped.
    """

    def __init__(self) -> None:
        self._states: dict[str, list[float]] = {}

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add a value; of a mean the *sum* over `count` items (tokens or responses), which only means use.

        Raises:
            KeyError: The table has no such metric.
            ValueError: A deviation, which needs the single values: use `observe`.
        """
        reduction = lookup(name).reduction
        if reduction == "std":
            raise ValueError(f"{name} is a deviation: give the single values to Tally.observe")
        self._merge(name, reduction, [float(value), float(count)] if reduction == "mean" else [float(value)])

    def observe(self, name: str, values: Iterable[float]) -> None:
        """Add single values (one per token or response); for every reduction but `last`."""
        reduction, data = lookup(name).reduction, [float(v) for v in values]
        if reduction == "last":
            raise ValueError(f"{name} is a single number: give it to Tally.add")
        if reduction == "std":
            self._merge(name, reduction, moments(data))
        elif reduction == "mean":
            self.add(name, sum(data), len(data))
        else:
            for value in data:
                self.add(name, value)

    def _merge(self, name: str, reduction: Reduction, state: list[float]) -> None:
        held = self._states.get(name)
        self._states[name] = state if held is None else _COMBINE[reduction](held, state)

    def merge(self, other: Tally) -> None:
        """Add everything that `other` (a rank, a micro-batch) has accumulated."""
        for name, state in other._states.items():
            self._merge(name, lookup(name).reduction, list(state))

    def result(self) -> dict[str, float]:
        """Return the reduced metrics, in the table's order (families by name)."""
        order = {name: i for i, name in enumerate(METRICS)}
        names = sorted(self._states, key=lambda n: (order[lookup(n).name], n))
        return {n: _finish(lookup(n).reduction, self._states[n]) for n in names}

    def pop(self) -> dict[str, float]:
        """Return `result` and clear the accumulator."""
        result = self.result()
        self._states.clear()
        return result

"""Break the package on purpose, one line at a time, and see whether a test notices.

    python scripts/mutate.py                 # every mutant, 5 to 30 s each, after one run of all their tests
    python scripts/mutate.py advantage_sign  # those named
    python scripts/mutate.py --list

Each mutant is a replacement of one piece of source that must occur there exactly once. It is applied to a
temporary copy of `align`, `tests` and `conf`, never in place; there the files of tests that should notice are run with
`pytest -x` in a process of their own (forked: not on Windows). A table tells which test failed.

Exit code: 0 = every mutant was caught; 1 = one survived, or the tests fail without any; 2 = a mutant no longer fits
the source (rename it along with the code).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import peft  # noqa: F401  these once, for all the mutants
import pytest
import trl.trainer.dpo_trainer
import trl.trainer.grpo_trainer  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("align", "tests", "conf", "scripts", "pyproject.toml")
LIMIT = 240  # seconds for the tests of one mutant


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # under align/
    before: str
    after: str
    tests: tuple[str, ...]  # under tests/, the likeliest to notice first


GROUPS = ("functional/test_groups.py", "algorithms/test_grpo.py")
LOSSES = ("algorithms/test_ppo_formulas.py", "parity/test_grpo.py")
PPO = ("algorithms/test_ppo.py",)
GRPO = ("algorithms/test_grpo.py",)
ROLLOUTS = ("algorithms/test_on_policy.py",)
SHAPES = ("data/test_shapes.py",)
LOOP = ("loop/test_protocol.py", "loop/test_loop.py")
RESUME = ("loop/test_resume.py",)
GRADIENTS = ("oracle/test_gradients.py",)
CHAT = ("models/test_chat_tokenizer.py", "models/test_templates.py")
SAMPLING = ("engine/test_architectures.py", "engine/test_sampling.py")
DPO = ("parity/test_dpo.py", "algorithms/test_dpo.py")
CAPTURED = ("engine/test_captured.py",)
DECODING = ("engine/test_decoding.py",)
SECOND = ("test_second_device.py",)
LORA = ("engine/test_lora_linear.py", "engine/test_fused_lora.py")
ATTENTION = ("engine/test_grouped_attention.py", "engine/test_cpu_attention.py")
REWARD_MODEL = ("parity/test_reward_model.py", "run/test_reward_prefixes.py")
PREFIXES = ("algorithms/test_reward_model.py", "run/test_reward_prefixes.py")
PACKED = ("engine/test_packed_rows.py",)
ENGINE = ("engine/test_engine.py",)
PAGES = ("engine/test_pages.py",)
PREFERENCE = ("functional/test_preference.py", *DPO)

MUTANTS = (
    Mutant("advantage_sign", "algorithms/ppo.py", "torch.max(-advantages * ratio", "torch.max(advantages * ratio",
           LOSSES),
    Mutant("clip_takes_the_smaller", "algorithms/ppo.py", "torch.max(-adv", "torch.min(-adv", LOSSES),
    Mutant("ratio_inverted", "algorithms/ppo.py", 'logprobs - batch.columns["logprobs"]',
           'batch.columns["logprobs"] - logprobs', ("parity/test_grpo.py",)),
    Mutant("ratio_inverted_for_the_oracle", "algorithms/ppo.py", 'logprobs - batch.columns["logprobs"]',
           'batch.columns["logprobs"] - logprobs', GRADIENTS),
    Mutant("clip_sides_swapped", "algorithms/ppo.py", "1 - self.clip_low, 1 + self.clip_high",
           "1 - self.clip_high, 1 + self.clip_low", LOSSES),
    Mutant("clip_high_forgotten", "algorithms/grpo.py", "self.method.clip_high or self.clip_low", "self.clip_low",
           ("parity/test_grpo.py",)),
    Mutant("kl_sign_in_the_reward", "algorithms/ppo.py", '(columns["logprobs"] - columns["ref_logprobs"])',
           '(columns["ref_logprobs"] - columns["logprobs"])', LOSSES),
    Mutant("kl_sign_for_the_oracle", "algorithms/ppo.py", "rewards - self.kl.coef", "rewards + self.kl.coef",
           GRADIENTS),
    Mutant("kl_sign_in_the_loss", "algorithms/grpo.py", "per_token + self.kl.coef", "per_token - self.kl.coef",
           ("parity/test_grpo.py",)),
    Mutant("k3_inverted", "functional/kl.py", "(ref_logp - logp).clamp", "(logp - ref_logp).clamp",
           ("functional/test_kl.py", "parity/test_grpo.py")),
    Mutant("first_ratio_not_checked", "algorithms/ppo.py", "if at.update == 1 and metrics is not None and",
           "if False and", PPO),
    Mutant("k3_not_corrected", "algorithms/grpo.py", "super().log_ratio(batch, logprobs).exp() * ", "",
           ("parity/test_grpo.py",)),
    Mutant("kl_of_reward_forgotten", "algorithms/grpo.py", "place is KLPlace.reward and", "place is KLPlace.loss and",
           GRPO),
    Mutant("group_std_dropped", "functional/groups.py", "centred = centred / (std + STD_EPS)",
           "pass", GROUPS),
    Mutant("group_mean_dropped", "functional/groups.py", "scores.view(-1, group_size) - mean",
           "scores.view(-1, group_size) - 0 * mean",
           GROUPS),
    Mutant("group_std_of_the_population", "functional/groups.py", "grouped.std(1, keepdim=True), n",
           "grouped.std(1, keepdim=True, correction=0), n", GROUPS),
    Mutant("groups_interleaved", "functional/groups.py", "grouped = scores.view(-1, group_size)",
           "grouped = scores.view(group_size, -1).T", GROUPS),
    Mutant("reward_so_far_for_reward_to_go", "functional/groups.py", "rewards.flip(1).cumsum(1).flip(1)",
           "rewards.cumsum(1)", GROUPS),
    Mutant("sequence_ratio_summed", "functional/groups.py", "(total / mask.sum(1, keepdim=True).clamp(min=1))", "total",
           GROUPS),
    Mutant("lengths_weighted_equally", "functional/groups.py", "mask.sum(1, keepdim=True).clamp(min=1) * responses",
           "mask.shape[1] * responses", GROUPS),
    Mutant("gae_bootstraps_past_the_end", "algorithms/ppo.py", "rewards, values = zero_outside(rewards, mask),"
           " zero_outside(values, mask)", "rewards = zero_outside(rewards, mask)", LOSSES),
    Mutant("gae_forgets_lambda", "algorithms/ppo.py", "gamma * lam * running", "gamma * running", LOSSES),
    Mutant("reward_a_token_early", "functional/credit.py", "(mask.sum(1, keepdim=True) - 1)",
           "(mask.sum(1, keepdim=True) - 2)", ("functional/test_credit.py", "oracle/test_tree.py")),
    Mutant("prefix_reward_a_token_late", "functional/credit.py", "prefix_scores[:, 1:] - prefix_scores[:, :-1]",
           "prefix_scores[:, :-1] - prefix_scores[:, :-1].roll(1, 1)", ("functional/test_credit.py",)),
    Mutant("step_paid_from_the_step_before", "functional/credit.py", "settled[:, :-1], (1, 0)",
           "settled[:, :-2], (2, 0)", ("functional/test_credit.py",)),
    Mutant("implicit_reward_reversed", "functional/credit.py", "(scale * log_ratio)", "(-scale * log_ratio)",
           ("functional/test_credit.py", "oracle/test_credit.py")),
    Mutant("dpo_ratio_reversed", "rewards/signals.py", "self._dpo.response_logprobs(part, 1.0) - self._reference",
           "self._reference.response_logprobs(part, 1.0) - self._dpo", ("rewards/test_signals.py",)),
    Mutant("segments_end_a_token_late", "functional/fidelity.py", "right=True", "right=False",
           ("functional/test_fidelity.py",)),
    Mutant("mask_shifted", "engine/reference.py", "batch.input_ids[:, :-1], batch.attention_mask[:, :-1]",
           "batch.input_ids, batch.attention_mask", SAMPLING),
    Mutant("packed_positions_from_the_start", "engine/fast/packed_rows.py", "position_ids(mask)[:, start:]",
           "position_ids(mask)[:, : width - start]", PACKED),
    Mutant("packed_sees_ahead", "engine/fast/packed_rows.py", ".tril(width - last)",
           ".tril(width - last + 1)", PACKED),
    Mutant("packed_rows_mixed_up", "engine/fast/packed_rows.py", "SharedPrefix(k, v, self.which)",
           "SharedPrefix(k, v, self.which.flip(0))", PACKED),
    Mutant("packed_tokens_one_before", "engine/fast/packed_rows.py", "torch.searchsorted(self.real, among)",
           "torch.searchsorted(self.real, among) - 1", PACKED),
    Mutant("packed_gradient_misplaced", "engine/fast/packed_rows.py", "index_copy_(0, rows, gradients[0])",
           "index_copy_(0, rows.flip(0), gradients[0])", PACKED),
    Mutant("packed_reads_what_predicts_nothing", "engine/fast/packed_rows.py", " & before_one", "",
           PACKED),
    Mutant("shared_keys_hear_one_row", "engine/fast/grouped_attention.py", "total.index_add_(0, which[part],",
           "total.index_copy_(0, which[part],", ("engine/test_grouped_attention.py",)),
    Mutant("shared_prompts_mixed_up", "engine/fast/policy.py", "cache.batch_select_indices(which)",
           "cache.batch_select_indices(which.flip(0))", ("engine/test_shared_prompts.py",)),
    Mutant("shared_prompts_mask_shifted", "engine/fast/policy.py", "batch.attention_mask[:, :-1], last=length)",
           "batch.attention_mask[:, 1:], last=length)", ("engine/test_shared_prompts.py",)),
    Mutant("room_keeps_rows_that_left", "engine/fast/roomy_cache.py", "buffer.data_ptr() != held.data_ptr()",
           "buffer.shape[0] < held.shape[0]", ("engine/test_cache.py",)),
    Mutant("own_tokens_forgotten", "engine/fast/prompt_cache.py", "_by_prompt(grid, of_prompt, self.values) + from_own",
           "_by_prompt(grid, of_prompt, self.values) + 0 * from_own", DECODING),
    Mutant("padding_of_prompts_read", "engine/fast/prompt_cache.py", "        if hidden is not None:",
           "        if False:",
           DECODING),
    Mutant("rows_leave_the_wrong_prompt", "engine/fast/prompt_cache.py", "torch.unique(self.which[rows],",
           "torch.unique(self.which[rows.flip(0)],", DECODING),
    Mutant("own_rows_stay", "engine/fast/prompt_cache.py", "self._own_keys[rows], self._own_values[rows]",
           "self._own_keys[: len(rows)], self._own_values[: len(rows)]", DECODING),
    Mutant("adapter_without_its_scale", "engine/fast/decoding.py", "alpha=module.scaling[adapter]",
           "alpha=1", DECODING),
    Mutant("lora_without_its_scale", "engine/fast/fused_lora.py", "(up * self.scaling[name])", "up", LORA),
    Mutant("lora_gradient_past_the_update", "engine/fast/lora_linear.py",
           "(gradient @ weight).addmm_(of_low, down)", "gradient @ weight", LORA),
    Mutant("positions_ignore_padding", "engine/inputs.py", "(attention_mask.cumsum(1) - 1).clamp(min=0)",
           "(attention_mask.ge(0).long().cumsum(1) - 1)", SAMPLING),
    Mutant("temperature_forgotten", "functional/logprobs.py", "ids.reshape(-1, 1), temperature)",
           "ids.reshape(-1, 1), 1.0)", SAMPLING),
    Mutant("values_a_token_late", "engine/passes.py", "critic.prefix_scores(part)[:, :-1]",
           "critic.prefix_scores(part)[:, 1:]", ("engine/test_value_head.py",)),
    Mutant("values_learned_a_token_late", "algorithms/ppo.py", "zero_outside(scores[:, :-1], mask)",
           "zero_outside(scores[:, 1:], mask)", LOSSES),
    Mutant("eos_dropped_from_the_mask", "engine/draws.py", "self.lengths[rows] += going",
           "self.lengths[rows] += going & (drawn.unsqueeze(1) != self._end_ids).all(1)",
           ("engine/test_sampling.py", "algorithms/test_ppo.py")),
    Mutant("eos_dropped_from_given_responses", "models/chat_tokenizer.py", "ids[: end + 1]", "ids[:end]", CHAT),
    Mutant("no_end_appended", "models/chat_tokenizer.py", "[*ids, self.end_id] if", "[*ids] if", CHAT),
    Mutant("what_follows_the_end_is_trained_on", "models/chat_tokenizer.py", "else ids[: end + 1]", "else ids", CHAT),
    Mutant("response_a_token_late", "models/chat_tokenizer.py", "whole[len(prompt) :]\n        else",
           "whole[len(prompt) + 1 :]\n        else", CHAT),
    Mutant("names_are_tokens", "models/chat_tokenizer.py", "{}) if self._parses else",
           "{}) if not self._parses else", CHAT),
    Mutant("added_tokens_are_parsed", "models/control_tokens.py", "_MARKUP.fullmatch(name)", "False", CHAT),
    Mutant("sections_start_a_sequence", "models/control_tokens.py", '"" if start else _ANCHOR', '""', CHAT),
    Mutant("end_of_no_other_program", "models/chat_setup.py", "generation.eos_token_id = list(chat.end_ids)",
           "pass", ("e2e/test_ends.py",)),
    Mutant("what_the_template_leaves_out", "data/omissions.py", "elif one.is_said:", "elif False:",
           ("data/test_preferences.py", "data/test_omissions.py")),
    Mutant("truncated_keeps_its_score", "functional/credit.py", "torch.where(ended.unsqueeze(1), token_rewards,",
           "torch.where(~ended.unsqueeze(1), token_rewards,", ("functional/test_credit.py", "algorithms/test_ppo.py")),
    Mutant("ended_rows_go_on", "engine/draws.py", "torch.where(going, drawn, self._pad_id)", "drawn", SAMPLING),
    Mutant("a_fixed_step_without_its_position", "engine/fast/captured.py", "        self._positions += 1\n",
           "", CAPTURED),
    Mutant("a_fixed_step_does_not_see_itself", "engine/fast/captured.py",
           "        self._mask.index_fill_(3, self._at, 0)\n", "", CAPTURED),
    Mutant("room_is_seen", "engine/fast/captured.py", "(rows, 1, 1, room), _HIDDEN",
           "(rows, 1, 1, room), 0.0", CAPTURED),
    Mutant("keys_of_a_step_a_place_late", "engine/fast/captured.py", "self.keys.index_copy_(2, self._at,",
           "self.keys.index_copy_(2, self._at + 1,", CAPTURED),
    Mutant("wrong_rows_leave_the_room", "engine/fast/captured.py", "decoder.keep(index)", "decoder.keep(index.flip(0))",
           CAPTURED),
    Mutant("a_captured_step_asks", "engine/draws.py", "self.lengths[rows] += going",
           "self.lengths[rows[going]] += 1", SECOND),
    Mutant("pairs_left_on_the_cpu", "data/collate.py", "dtype=torch.long, device=device)", "dtype=torch.long)", SECOND),
    Mutant("sums_of_two_devices", "evaluation/likelihood.py", "part.response_mask, dim=1).cpu()",
           "part.response_mask, dim=1)", SECOND),
    Mutant("a_response_beats_itself", "evaluation/figures.py", "one_response(a, b) for", "a is b for",
           ("evaluation/test_evaluate.py",)),
    Mutant("turned_the_other_way", "engine/fast/decoding.py", "[-sin[..., :half], sin[..., half:]]",
           "[sin[..., :half], -sin[..., half:]]", DECODING),
    Mutant("norm_of_another_epsilon", "engine/fast/decoding.py", "self.weight.to(states.dtype), self.eps)",
           "self.weight.to(states.dtype), 1e-1)", CAPTURED),
    Mutant("wrong_rows_leave_the_cache", "engine/cache.py", "cache.batch_select_indices(rows)",
           "cache.batch_select_indices(rows.flip(0))", SAMPLING),
    Mutant("chosen_and_rejected_swapped", "functional/preference.py", "margin = chosen - rejected",
           "margin = rejected - chosen", PREFERENCE),
    Mutant("sides_swapped_in_the_batch", "algorithms/offline.py", 'BOTH = ("chosen_ids", "rejected_ids")',
           'BOTH = ("rejected_ids", "chosen_ids")', DPO),
    Mutant("reference_added", "functional/preference.py", "margin - (ref_chosen - ref_rejected)",
           "margin + (ref_chosen - ref_rejected)", PREFERENCE),
    Mutant("dpo_averages_over_tokens", "algorithms/dpo.py", "if self.method.length_normalised else total",
           "if True else total", DPO),
    Mutant("label_smoothing_swapped", "functional/preference.py", "-(1 - label_smoothing) * logsigmoid(h) -",
           "-(1 - label_smoothing) * logsigmoid(-h) -", PREFERENCE),
    Mutant("sft_learns_the_rejected", "data/examples.py", "yield row.completions[0]", "yield row.completions[1]",
           SHAPES),
    Mutant("labels_swapped", "data/examples.py", "[0 if completion.label else 1]", "[1 if completion.label else 0]",
           SHAPES),
    Mutant("the_lowest_score_is_best", "data/shapes.py", "(config.scores_column, 1.0)", "(config.scores_column, -1.0)",
           SHAPES),
    Mutant("turns_of_held_out_prompts_are_trained_on", "data/preferences.py", "if any(row.earlier for row in train):",
           "if False:", SHAPES),
    Mutant("near_duplicates_on_both_sides", "data/preferences.py", "held |= near(prompts,", "near(prompts,",
           ("data/test_duplicates.py",)),
    Mutant("kto_reads_its_kl_from_the_same_prompt", "algorithms/trl/pairs.py", "if other.prompt.id != one.prompt.id",
           "if other is not one", ("algorithms/test_trl.py",)),
    Mutant("attention_scale_once", "engine/fast/grouped_attention.py", "softmax_gradient(through, w).mul_(ctx.scale)",
           "softmax_gradient(through, w)", ATTENTION),
    Mutant("attention_mask_inverted", "engine/fast/cpu_attention.py", "else ~attention_mask",
           "else attention_mask", ATTENTION),
    Mutant("attention_sees_ahead", "engine/fast/cpu_attention.py", ".triu(1)", ".triu(2)", ATTENTION),
    Mutant("attention_scores_rounded", "engine/fast/grouped_attention.py", "torch.softmax(scores, -1, out=scores)",
           "torch.softmax(scores.bfloat16().float(), -1, out=scores)", ATTENTION),
    Mutant("centre_forgotten", "algorithms/reward_model.py", "self._center_coef * (chosen", "0 * (chosen",
           REWARD_MODEL),
    Mutant("scored_a_token_early", "algorithms/reward_model.py", "score_at(scores, batch.sequences.lengths)",
           "score_at(scores, batch.sequences.lengths - 1)", REWARD_MODEL),
    Mutant("whole_responses_forgotten", "algorithms/reward_model.py", "final(batch, squared).sum() / responses",
           "0 * final(batch, squared).sum()", PREFIXES),
    Mutant("stage_begins_again", "run/stage.py", "loop.resume(found)", "pass", ("run/test_stage.py",)),
    Mutant("shared_prompts_are_free", "functional/batching.py", "max(once.values(), default=0)", "0",
           ("functional/test_batching.py",)),
    Mutant("switch_trusts_its_memory", "models/adapters.py", "for layer in self._layers:  # as",
           "for layer in () if name == self._active else self._layers:  # as", ("engine/test_adapters.py",)),
    Mutant("switch_freezes_the_trained", "models/adapters.py", "parameter in self._trained)",
           "parameter not in self._trained)", ("engine/test_adapters.py",)),
    Mutant("memory_is_not_given_back", "engine/fast/pages.py", "libc.malloc_trim(0)", "pass", PAGES),
    Mutant("memory_is_kept_for_good", "engine/fast/pages.py", "libc.mallopt(_TRIM_THRESHOLD, 2 * KEPT_UP_TO)", "pass",
           PAGES),
    Mutant("memory_is_not_kept", "engine/fast/pages.py", "libc.mallopt(_TRIM_THRESHOLD, _NEVER)", "pass", PAGES),
    # What a rollout is made of, and how its updates share it
    Mutant("prompts_of_a_group_skipped", "algorithms/ppo.py", "at.rollout * count, count",
           "at.rollout * self.config.rollout.batch_size, count", GRPO),
    Mutant("noise_of_every_rollout_the_same", "algorithms/ppo.py", 'Noise(seed, "rollout", at.rollout)',
           'Noise(seed, "rollout")', ROLLOUTS),
    Mutant("reference_is_the_policy", "algorithms/ppo.py", "read_logprobs(roles.reference,",
           "read_logprobs(roles.policy,", PPO),
    Mutant("old_is_the_reference", "algorithms/ppo.py", '{"logprobs": logprobs, "ref_logprobs": ref_logprobs',
           '{"logprobs": ref_logprobs, "ref_logprobs": logprobs', PPO),
    Mutant("values_keep_their_gradient", "engine/passes.py", "@torch.no_grad()\n", "", PPO),
    Mutant("whitened_rewards_lose_their_mean", "algorithms/ppo.py", "whiten(rewards, mask, shift_mean=False)",
           "whiten(rewards, mask)", PPO),
    Mutant("masked_responses_learned_from", "types.py", "mask * columns[name].unsqueeze(1).to(mask.dtype)", "mask",
           ("algorithms/test_on_policy.py",)),
    Mutant("ended_responses_masked", "algorithms/counted.py", "learned = rollout.ended", "learned = ~rollout.ended",
           ("algorithms/test_on_policy.py",)),
    Mutant("advantages_not_whitened", "algorithms/ppo.py", "whiten(advantages, masked_rows(mask, columns)) if",
           "advantages if", PPO),
    Mutant("value_clip_takes_the_smaller", "algorithms/ppo.py", "0.5 * torch.max((values", "0.5 * torch.min((values",
           LOSSES),
    Mutant("vf_coef_forgotten", "algorithms/ppo.py", "method.vf_coef * (masked_sum", "1.0 * (masked_sum", LOSSES),
    Mutant("critic_has_the_policys_rate", "algorithms/ppo.py", "self.method.critic_rate",
           "self.method.learning_rate", PPO),
    Mutant("warm_up_of_nobody", "algorithms/ppo.py", "first_step=self.method.critic_warmup_steps", "first_step=0", PPO),
    Mutant("epochs_in_one_order", "algorithms/ppo.py", '"minibatch", at.rollout, epoch)', '"minibatch", at.rollout)',
           ROLLOUTS),
    Mutant("rollouts_in_one_order", "algorithms/ppo.py", '"minibatch", at.rollout, epoch)', '"minibatch", epoch)',
           ROLLOUTS),
    Mutant("used_up_after_an_epoch", "algorithms/ppo.py", "self.method.epochs * (n //", "1 * (n //", PPO),
    Mutant("target_kl_forgotten", "algorithms/ppo.py", "return too_far or at.update", "return at.update",
           ("algorithms/test_kl_control.py",)),
    Mutant("adapted_coef_not_kept", "algorithms/ppo.py", '"kl_coef": self.kl.coef', '"kl_coef": self.method.kl.coef',
           RESUME),
    Mutant("scale_of_the_reward_not_taken_up", "algorithms/ppo.py",
           'self.run.source.load_state(saved.get("source", {}))', "pass", ("algorithms/test_reward_failure.py",)),
    Mutant("kl_budget_forgotten", "algorithms/kl_control.py", "if config.budget is not None and", "if False and",
           ("algorithms/test_kl_control.py",)),
    Mutant("k3_corrected_by_the_sequences_ratio", "algorithms/grpo.py",
           "return super().log_ratio(batch, logprobs).exp()", "return self.log_ratio(batch, logprobs).exp()", GRPO),
    Mutant("passes_begin_anew", "streams.py", "orders[place // n][", "orders[start // n][",
           ("test_streams.py", *ROLLOUTS)),
    Mutant("passes_in_one_order", "streams.py", "permutation(n, seed, *names, epoch).tolist()",
           "permutation(n, seed, *names).tolist()", ("test_streams.py", *ROLLOUTS)),
    # The loop
    Mutant("rollout_not_counted", "loop/loop.py", "self.progress.rollout += 1\n            self.progress.update",
           "self.progress.update", LOOP),
    Mutant("update_not_reset", "loop/loop.py", "            self.progress.update = 0\n", "", LOOP),
    Mutant("used_up_before_it_is_counted", "loop/loop.py",
           "self.progress.update += 1\n        used_up = self.algorithm.used_up(self.progress, n, metrics)",
           "used_up = self.algorithm.used_up(self.progress, n, metrics)\n        self.progress.update += 1", LOOP),
    Mutant("used_up_and_kept", "loop/loop.py", "if used_up:\n            self.examples = None\n", "if used_up:\n",
           LOOP),
    Mutant("saved_before_it_is_used_up", "loop/loop.py", "{**self.examples.metrics, **metrics})\n",
           "{**self.examples.metrics, **metrics})\n            self._evaluate_and_save()\n            metrics = None\n",
           LOOP),
    Mutant("bad_update_tried_again", "loop/loop.py", "self.progress.update += 1",
           "self.progress.update += metrics is not None", (*ROLLOUTS, *LOOP)),
    Mutant("bad_rollout_collected_again", "loop/loop.py", "self.progress.rollout += 1\n                continue",
           "continue", ROLLOUTS),
    Mutant("resumed_without_the_rollouts_figures", "loop/loop.py", 'state["examples"])', "{})", LOOP),
    Mutant("moments_not_taken_up", "loop/loop.py",
           'self.updates.optimization.load_tensors(checkpoint.read_tensors(folder, "optimizer"))', "pass", LOOP),
    Mutant("tokens_of_the_micro_batch", "loop/updates.py", "examples.rows(index[part], size)",
           "examples.rows(index[part], Size(size.rows, int(examples.response_tokens[index[part]].sum())))", PPO),
    Mutant("rows_of_the_micro_batch", "loop/updates.py", "examples.rows(index[part], size)",
           "examples.rows(index[part], Size(len(part), size.tokens))", REWARD_MODEL),
    Mutant("rows_of_another_minibatch", "loop/updates.py", "examples.rows(index[part], size)",
           "examples.rows(part, size)", LOOP),
    Mutant("role_learns_while_it_is_left_alone", "loop/updates.py", "learns = step >= role.first_step",
           "learns = True", PPO),
    Mutant("role_learns_an_update_late", "loop/updates.py", "learns = step >= role.first_step",
           "learns = step > role.first_step", PPO),
    Mutant("loss_of_the_first_role", "loop/updates.py", "role.loss(batch, outputs)",
           "next(iter(self._algorithm.trained.values())).loss(batch, outputs)", PPO),
    Mutant("recomputed_under_the_policys_adapter", "loop/updates.py", "self._run.modules[name].active()",
           'self._run.modules["policy"].active()', PPO),
    Mutant("families_swapped", "loop/updates.py", '{"policy": "policy", "critic": "value"}',
           '{"policy": "value", "critic": "policy"}', PPO),
    Mutant("learned_without_the_temperature", "loop/updates.py",
           "(batch.sequences, self._algorithm.temperature)\n        rows", "(batch.sequences, 1.0)\n        rows", PPO),
    Mutant("updates_read_the_policy_for_the_reference", "loop/updates.py", "self._run.reference.response_logprobs",
           'self._run.modules["policy"].response_logprobs', DPO),
    Mutant("reference_free_reads_the_reference", "algorithms/dpo.py", "not self.method.reference_free", "True", DPO),
    Mutant("format_1_rollout_begins_again", "loop/checkpoint.py", "if metrics is not None and not in_rollout and",
           "if False and", LOOP),
    Mutant("format_1_leaves_the_rollout_in_use", "loop/checkpoint.py", "not in_rollout and ", "", LOOP),
    Mutant("format_1_pairs_begin_again", "loop/checkpoint.py", "if metrics is not None and not", "if not", LOOP),
    Mutant("format_1_without_the_rollouts_figures", "loop/checkpoint.py", '"examples": metrics or {}', '"examples": {}',
           LOOP),
    Mutant("format_2_read_as_1", "loop/checkpoint.py", 'return state if "format" in state else', "return", LOOP),
    # Given responses
    Mutant("minibatch_of_the_pass", "algorithms/offline.py", "at.update * size, size", "at.rollout * size, size", DPO),
    Mutant("passes_over_pairs_not_counted", "algorithms/offline.py", "at.rollout = at.update",
           "at.rollout = 0 * at.update", (*LOOP, *DPO)),
    Mutant("reward_model_prefers_the_rejected", "algorithms/reward_model.py", "tally = chosen - rejected, Tally()",
           "tally = rejected - chosen, Tally()", REWARD_MODEL),
    Mutant("centre_of_the_margin", "algorithms/reward_model.py", "(chosen + rejected) ** 2", "(chosen - rejected) ** 2",
           REWARD_MODEL),
    Mutant("centre_not_passed_on", "run/reward_models.py", "RewardModel(run, source.center_coef)",
           "RewardModel(run, 0.0)", ("run/test_reward_models.py",)),
    Mutant("scored_at_the_padding", "algorithms/reward_model.py",
           "score_at(scores, batch.sequences.lengths)", "scores[:, -1]", REWARD_MODEL),
    Mutant("targets_interleaved", "algorithms/reward_model.py", ".t().flatten()", ".flatten()", PREFIXES),
    Mutant("empty_prefix_not_learned", "algorithms/reward_model.py", "(1, 0), value=1)", "(1, 0), value=0)", PREFIXES),
    Mutant("empty_prefixes_not_counted", "algorithms/reward_model.py", "batch.size.tokens + responses",
           "batch.size.tokens", PREFIXES),
    Mutant("one_response_a_pair", "algorithms/reward_model.py", "2 * batch.size.rows", "batch.size.rows", PREFIXES),
    Mutant("bias_of_the_head_trained", "run/reward_models.py", "model.head.bias.requires_grad_(False)", "pass",
           ("run/test_reward_prefixes.py",)),
    Mutant("stage_of_other_threads_taken_up", "run/stage.py", "json.loads(noted.read_text()) != machine", "False",
           ("run/test_stage.py",)),
    Mutant("stage_takes_up_the_oldest", "run/stage.py", "found[-1][1]", "found[0][1]", ("run/test_stage.py",)),
    # The engine
    Mutant("packed_places_among_the_prompts", "engine/fast/packed_rows.py",
           " + self.prompts[0] * self.prompts[1]\n        return", "\n        return", PACKED),
    Mutant("packed_places_from_the_left", "engine/fast/packed_rows.py", "(self.rows[1] - tokens.shape[1], 0))",
           "(0, self.rows[1] - tokens.shape[1]))", PACKED),
    Mutant("packed_predictions_mixed_up", "engine/fast/policy.py", "packed.places(batch.response_mask)",
           "packed.places(batch.response_mask).flip(0)", PACKED),
    Mutant("reference_engine_packs_rows", "engine/engine.py", "if not self.fast:\n            return Policy",
           "if False:\n            return Policy", ENGINE),
    Mutant("reference_engine_packs_rows_of_values", "engine/engine.py",
           "if not self.fast:\n            return ValueHead", "if False:\n            return ValueHead", ENGINE),
    Mutant("reference_engine_fuses_lora", "engine/engine.py", "if not self.fast:\n            return SharedBase",
           "if False:\n            return SharedBase", ENGINE),
    Mutant("reference_engine_rounds_weights", "engine/engine.py", "if self.fast:\n            cast",
           "if True:\n            cast", ENGINE),
    Mutant("reference_engine_keeps_pages", "engine/engine.py", "pages_kept(device) if self.fast else nullcontext()",
           "pages_kept(device)", ENGINE),
    Mutant("configured_engine_ignored", "engine/engine.py", "cls(config.engine, ", "cls(EngineKind.auto, ",
           ENGINE),
)  # fmt: skip


def mutated(source: str, mutant: Mutant) -> str:
    """Raises ValueError where the mutant does not fit."""
    if source.count(mutant.before) != 1:
        raise ValueError(f"{mutant.name}: {source.count(mutant.before)} times in align/{mutant.file}, expected once")
    return source.replace(mutant.before, mutant.after)


def copy_to(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def failing_test(folder: Path, files: tuple[str, ...], limit: int = LIMIT) -> str | None:
    """The first test that fails in the copy; None where all pass within `limit` seconds."""
    report = folder / "report.txt"
    child = os.fork()  # with the libraries imported and align not: a new interpreter would spend seconds on them
    if child == 0:
        signal.alarm(limit)
        with open(report, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{file}" for file in files)]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return None
    if code == -signal.SIGALRM:
        return f"ran past {limit} s"
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", report.read_text(), re.MULTILINE)
    return found[1] if found else f"pytest ended with {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants to try; all where none is named")
    parser.add_argument("--list", action="store_true", help="print the mutants and end")
    options = parser.parse_args()
    unknown = set(options.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTANTS if not options.names or m.name in options.names]
    if options.list:
        print("\n".join(f"{m.name:36} align/{m.file}" for m in chosen))
        return 0
    survivors = []
    sys.dont_write_bytecode = True  # it would be taken for that of the next mutant
    with tempfile.TemporaryDirectory(prefix="align-mutants-") as name:
        folder = Path(name)
        copy_to(folder)
        try:
            broken = {m.name: mutated((folder / "align" / m.file).read_text(), m) for m in chosen}
        except ValueError as error:
            print(error)
            return 2
        sound = failing_test(folder, tuple(dict.fromkeys(file for m in chosen for file in m.tests)), 4 * LIMIT)
        if sound is not None:
            print(f"the tests fail without any mutant: {sound}")
            return 1
        for mutant in chosen:
            started, target = time.perf_counter(), folder / "align" / mutant.file
            original = target.read_text()
            target.write_text(broken[mutant.name])
            caught = failing_test(folder, mutant.tests)
            target.write_text(original)
            survivors += [mutant.name] if caught is None else []
            print(f"{mutant.name:36} {time.perf_counter() - started:5.1f} s  {caught or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

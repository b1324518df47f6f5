"""Break the package on purpose, one line at a time, and see whether a test notices.

    python scripts/mutate.py                 # every mutant, about twelve minutes on one core
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
LOSSES = ("functional/test_losses.py", "parity/test_grpo.py")
GRADIENTS = ("oracle/test_gradients.py",)
SAMPLING = ("engine/test_architectures.py", "engine/test_sampling.py")
DPO = ("parity/test_dpo.py", "algorithms/test_dpo.py")
CAPTURED = ("engine/test_captured.py",)
DECODING = ("engine/test_decoding.py",)
SECOND = ("test_second_device.py",)
LORA = ("engine/test_lora_linear.py", "engine/test_fused_lora.py")
ATTENTION = ("engine/test_grouped_attention.py", "engine/test_cpu_attention.py")
STAGES = ("algorithms/test_reward_model.py", "parity/test_reward_model.py")
PREFERENCE = ("functional/test_preference.py", *DPO)

MUTANTS = (
    Mutant("advantage_sign", "functional/losses.py", "torch.max(-advantages", "torch.max(advantages", LOSSES),
    Mutant("clip_takes_the_smaller", "functional/losses.py", "return torch.max(-adv", "return torch.min(-adv", LOSSES),
    Mutant("ratio_inverted", "functional/losses.py", "logp - old_logp", "old_logp - logp", ("parity/test_grpo.py",)),
    Mutant("ratio_inverted_for_the_oracle", "functional/losses.py", "logp - old_logp", "old_logp - logp", GRADIENTS),
    Mutant("clip_sides_swapped", "algorithms/grpo.py", "method.clip_range, method.clip_high or method.clip_range",
           "method.clip_high or method.clip_range, method.clip_range", ("parity/test_grpo.py",)),
    Mutant("kl_sign_in_the_reward", "functional/advantages.py", "coef * (logp - ref_logp)", "coef * (ref_logp - logp)",
           ("functional/test_advantages.py", "algorithms/test_grpo.py")),
    Mutant("kl_sign_for_the_oracle", "functional/advantages.py", "token_rewards - coef", "token_rewards + coef",
           GRADIENTS),
    Mutant("kl_sign_in_the_loss", "algorithms/grpo.py", "per_token + self.kl_coef", "per_token - self.kl_coef",
           ("parity/test_grpo.py",)),
    Mutant("k3_inverted", "functional/kl.py", "(ref_logp - logp).clamp", "(logp - ref_logp).clamp",
           ("functional/test_kl.py", "parity/test_grpo.py")),
    Mutant("old_policy_keeps_its_gradient", "algorithms/on_policy.py", "zero_outside(logprobs.detach(), part.rollout",
           "zero_outside(logprobs, part.rollout", ("algorithms/test_grpo.py",)),
    Mutant("read_once_for_many_updates", "algorithms/on_policy.py", "return self.one_update and not asked",
           "return not asked", ("algorithms/test_grpo.py",)),
    Mutant("passes_not_compared", "algorithms/on_policy.py", "if self.old_is_current and self._passes_to_check:",
           "if False:", ("algorithms/test_grpo.py",)),
    Mutant("held_rows_not_the_minibatchs", "algorithms/on_policy.py", "minibatch = experience if held else",
           "minibatch =", ("algorithms/test_passes.py",)),
    Mutant("held_weights_rounded_by_part", "algorithms/passes.py",
           ", torch.autocast(rollout.response_ids.device.type, enabled=False)", "", ("algorithms/test_passes.py",)),
    Mutant("held_pass_of_another_rollout", "algorithms/on_policy.py",
           "self.holding = Holding()\n        self.kl_coef = state", "self.kl_coef = state",
           ("algorithms/test_passes.py",)),
    Mutant("held_pass_kept", "algorithms/passes.py", "stats, self._stats = self._stats, None", "stats = self._stats",
           ("algorithms/test_passes.py",)),
    Mutant("second_graph_not_counted", "algorithms/on_policy.py", "passes * tokens <=", "tokens <=",
           ("algorithms/test_passes.py",)),
    Mutant("held_for_many_updates", "algorithms/on_policy.py", "return self.one_update and passes", "return passes",
           ("algorithms/test_passes.py",)),
    Mutant("held_pass_not_compared", "algorithms/on_policy.py", "if plain is not None:", "if False:",
           ("algorithms/test_passes.py",)),
    Mutant("k3_not_corrected", "algorithms/grpo.py", "return ratio * kl.k3", "return kl.k3", ("parity/test_grpo.py",)),
    Mutant("kl_of_reward_forgotten", "algorithms/grpo.py", "place is KLPlace.reward and", "place is KLPlace.loss and",
           ("algorithms/test_grpo.py",)),
    Mutant("group_std_dropped", "functional/groups.py", "centred = centred / (grouped.std(1, keepdim=True) + STD_EPS)",
           "pass", GROUPS),
    Mutant("group_mean_dropped", "functional/groups.py", "grouped - grouped.mean(1, keepdim=True)", "grouped - 0",
           GROUPS),
    Mutant("group_std_of_the_population", "functional/groups.py", "grouped.std(1, keepdim=True)",
           "grouped.std(1, keepdim=True, correction=0)", GROUPS),
    Mutant("groups_interleaved", "functional/groups.py", "grouped = scores.view(-1, group_size)",
           "grouped = scores.view(group_size, -1).T", GROUPS),
    Mutant("reward_so_far_for_reward_to_go", "functional/groups.py", "rewards.flip(1).cumsum(1).flip(1)",
           "rewards.cumsum(1)", GROUPS),
    Mutant("sequence_ratio_summed", "functional/groups.py", "(total / mask.sum(1, keepdim=True).clamp(min=1))", "total",
           GROUPS),
    Mutant("lengths_weighted_equally", "functional/groups.py", "mask.sum(1, keepdim=True).clamp(min=1) * responses",
           "mask.shape[1] * responses", GROUPS),
    Mutant("gae_bootstraps_past_the_end", "functional/advantages.py", "rewards, values = zero_outside(rewards, mask),"
           " zero_outside(values, mask)", "rewards = zero_outside(rewards, mask)", ("functional/test_advantages.py",)),
    Mutant("gae_forgets_lambda", "functional/advantages.py", "gamma * lam * running", "gamma * running",
           ("functional/test_advantages.py",)),
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
    Mutant("mask_shifted", "engine/policy.py", "batch.input_ids[:, :-1], batch.attention_mask[:, :-1], length)",
           "batch.input_ids, batch.attention_mask, length)", SAMPLING),
    Mutant("packed_positions_from_the_start", "engine/fast/packed_rows.py", "position_ids(mask)[:, start:]",
           "position_ids(mask)[:, : width - start]", ("engine/test_packed_rows.py",)),
    Mutant("packed_sees_ahead", "engine/fast/packed_rows.py", ".tril(width - last)",
           ".tril(width - last + 1)", ("engine/test_packed_rows.py",)),
    Mutant("packed_rows_mixed_up", "engine/fast/packed_rows.py", "Before(k, v, self.which)",
           "Before(k, v, self.which.flip(0))", ("engine/test_packed_rows.py",)),
    Mutant("packed_tokens_one_before", "engine/fast/packed_rows.py", "torch.searchsorted(self.real, among)",
           "torch.searchsorted(self.real, among) - 1", ("engine/test_packed_rows.py",)),
    Mutant("packed_gradient_misplaced", "engine/fast/packed_rows.py", "index_copy_(0, rows, gradients[0])",
           "index_copy_(0, rows.flip(0), gradients[0])", ("engine/test_packed_rows.py",)),
    Mutant("packed_reads_what_predicts_nothing", "engine/fast/packed_rows.py", " & before_one", "",
           ("engine/test_packed_rows.py",)),
    Mutant("shared_keys_hear_one_row", "engine/fast/grouped_attention.py", "total.index_add_(0, which[part],",
           "total.index_copy_(0, which[part],", ("engine/test_grouped_attention.py",)),
    Mutant("shared_prompts_mixed_up", "engine/policy.py", "cache.batch_select_indices(which)",
           "cache.batch_select_indices(which.flip(0))", ("engine/test_shared_prompts.py",)),
    Mutant("shared_prompts_mask_shifted", "engine/policy.py", "batch.attention_mask[:, :-1], last=length)",
           "batch.attention_mask[:, 1:], last=length)", ("engine/test_shared_prompts.py",)),
    Mutant("room_keeps_rows_that_left", "engine/cache.py", "buffer.data_ptr() != held.data_ptr()",
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
    Mutant("lora_gradient_past_the_update", "engine/fast/lora_linear.py", ".addmm_(of_low, down).view", ".view", LORA),
    Mutant("positions_ignore_padding", "engine/inputs.py", "(attention_mask.cumsum(1) - 1).clamp(min=0)",
           "(attention_mask.ge(0).long().cumsum(1) - 1)", SAMPLING),
    Mutant("temperature_forgotten", "functional/logprobs.py", "ids.reshape(-1, 1), temperature)",
           "ids.reshape(-1, 1), 1.0)", SAMPLING),
    Mutant("values_a_token_late", "algorithms/ppo.py", "rollout.prompt_ids.shape[1] - 1 : -1]",
           "rollout.prompt_ids.shape[1] :]", ("algorithms/test_ppo.py",)),
    Mutant("eos_dropped_from_the_mask", "engine/draws.py", "self.lengths[rows] += going",
           "self.lengths[rows] += going & (drawn.unsqueeze(1) != self._end_ids).all(1)",
           ("engine/test_sampling.py", "algorithms/test_ppo.py")),
    Mutant("eos_dropped_from_given_responses", "models/chat_tokenizer.py", "[*ids, self.end_id] for ids",
           "[*ids] for ids",
           ("algorithms/test_dpo.py", "models/test_chat_tokenizer.py")),
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
    Mutant("wrong_rows_leave_the_room", "engine/sampling.py", "decoder.keep(index)", "decoder.keep(index.flip(0))",
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
    Mutant("wrong_rows_leave_the_cache", "engine/sampling.py", "cache.batch_select_indices(index)",
           "cache.batch_select_indices(index.flip(0))", SAMPLING),
    Mutant("chosen_and_rejected_swapped", "functional/preference.py", "margin = chosen - rejected",
           "margin = rejected - chosen", PREFERENCE),
    Mutant("sides_swapped_in_the_batch", "algorithms/dpo.py", 'for side in ("chosen_ids", "rejected_ids")',
           'for side in ("rejected_ids", "chosen_ids")', DPO),
    Mutant("reference_added", "functional/preference.py", "margin - (ref_chosen - ref_rejected)",
           "margin + (ref_chosen - ref_rejected)", PREFERENCE),
    Mutant("dpo_averages_over_tokens", "algorithms/dpo.py", "if self.method.length_normalised else total",
           "if True else total", DPO),
    Mutant("label_smoothing_swapped", "functional/preference.py", "-(1 - label_smoothing) * logsigmoid(h) -",
           "-(1 - label_smoothing) * logsigmoid(-h) -", PREFERENCE),
    Mutant("sft_learns_the_rejected", "algorithms/sft.py", "rows = [(p.prompt.input_ids, p.chosen_ids) for p in pairs]",
           "rows = [(p.prompt.input_ids, p.rejected_ids) for p in pairs]", ("algorithms/test_sft.py",)),
    Mutant("attention_scale_once", "engine/fast/grouped_attention.py", "through.dtype).mul_(ctx.scale)",
           "through.dtype)",
           ATTENTION),
    Mutant("attention_mask_inverted", "engine/fast/cpu_attention.py", "else ~attention_mask",
           "else attention_mask", ATTENTION),
    Mutant("attention_sees_ahead", "engine/fast/cpu_attention.py", ".triu(1)", ".triu(2)", ATTENTION),
    Mutant("attention_scores_rounded", "engine/fast/grouped_attention.py", "torch.softmax(scores, -1, out=scores)",
           "torch.softmax(scores.bfloat16().float(), -1, out=scores)", ATTENTION),
    Mutant("centre_forgotten", "algorithms/reward_model.py", "self._center_coef * (chosen", "0 * (chosen", STAGES),
    Mutant("scored_a_token_early", "algorithms/reward_model.py", "batch.sequences.lengths.unsqueeze(1)",
           "(batch.sequences.lengths - 1).unsqueeze(1)", STAGES),
    Mutant("whole_responses_forgotten", "algorithms/reward_model.py", "final(batch, squared).sum() / responses",
           "0 * final(batch, squared).sum()", STAGES),
    Mutant("stage_begins_again", "run/stage.py", "loop.resume(found)", "pass", ("run/test_stage.py",)),
    Mutant("shared_prompts_are_free", "functional/batching.py", "max(once.values(), default=0)", "0",
           ("functional/test_batching.py",)),
    Mutant("switch_trusts_its_memory", "models/adapters.py", "for layer in self._layers:  # as",
           "for layer in () if name == self._active else self._layers:  # as", ("engine/test_adapters.py",)),
    Mutant("switch_freezes_the_trained", "models/adapters.py", "parameter in self._trained)",
           "parameter not in self._trained)", ("engine/test_adapters.py",)),
    Mutant("memory_is_not_given_back", "memory.py", "libc.malloc_trim(0)", "pass", ("test_memory.py",)),
    Mutant("memory_is_kept_for_good", "memory.py", "libc.mallopt(_TRIM_THRESHOLD, 2 * KEPT_UP_TO)", "pass",
           ("test_memory.py",)),
    Mutant("memory_is_not_kept", "memory.py", "libc.mallopt(_TRIM_THRESHOLD, _NEVER)", "pass", ("test_memory.py",)),
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

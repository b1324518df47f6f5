"""What TRL 1.16 logs, and what it is called here. Imports no torch.

A figure of TRL's is mapped only where it is what align/metrics.py defines under that name; where TRL computes something
else (ties, Bessel's correction, the level of a mean), it has a row of its own there. What TRL does not measure stays
absent.
"""

from collections.abc import Mapping
from typing import Any

_COMMON = {
    "grad_norm": "policy/grad_norm",
    "learning_rate": "policy/learning_rate",
    "entropy": "policy/entropy",
    "num_tokens": "tokens/policy",
}
_PAIRS = {
    "rewards/chosen": "dpo/chosen_reward",
    "rewards/rejected": "dpo/rejected_reward",
    "rewards/margins": "dpo/margin",
    "logps/chosen": "dpo/chosen_logp",
    "logps/rejected": "dpo/rejected_logp",
    "logits/chosen": "dpo/chosen_logit",
    "logits/rejected": "dpo/rejected_logit",
}
_ON_POLICY = {
    "loss": "policy/total_loss",
    "reward": "reward/paid_mean",
    "reward_std": "reward/paid_std",
    "frac_reward_zero_std": "group/zero_std_fraction",
    "completions/mean_length": "response/length_mean",
    "completions/min_length": "response/length_min",
    "completions/max_length": "response/length_max",
    "completions/clipped_ratio": "response/eos_rate",
    "completions/mean_terminated_length": "response/ended_length_mean",
    "completions/min_terminated_length": "response/ended_length_min",
    "completions/max_terminated_length": "response/ended_length_max",
}

NAMES: dict[str, dict[str, str]] = {
    "trl_dpo": _COMMON
    | _PAIRS
    | {"loss": "dpo/loss", "rewards/accuracies": "dpo/accuracy_strict", "mean_token_accuracy": "dpo/token_accuracy"},
    "trl_kto": _COMMON | _PAIRS | {"loss": "kto/loss", "kl": "kto/kl"},
    "trl_grpo": _COMMON
    | _ON_POLICY
    | {"kl": "kl/per_token_k3_update", "clip_ratio/region_mean": "policy/clip_fraction"},
    "trl_rloo": _COMMON
    | _ON_POLICY
    | {"kl": "kl/per_token_k1", "clip_ratio/region_mean": "policy/response_clip_fraction"},
}

# Left out, and why.
DROPPED: dict[str, str] = {
    "epoch": "`rollout` of the record counts passes and rollouts",
    "rewards/align_reward/mean": "`reward`, as there is one reward function",
    "rewards/align_reward/std": "`reward_std`, as there is one reward function",
    "clip_ratio/low_mean": "part of clip_ratio/region_mean",
    "clip_ratio/low_min": "part of clip_ratio/region_mean",
    "clip_ratio/high_mean": "part of clip_ratio/region_mean",
    "clip_ratio/high_max": "part of clip_ratio/region_mean",
    "step_time": "sampling and update in one; `time/total` is the whole step",
    "train_runtime": "run.json has the phases",
    "train_samples_per_second": "of the whole training, compilation included",
    "train_steps_per_second": "of the whole training, compilation included",
    "total_flos": "an estimate from parameters and tokens",
    "train_loss": "mean of the steps' losses",
}

_COMPLEMENTS = frozenset({"completions/clipped_ratio"})  # TRL counts the responses that were cut


def translate(logs: Mapping[str, Any], method: str) -> dict[str, float]:
    """One of TRL's log records under our names; what the table does not have, or TRL could not compute, is left out."""
    found = {name: float(logs[name]) for name in NAMES[method] if logs.get(name) is not None}
    return {NAMES[method][name]: 1 - value if name in _COMPLEMENTS else value for name, value in found.items()}

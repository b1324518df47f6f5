"""Convert the keys of older alignment scripts (one JSON object per run) to words of align's command line."""

from collections.abc import Callable, Mapping
from typing import Any

from align.cli.conversion import Conversion, to_data, to_model, to_quantization, whole
from align.cli.quoting import quoted

METHODS = ("dpo", "ppo", "grpo")
_SAMPLE = ("ppo", "grpo")

# Keys with the same meaning: old name -> new name, and the methods that have the key.
_RENAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "dataset_split": ("data.train_split", METHODS),
    "prompt_column": ("data.prompt_column", METHODS),
    "chosen_column": ("data.chosen_column", METHODS),
    "rejected_column": ("data.rejected_column", METHODS),
    "learning_rate": ("method.learning_rate", METHODS),
    "max_steps": ("max_steps", METHODS),
    "max_ppo_steps": ("max_steps", _SAMPLE),
    "seed": ("seed", METHODS),
    "output_dir": ("hydra.run.dir", METHODS),
    "verbosity_word_limit": ("evaluation.verbosity_word_limit", METHODS),
    "ppo_batch_size": ("rollout.batch_size", _SAMPLE),
    "ppo_epochs": ("method.epochs", _SAMPLE),
    "target_kl": ("method.target_kl", _SAMPLE),
    "init_kl_coef": ("method.kl.coef", _SAMPLE),
    "target": ("method.kl.target", _SAMPLE),
    "horizon": ("method.kl.horizon", _SAMPLE),
    "cliprange": ("method.clip_range", _SAMPLE),
    "max_new_tokens": ("rollout.max_new_tokens", _SAMPLE),
    "temperature": ("rollout.temperature", _SAMPLE),
    "group_size": ("method.group_size", ("grpo",)),
    "num_generations": ("method.group_size", ("grpo",)),
    "max_grad_norm": ("method.max_grad_norm", METHODS),
    "warmup_steps": ("method.warmup_steps", METHODS),
    "weight_decay": ("method.weight_decay", METHODS),
    "save_steps": ("checkpoint.every_steps", METHODS),
    "test_prompts_file": ("evaluation.prompts_file", METHODS),
}
FLAGS = ("load_in_8bit", "load_in_4bit", "use_lora", "adap_kl_ctrl", "dense_rewards")
_REWARD_CONFIG = {
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
}
# Keys that tell the method where nothing names it, the surest first.
_MARKS = {"group_size": "grpo", "ppo_batch_size": "ppo", "dense_rewards": "ppo", "target_kl": "ppo", "beta": "dpo"}
_LEFT_OUT = {
    "lora_dropout": "no model has dropout, or PPO's ratio would not be 1 on the first update",
    "num_train_epochs": "align counts optimizer updates: set their number with max_steps",
    "generation_samples": "the older scripts did not read it",
}


def infer(old: Mapping[str, Any]) -> tuple[str | None, str]:
    """Infer the method from the keys of `old`: (method, why); None where they do not tell."""
    return next(((found, f"{mark} is given") for mark, found in _MARKS.items() if mark in old), (None, ""))


def convert_key(out: Conversion, key: str, value: Any) -> bool:
    """Convert one key of an older script; return False where the older scripts have no such key."""
    if key in _SPECIAL:
        _SPECIAL[key](out, key, value)
    elif key in _LEFT_OUT:
        out.leave_out(key, _LEFT_OUT[key])
    elif key not in _RENAMED:
        return False
    elif out.method not in _RENAMED[key][1]:
        out.refuse(key, f"method={out.method} has no such thing")
    elif value is None:
        out.leave_out(key, "null")
    else:
        out.set(key, _RENAMED[key][0], value)
    return True


def _data(out: Conversion, key: str, value: str) -> None:
    if to_data(out, key, value) == "orca_dpo":
        out.keys["data.system_column"] = "null"
        out.report(key, "data.system_column=null (the older scripts read the question alone)")


def _length(out: Conversion, key: str, value: int) -> None:
    if key == "max_prompt_length":
        out.keys["data.long_prompts"] = "truncate"
        return out.set(key, "data.max_prompt_tokens", value, "data.long_prompts=truncate keeps the last, not the first")
    if out.method in _SAMPLE:
        out.keys["rollout.max_new_tokens"] = quoted(value)
    out.set(key, "data.max_response_tokens", value, "and of samples: rollout.max_new_tokens")


def _bits(out: Conversion, key: str, value: bool) -> None:
    if value:
        out.groups.setdefault("adapter", "lora")
    to_quantization(out, key, value)


def _lora(out: Conversion, key: str, value: Any) -> None:
    if key == "use_lora":
        return out.choose(key, "adapter", "lora" if value else "none")
    if out.old.get("use_lora") is False:
        return out.leave_out(key, "use_lora is false")
    out.groups.setdefault("adapter", "lora")
    out.set(key, {"lora_r": "adapter.r", "lora_alpha": "adapter.alpha"}[key], value)


def _batch(out: Conversion, key: str, value: int) -> None:
    """Convert the rows per optimizer update: rows per device times accumulation steps."""
    rows = whole(out, "mini_batch_size") or whole(out, "per_device_train_batch_size") or 1
    size = rows * (whole(out, "gradient_accumulation_steps") or 1)
    if out.method == "dpo":
        return out.set(key, "method.batch_size", size, "pairs per update; micro-batches follow from their length")
    sampled = whole(out, "ppo_batch_size")
    if sampled is None:
        out.keys["rollout.batch_size"] = quoted(size)
    out.set(key, "method.minibatch_size", min(size, sampled or size), "responses per update")


def _beta(out: Conversion, key: str, value: float) -> None:
    if out.method == "ppo":
        return out.refuse(key, "unclear for PPO: the KL coefficient is init_kl_coef")
    out.set(key, "method.beta" if out.method == "dpo" else "method.kl.coef", value)


def _controller(out: Conversion, key: str, value: bool) -> None:
    if out.method not in _SAMPLE:
        return out.refuse(key, f"method={out.method} has no such thing")
    out.set(key, "method.kl.controller", "adaptive" if value else "fixed")


def _dense(out: Conversion, key: str, value: bool) -> None:
    if out.method == "dpo":
        return out.refuse(key, "method=dpo has no reward")
    note = "attention credit; reward/credit=uniform spreads the score evenly" if value else ""
    out.choose(key, "reward", "dense" if value else "sparse", note)


def _reward_model(out: Conversion, key: str, value: Any) -> None:
    """Convert the nested settings of the reward model's training."""
    given = value if isinstance(value, dict) else {}
    base = given.get("model_name_or_path") or out.old.get("model_name_or_path")
    odd = [k for k in given if k not in {*_REWARD_CONFIG, "model_name_or_path"}]
    if odd or not isinstance(value, dict) or out.method == "dpo" or base != out.old.get("model_name_or_path"):
        return out.refuse(key, f"cannot be converted ({', '.join(odd) or 'a reward model on another base'})")
    new = {f"reward.source.{_REWARD_CONFIG[k]}": quoted(v) for k, v in given.items() if k in _REWARD_CONFIG}
    out.keys |= new
    out.report(key, " ".join(f"{k}={v}" for k, v in new.items()) or "left out: nothing of its own")


def _tracking(out: Conversion, key: str, value: str | None) -> None:
    if value not in (None, "wandb"):
        return out.refuse(key, "wandb or null")
    out.choose(key, "tracking", value or "none")


_SPECIAL: dict[str, Callable[[Conversion, str, Any], None]] = {
    "method": lambda out, key, value: out.report(key, f"method={out.method}"),
    "model_name_or_path": to_model,
    "dataset_name": _data,
    "max_prompt_length": _length,
    "max_response_length": _length,
    "load_in_8bit": _bits,
    "load_in_4bit": _bits,
    "use_lora": _lora,
    "lora_r": _lora,
    "lora_alpha": _lora,
    "per_device_train_batch_size": _batch,
    "mini_batch_size": _batch,
    "gradient_accumulation_steps": _batch,
    "beta": _beta,
    "adap_kl_ctrl": _controller,
    "dense_rewards": _dense,
    "reward_config": _reward_model,
    "log_with": _tracking,
}
KEYS = frozenset({*_RENAMED, *_SPECIAL, *_LEFT_OUT})

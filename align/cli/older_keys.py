"""Convert the keys of older alignment scripts (one JSON object per run) to words of align's command line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from align.cli.groups import CONF, options
from align.cli.words import quoted
from align.errors import InputError

METHODS = ("dpo", "ppo", "grpo")
_SAMPLE = ("ppo", "grpo")
_FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}

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
_FLAGS = ("load_in_8bit", "load_in_4bit", "use_lora", "adap_kl_ctrl", "dense_rewards")
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


class Conversion:
    """The conversion of `old`: `words` compose the run, `lines` lists (key, value, what it became) of every key."""

    def __init__(self, old: Mapping[str, Any], method: str) -> None:
        self.old, self.method = old, method
        self.groups = {"method": method}
        self.keys: dict[str, str] = {}
        self.lines: list[tuple[str, Any, str]] = []
        self.unknown: list[str] = []

    @property
    def words(self) -> list[str]:
        """Words of the command line, groups before keys: a group's option defines which keys exist."""
        return [f"{key}={value}" for key, value in (self.groups | self.keys).items()]

    def report(self, key: str, became: str) -> None:
        """Record what became of `key` of the old file."""
        self.lines.append((key, self.old[key], became))

    def set(self, key: str, new: str, value: Any, note: str = "") -> None:
        """Convert `key` of the old file to the key `new`."""
        self.keys[new] = quoted(value)
        self.report(key, f"{new}={self.keys[new]}" + (f" ({note})" if note else ""))

    def choose(self, key: str, group: str, option: str, note: str = "") -> None:
        """Convert `key` of the old file to an option of a group."""
        self.groups[group] = option
        self.report(key, f"{group}={option}" + (f" ({note})" if note else ""))

    def refuse(self, key: str, why: str) -> None:
        """Record that `key` of the old file cannot be converted."""
        self.unknown.append(key)
        self.report(key, why)


def convert(old: Mapping[str, Any], method: str | None = None) -> Conversion:
    """Convert the configuration `old`; `method` None = the value of `old["method"]`, else inferred from the keys.

    Raises:
        InputError: the method cannot be inferred, or `old` contradicts itself.
    """
    name = method or old.get("method")
    if name is None:
        name = next((found for mark, found in _MARKS.items() if mark in old), None)
    if name not in METHODS:
        raise InputError("method", name, f"--method, one of {', '.join(METHODS)}")
    for key in _FLAGS:  # a text such as "false" would count as true
        if old.get(key) not in (True, False, None):
            raise InputError(key, old[key], "true or false")
    if old.get("load_in_8bit") and old.get("load_in_4bit"):
        raise InputError("load_in_4bit", True, "one of load_in_8bit and load_in_4bit")
    out = Conversion(old, str(name))
    for key, value in old.items():
        try:
            _convert(out, key, value)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(key, value, "text, a number, true, false or null, as the key has it") from error
    return out


def _convert(out: Conversion, key: str, value: Any) -> None:
    if key in _SPECIAL:
        _SPECIAL[key](out, key, value)
    elif key in _LEFT_OUT:
        out.report(key, f"left out: {_LEFT_OUT[key]}")
    elif key not in _RENAMED:
        out.refuse(key, "unknown")
    elif out.method not in _RENAMED[key][1]:
        out.refuse(key, f"method={out.method} has no such thing")
    elif value is None:
        out.report(key, "left out: null")
    else:
        out.set(key, _RENAMED[key][0], value)


def _model(out: Conversion, key: str, value: str) -> None:
    known = _named("model", value)
    if known is not None:
        return out.choose(key, "model", known)
    out.choose(key, "model", "local", "model.path=" + value)
    out.keys["model.path"] = quoted(value)


def _data(out: Conversion, key: str, value: str) -> None:
    known = _named("data", value)
    if known is None:
        option = _FORMATS.get(Path(value).suffix, "jsonl" if Path(value).is_dir() else "hub")
        out.choose(key, "data", option, "data.path=" + value)
        out.keys["data.path"] = quoted(value)
        return
    out.choose(key, "data", known)
    if known == "orca_dpo":
        out.keys["data.system_column"] = "null"
        out.report(key, "data.system_column=null (the older scripts read the question alone)")


def _named(group: str, path: str) -> str | None:
    """Find the option of `group` for a Hub id, whatever the id's case; None where there is none."""
    for name in options(group):
        found = OmegaConf.select(OmegaConf.load(CONF / group / f"{name}.yaml"), "path", throw_on_missing=False)
        if str(found).lower() == path.lower():
            return name
    return None


def _length(out: Conversion, key: str, value: int) -> None:
    if key == "max_prompt_length":
        out.keys["data.long_prompts"] = "truncate"
        return out.set(key, "data.max_prompt_tokens", value, "data.long_prompts=truncate keeps the last, not the first")
    if out.method in _SAMPLE:
        out.keys["rollout.max_new_tokens"] = quoted(value)
    out.set(key, "data.max_response_tokens", value, "and of samples: rollout.max_new_tokens")


def _bits(out: Conversion, key: str, value: bool) -> None:
    if not value:
        return out.report(key, "left out: false")
    out.groups.setdefault("adapter", "lora")
    out.choose(key, "quantization", {"load_in_8bit": "int8", "load_in_4bit": "nf4"}[key])


def _lora(out: Conversion, key: str, value: Any) -> None:
    if key == "use_lora":
        return out.choose(key, "adapter", "lora" if value else "none")
    if out.old.get("use_lora") is False:
        return out.report(key, "left out: use_lora is false")
    out.groups.setdefault("adapter", "lora")
    out.set(key, {"lora_r": "adapter.r", "lora_alpha": "adapter.alpha"}[key], value)


def _batch(out: Conversion, key: str, value: int) -> None:
    """Convert the rows per optimizer update: rows per device times accumulation steps."""
    rows = _whole(out, "mini_batch_size") or _whole(out, "per_device_train_batch_size") or 1
    size = rows * (_whole(out, "gradient_accumulation_steps") or 1)
    if out.method == "dpo":
        return out.set(key, "method.batch_size", size, "pairs per update; micro-batches follow from their length")
    sampled = _whole(out, "ppo_batch_size")
    if sampled is None:
        out.keys["rollout.batch_size"] = quoted(size)
    out.set(key, "method.minibatch_size", min(size, sampled or size), "responses per update")


def _whole(out: Conversion, name: str) -> int | None:
    value = out.old.get(name)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise InputError(name, value, "a whole number above 0")
    return value


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
    "model_name_or_path": _model,
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

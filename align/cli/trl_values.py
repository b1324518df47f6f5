"""Convert the fields of TRL's configurations whose values are written otherwise among align's keys."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from align.cli.conversion import Conversion, to_data, to_model, to_quantization
from align.cli.quoting import quoted
from align.cli.trl_lengths import length, prompt_length
from align.cli.trl_steps import (
    number,
    to_batch,
    to_epochs,
    to_event,
    to_max_steps,
    to_rollout,
    to_warmup,
)
from align.config.trl import SMOOTHED, TRLDPOLoss, TRLGRPOLoss, TRLKTOLoss, TRLScale

_OUR_DPO = {  # TRL's name -> (method.loss, method.length_normalised)
    "sigmoid": ("sigmoid", False),
    "robust": ("robust", False),
    "hinge": ("hinge", False),
    "ipo": ("ipo", True),
    "sigmoid_norm": ("sigmoid", True),
}
_LOSS_LENGTHS = {"grpo": "response", "dapo": "token", "bnpo": "token", "dr_grpo": "constant"}
_OF_TRL = {"trl_dpo": TRLDPOLoss, "trl_kto": TRLKTOLoss, "trl_grpo": TRLGRPOLoss}
_SCHEDULES = {"linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
_ROWS = {
    "sft": "columns: data.messages_column, or data.prompt_column and data.completion_column; of a conversation every "
    "assistant's turn is trained on (data.turns)",
    "trl_kto": "columns: data.prompt_column, data.completion_column, data.label_column",
    **dict.fromkeys(("grpo", "trl_grpo", "trl_rloo", "ppo"), "column: data.prompt_column"),
}


def _loss(out: Conversion, field: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if len(names) != 1:
        return out.refuse(field, "one loss at a time")
    name = str(names[0])
    if out.method == "grpo":
        if name not in _LOSS_LENGTHS:
            return out.refuse(field, f"one of {', '.join(_LOSS_LENGTHS)}")
        note = "over the update's tokens, TRL's bnpo over a micro-batch's" if name == "bnpo" else ""
        return out.set(field, "method.loss_length", _LOSS_LENGTHS[name], note)
    if out.method in _OF_TRL:
        known = [loss.value for loss in _OF_TRL[out.method]]
        return out.set(field, "method.loss", name) if name in known else out.refuse(field, f"one of {', '.join(known)}")
    if name not in _OUR_DPO:
        return out.refuse(field, f"one of {', '.join(_OUR_DPO)}; --method trl_dpo has more")
    loss, normalised = _OUR_DPO[name]
    note = ""
    if normalised:
        out.keys["method.length_normalised"] = "true"
        note = "method.length_normalised=true, as TRL's is per token"
    out.set(field, "method.loss", loss, note)


def _smoothing(out: Conversion, field: str, value: Any) -> None:
    loss = out.old.get("loss_type") or "sigmoid"
    name = loss[0] if isinstance(loss, list) and loss else loss
    read = ["robust"] if out.method == "dpo" else [loss.value for loss in SMOOTHED]
    if name not in read and number(out, field, 0):
        return out.leave_out(field, f"TRL's loss_type={name} does not read it; {', '.join(read)} do")
    out.set(field, "method.label_smoothing", value)


def _scale(out: Conversion, field: str, value: Any) -> None:
    name = {True: "group", False: "none"}.get(value, value)
    if out.method == "trl_grpo":
        known = [scale.value for scale in TRLScale]
        return out.set(field, "method.scale_rewards", name) if name in known else out.refuse(field, ", ".join(known))
    if name not in ("group", "none"):
        return out.refuse(field, "group or none; --method trl_grpo has batch")
    out.set(field, "method.scale_std", name == "group")


def _correction(out: Conversion, field: str, value: bool) -> None:
    if out.method == "trl_grpo":
        return out.set(field, "method.bias_correction_kl", value)
    out.set(field, "method.kl.estimator", "k3_corrected" if value else "k3")


def _truncated(out: Conversion, field: str, value: bool) -> None:
    note = "a response that is cut is not learned from" if value else "a response that is cut keeps its score"
    out.set(field, "rollout.truncated", "mask" if value else "keep", note)


def _schedule(out: Conversion, field: str, value: str) -> None:
    name = _SCHEDULES.get(str(value))
    if name is None:
        return out.refuse(field, f"one of {', '.join(_SCHEDULES)}")
    out.set(field, "method.lr_schedule", name)


def _adam_beta(out: Conversion, field: str, value: Any) -> None:
    betas = f"[{number(out, 'adam_beta1', 0.9):g},{number(out, 'adam_beta2', 0.999):g}]"
    out.keys["method.adam_betas"] = betas
    out.report(field, f"method.adam_betas={betas}")


def _center(out: Conversion, field: str, value: Any) -> None:
    out.set(field, "reward.source.center_coef", value or 0)


def _template_arguments(out: Conversion, field: str, value: Mapping[str, Any] | None) -> None:
    if not value:
        return out.leave_out(field, "null")
    words = {f"+model.template_arguments.{name}": quoted(given) for name, given in value.items()}
    out.keys |= words
    out.report(field, " ".join(f"{key}={given}" for key, given in words.items()))


def _precision(out: Conversion, field: str, value: bool | None) -> None:
    other = out.old.get({"bf16": "fp16", "fp16": "bf16"}[field])
    if value:
        return out.set(field, "precision", field)
    if other or value is None or field == "fp16":
        return out.leave_out(field, "false" if value is False else "null")
    out.set(field, "precision", "fp32", "TRL computes in bf16 unless this is false")


def _weights(out: Conversion, field: str, value: Any) -> None:
    name = {"bfloat16": "bf16", "float16": "fp16"}.get(str(value))
    if name is None or out.old.get("bf16") or out.old.get("fp16"):
        return out.leave_out(field, "trained weights are fp32; `precision` is that of the computation")
    out.set(field, "precision", name, "of the computation: trained weights are fp32")


def _device(out: Conversion, field: str, value: bool) -> None:
    return out.set(field, "device", "cpu") if value else out.leave_out(field, "false")


def _report_to(out: Conversion, field: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    wanted = [name for name in names if name not in (None, "none")]
    if "wandb" in wanted:
        out.groups["tracking"] = "wandb"
    if "tensorboard" in wanted:
        out.groups["callbacks"] = "[progress,tensorboard]"
    became = [f"{key}={out.groups[key]}" for key in ("tracking", "callbacks") if key in out.groups]
    others = [str(name) for name in wanted if name not in ("wandb", "tensorboard")]
    if others:
        became.append(f"left out: {', '.join(others)}, as align reports to wandb and tensorboard")
    if not wanted:
        out.groups["tracking"] = "none"
        became = ["tracking=none"]
    out.report(field, " ".join(became))


def _positive_or_null(out: Conversion, field: str, value: Any) -> None:
    return out.leave_out(field, "null") if value is None else out.set(field, "checkpoint.keep", value, "the newest")


def _peft(out: Conversion, field: str, value: bool) -> None:
    if value and not {"lora_target_modules", "target_modules"} & out.given.keys():
        note = "on all linear layers, where TRL leaves the choice to peft: adapter.target_modules"
        return out.choose(field, "adapter", "lora", note)
    out.choose(field, "adapter", "lora" if value else "none", "" if value else "every weight is trained")


def _lora(out: Conversion, field: str, value: Any) -> None:
    if not out.old.get("use_peft"):
        return out.leave_out(field, "use_peft is false")
    if value is None:
        return out.leave_out(field, "null")
    if field not in ("lora_target_modules", "target_modules"):
        return out.set(field, "adapter.alpha" if field == "lora_alpha" else "adapter.r", value)
    names = [str(name) for name in value] if isinstance(value, list) else [str(value)]
    if names == ["all-linear"]:
        return out.set(field, "adapter.target_modules", "all-linear")
    if isinstance(value, str):
        return out.set(field, "adapter.target_modules", value)
    if not all(re.fullmatch(r"[\w.]+", name) for name in names):
        return out.refuse(field, "names of modules")
    pattern = f"(.*[.])?({'|'.join(names).replace('.', '[.]')})"  # no backslash, which Hydra would keep doubled
    out.set(field, "adapter.target_modules", pattern, "the same modules, as one regular expression")


def _model(out: Conversion, field: str, value: Any) -> None:
    return out.leave_out(field, "null") if value is None else to_model(out, field, value)


def _revision(out: Conversion, field: str, value: Any) -> None:
    return out.leave_out(field, "the default") if value in (None, "main") else out.set(field, "model.revision", value)


def _template(out: Conversion, field: str, value: Any) -> None:
    if value is None:
        return out.leave_out(field, "null")
    if not str(value).endswith((".jinja", ".j2", ".jinja2")):
        return out.refuse(field, "a Jinja file, for model.chat_template")
    out.set(field, "model.chat_template", value)


def _data(out: Conversion, field: str, value: Any) -> None:
    if out.old.get("datasets"):
        return out.leave_out(field, "TRL reads `datasets` instead")
    return out.leave_out(field, "null") if value is None else _read_from(out, field, value)


def _read_from(out: Conversion, field: str, path: str) -> None:
    to_data(out, field, path, _ROWS.get(out.method, ""))


def _datasets(out: Conversion, field: str, value: Any) -> None:
    """Convert a mixture of one data set; of more, shares of the rows are to be chosen by hand."""
    if not value:
        return out.leave_out(field, "none")
    one = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping) else {}
    names = {"name": "data.subset", "split": "data.train_split", "data_dir": "data.folder"}
    odd = [key for key, given in one.items() if key not in {"path", *names} and given is not None]
    if "path" not in one or odd:
        more = f" ({odd[0]} given)" if odd else "; several are data.mixture.NAME.path=... with data=mixture"
        return out.refuse(field, f"one data set, by path, name, split and data_dir{more}")
    for key, new in names.items():
        if one.get(key) is not None:
            out.keys[new] = quoted(one[key])
    _read_from(out, field, one["path"])


def _test_split(out: Conversion, field: str, value: Any) -> None:
    strategy = out.old.get("eval_strategy", out.old.get("evaluation_strategy"))
    if value is None or strategy in (None, "no", False):
        why = "TRL reads it with an eval_strategy alone; data.held_out_split=NAME evaluates on it"
        return out.leave_out(field, why if value is not None else "null")
    out.set(field, "data.held_out_split", value)


def _reward_model(out: Conversion, field: str, value: Any) -> None:
    if value is None:
        trained = "of a reward model trained on the pairs; reward/source=... chooses another"
        source = "reward_funcs are to be chosen by reward/source" if out.given.get("reward_funcs") else trained
        return out.choose(field, "reward", "sparse", f"one score per response; {source}")
    out.keys |= {"reward.source.path": quoted(value), "reward.source.normalise": "none"}
    out.choose(field, "reward", "sparse", f"reward.source.path={value} reward.source.normalise=none: TRL's raw scores")


def _clip(out: Conversion, field: str, value: Any) -> None:
    if value is None:
        return out.leave_out(field, "null")
    low, high = map(float, value)
    if low != -high:
        return out.refuse(field, "as much below 0 as above: reward.source.clip is one number")
    out.set(field, "reward.source.clip", high)


SPECIAL: Mapping[str, Callable[[Conversion, str, Any], None]] = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), to_batch),
    **dict.fromkeys(("generation_batch_size", "steps_per_generation"), to_rollout),
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), to_warmup),
    **dict.fromkeys(("save_strategy", "save_steps", "eval_strategy", "evaluation_strategy", "eval_steps"), to_event),
    **dict.fromkeys(("bf16", "fp16"), _precision),
    **dict.fromkeys(("dtype", "torch_dtype"), _weights),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _adam_beta),
    **dict.fromkeys(("max_length", "max_seq_length"), length),
    **dict.fromkeys(("lora_r", "r", "lora_alpha", "lora_target_modules", "target_modules"), _lora),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit"), to_quantization),
    "max_steps": to_max_steps,
    "num_train_epochs": to_epochs,
    "lr_scheduler_type": _schedule,
    "loss_type": _loss,
    "label_smoothing": _smoothing,
    "scale_rewards": _scale,
    "use_bias_correction_kl": _correction,
    "mask_truncated_completions": _truncated,
    "center_rewards_coefficient": _center,
    "max_prompt_length": prompt_length,
    "report_to": _report_to,
    "use_cpu": _device,
    "save_total_limit": _positive_or_null,
    "use_peft": _peft,
    "model_name_or_path": _model,
    "model_revision": _revision,
    "chat_template_path": _template,
    "chat_template_kwargs": _template_arguments,
    "dataset_name": _data,
    "datasets": _datasets,
    "dataset_test_split": _test_split,
    "reward_model_name_or_path": _reward_model,
    "reward_clip_range": _clip,
}

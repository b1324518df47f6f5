"""Table of the fields of TRL's and transformers' training configurations, and their counterparts among align's keys.

The messages for unknown keys and `python -m align.convert` both read it. Fields that can be set here are COUNTERPARTS;
those that change what is trained, and are fixed here, FIXED; those that cannot, LEFT_OUT. Imports no torch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

TRAINERS = {  # method -> the class of TRL's whose fields a file for it has; None: TRL has no such trainer any more
    "sft": "SFTConfig",
    "reward_model": "RewardConfig",
    "dpo": "DPOConfig",
    "trl_dpo": "DPOConfig",
    "trl_kto": "KTOConfig",
    "grpo": "GRPOConfig",
    "trl_grpo": "GRPOConfig",
    "trl_rloo": "RLOOConfig",
    "ppo": None,
}
COMMANDS = {"kto": "trl_kto", "rloo": "trl_rloo", "reward": "reward_model"}  # of TRL's command line, where they differ
_DPO, _PAIRS, _KTO, _REWARD = ("dpo", "trl_dpo"), ("sft", "dpo", "trl_dpo"), ("trl_kto",), ("reward_model",)
_OFFLINE = (*_PAIRS, *_KTO, *_REWARD)
_TRL_SAMPLED = ("trl_grpo", "trl_rloo")
_GROUPS = ("grpo", *_TRL_SAMPLED)
_SAMPLED = ("ppo", *_GROUPS)
_POLICY = (*_PAIRS, *_KTO, *_SAMPLED)
_ALL = (*_POLICY, *_REWARD)


class Row(NamedTuple):
    """The counterpart of a field with `methods`: a key or a group of align's, its unit, and what of TRL's it equals."""

    key: str
    methods: tuple[str, ...] = _ALL
    unit: str = ""
    equals: str = ""  # "" = the field alone


_BATCH = "per_device_train_batch_size times gradient_accumulation_steps"
_BATCH_ROWS = (
    Row("method.batch_size", _PAIRS, "pairs per update", _BATCH),
    Row("method.batch_size", _KTO, "pairs per update", f"{_BATCH} by 2, as a pair is two of TRL's rows"),
    Row("method.minibatch_size", _SAMPLED, "responses per update", _BATCH),
    Row("reward.source.batch_size", _REWARD, "pairs per update", _BATCH),
)
_ROLLOUT_ROWS = (
    Row(
        "rollout.batch_size",
        _SAMPLED,
        "responses per rollout",
        "per_device_train_batch_size times steps_per_generation",
    ),
)
_LENGTH_ROWS = (Row("data.max_response_tokens", _OFFLINE, "the prompt's own: data.max_prompt_tokens"),)
_KEPT = (Row("model.gradient_checkpointing"),)
_WARMUP = (Row("method.warmup_steps", _POLICY, "updates"),)
_EVALUATED = (Row("evaluation.every_steps", unit="updates, 0 = before and after only"),)
_SAVED = (Row("checkpoint.every_steps", unit="updates, 0 = at the end only"),)
_PRECISION = (Row("precision", unit="fp32, bf16, fp16"),)
_WEIGHTS = (Row("precision", unit="of the computation; trained weights are fp32"),)
_QUANTIZED = (Row("quantization", unit="int8, nf4; needs adapter=lora"),)

COUNTERPARTS: Mapping[str, tuple[Row, ...]] = {
    # the run
    "output_dir": (Row("hydra.run.dir"),),
    "seed": (Row("seed", _POLICY), Row("reward.source.seed", _REWARD)),
    "max_steps": (Row("max_steps", _POLICY, "updates"),),
    "num_train_epochs": (
        Row("max_steps", _POLICY, "updates", "num_train_epochs times the rows by the batch"),
        Row("reward.source.epochs", _REWARD),
    ),
    "report_to": (Row("tracking", unit="none, wandb; callbacks=[tensorboard] too"),),
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "dtype": _WEIGHTS,
    "torch_dtype": _WEIGHTS,
    "use_cpu": (Row("device", unit="auto, cpu, cuda, mps"),),
    "save_strategy": _SAVED,
    "save_steps": _SAVED,
    "save_total_limit": (Row("checkpoint.keep", unit="checkpoints"),),
    "eval_strategy": _EVALUATED,
    "evaluation_strategy": _EVALUATED,
    "eval_steps": _EVALUATED,
    "per_device_eval_batch_size": (Row("evaluation.batch_size", unit="sequences"),),
    # the optimizer
    "learning_rate": (Row("method.learning_rate", _POLICY), Row("reward.source.learning_rate", _REWARD)),
    "lr_scheduler_type": (Row("method.lr_schedule", _POLICY, "linear, constant"),),
    "warmup_steps": _WARMUP,
    "warmup_ratio": (Row("method.warmup_steps", _POLICY, "updates", "warmup_ratio times max_steps"),),
    "weight_decay": (Row("method.weight_decay", _POLICY),),
    "adam_beta1": (Row("method.adam_betas", _POLICY, "[adam_beta1,adam_beta2]"),),
    "adam_beta2": (Row("method.adam_betas", _POLICY, "[adam_beta1,adam_beta2]"),),
    "adam_epsilon": (Row("method.adam_eps", _POLICY),),
    "max_grad_norm": (Row("method.max_grad_norm", _POLICY),),
    "per_device_train_batch_size": _BATCH_ROWS,
    "gradient_accumulation_steps": _BATCH_ROWS,
    "generation_batch_size": (Row("rollout.batch_size", _SAMPLED, "responses per rollout"),),
    "steps_per_generation": _ROLLOUT_ROWS,
    "gradient_checkpointing": _KEPT,
    "activation_checkpointing": _KEPT,
    # the methods
    "beta": (Row("method.beta", (*_DPO, *_KTO, *_TRL_SAMPLED)), Row("method.kl.coef", ("grpo",))),
    "loss_type": (
        Row("method.loss", _DPO, "ipo and sigmoid_norm of method=dpo need method.length_normalised=true"),
        Row("method.loss", (*_KTO, "trl_grpo")),
        Row("method.loss_length", ("grpo",), "response = grpo, token = dapo and bnpo, constant = dr_grpo"),
    ),
    "label_smoothing": (Row("method.label_smoothing", _DPO),),
    "desirable_weight": (Row("method.desirable_weight", _KTO),),
    "undesirable_weight": (Row("method.undesirable_weight", _KTO),),
    "center_rewards_coefficient": (Row("reward.source.center_coef", _REWARD),),
    "num_generations": (Row("method.group_size", _GROUPS, "responses to each prompt"),),
    "num_iterations": (Row("method.epochs", ("grpo", "ppo"), "passes over each rollout"),),
    "epsilon": (Row("method.clip_range", _SAMPLED),),
    "epsilon_high": (Row("method.clip_high", ("grpo",)),),
    "importance_sampling_level": (Row("method.ratio", ("grpo",), "token, sequence"),),
    "scale_rewards": (
        Row("method.scale_std", ("grpo",), "true, false"),
        Row("method.scale_rewards", ("trl_grpo",), "group, batch, none"),
    ),
    "use_bias_correction_kl": (
        Row("method.kl.estimator", ("grpo",), "k3_corrected = true, k3 = false"),
        Row("method.bias_correction_kl", ("trl_grpo",)),
    ),
    "normalize_advantages": (Row("method.normalize_advantages", ("trl_rloo",)),),
    "mask_truncated_completions": (
        Row("rollout.truncated", _SAMPLED, "mask = true, keep = false; penalise: paid rollout.truncated_score"),
    ),
    "temperature": (Row("rollout.temperature", _SAMPLED),),
    "reward_model_name_or_path": (Row("reward.source.path", _SAMPLED),),
    "reward_clip_range": (Row("reward.source.clip", _SAMPLED, "one number, on both sides of 0"),),
    # lengths
    "max_length": _LENGTH_ROWS,
    "max_seq_length": _LENGTH_ROWS,
    "max_prompt_length": (Row("data.max_prompt_tokens"),),
    "max_completion_length": (Row("rollout.max_new_tokens", _SAMPLED), *_LENGTH_ROWS),
    # the model
    "model_name_or_path": (Row("model.path", unit="with model=local, or model=NAME"),),
    "model_revision": (Row("model.revision"),),
    "model_init_kwargs": (Row("model", unit="its keys one by one"),),
    "attn_implementation": (Row("model.attn_implementation"),),
    "trust_remote_code": (Row("model.trust_remote_code"),),
    "chat_template_path": (Row("model.chat_template", unit="a Jinja file"),),
    "chat_template_kwargs": (Row("model.template_arguments", unit="its keys one by one"),),
    "use_peft": (Row("adapter", unit="none, lora"),),
    "r": (Row("adapter.r", unit="with adapter=lora"),),
    "lora_r": (Row("adapter.r", unit="with adapter=lora"),),
    "lora_alpha": (Row("adapter.alpha", unit="with adapter=lora"),),
    "lora_target_modules": (Row("adapter.target_modules", unit="all-linear, or one regular expression"),),
    "target_modules": (Row("adapter.target_modules", unit="all-linear, or one regular expression"),),
    "load_in_8bit": _QUANTIZED,
    "load_in_4bit": _QUANTIZED,
    # the data
    "dataset_name": (Row("data.path", unit="with data=hub, jsonl, csv or parquet, or data=NAME"),),
    "dataset_config": (Row("data.subset", unit="with data=hub"),),
    "dataset_train_split": (Row("data.train_split"),),
    "dataset_test_split": (Row("data.held_out_split"),),
    "datasets": (Row("data.path", unit="one data set; data=mixture takes several"),),
    "test_split_size": (Row("data.held_out_fraction"),),
}


_ONE_MILLIONTH = dict.fromkeys((*_DPO, *_KTO, *_GROUPS), 1e-6)
DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # field -> method -> TRL's value
    "learning_rate": _ONE_MILLIONTH | {"sft": 2e-5, "reward_model": 1e-4},
    "lr_scheduler_type": dict.fromkeys((*_PAIRS, *_KTO, *_GROUPS), "linear"),
    "adam_epsilon": dict.fromkeys((*_PAIRS, *_KTO, *_GROUPS), 1e-8),
    "warmup_steps": {"reward_model": 0},
    "per_device_train_batch_size": dict.fromkeys((*_OFFLINE, *_GROUPS), 8),
    "num_train_epochs": dict.fromkeys((*_OFFLINE, *_GROUPS), 3.0),
    "center_rewards_coefficient": {"reward_model": None},
    "num_generations": {"trl_rloo": 2},
    "max_length": dict.fromkeys(_OFFLINE, 1024),
    "max_completion_length": dict.fromkeys(_GROUPS, 512),
    "beta": {"grpo": 0.0, "trl_grpo": 0.0},
    "loss_type": {"grpo": "dapo"},
    "use_bias_correction_kl": {"grpo": True},
    "mask_truncated_completions": dict.fromkeys(_GROUPS, False),
    "reward_model_name_or_path": dict.fromkeys(_GROUPS),
    "use_peft": dict.fromkeys((*_OFFLINE, *_GROUPS), False),
}

OLDER_NAMES: Mapping[str, str] = {"max_seq_length": "max_length"}  # of a field of today's

# Fields, and values of loss_type, of one trainer alone: what tells the method of a file that does not name it.
MARKS: Mapping[str, str] = {
    **dict.fromkeys(("packing", "packing_strategy", "completion_only_loss", "assistant_only_loss"), "sft"),
    **dict.fromkeys(("dataset_text_field", "eval_packing"), "sft"),
    "center_rewards_coefficient": "reward_model",
    **dict.fromkeys(("label_smoothing", "loss_weights", "ld_alpha", "f_divergence_type", "use_weighting"), "dpo"),
    **dict.fromkeys(("desirable_weight", "undesirable_weight"), "trl_kto"),
    **dict.fromkeys(("normalize_advantages", "reward_clip_range"), "trl_rloo"),
    **dict.fromkeys(("scale_rewards", "importance_sampling_level", "delta", "use_bias_correction_kl"), "grpo"),
    **dict.fromkeys(("top_entropy_quantile", "entropy_coef", "vllm_importance_sampling_correction"), "grpo"),
}
LOSS_MARKS: Mapping[str, str] = {
    **dict.fromkeys(("nll", "dft"), "sft"),
    **dict.fromkeys(("sigmoid", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "apo_down", "sigmoid_norm"), "dpo"),
    **dict.fromkeys(("kto", "apo_zero_unpaired"), "trl_kto"),
    **dict.fromkeys(("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"), "grpo"),
}

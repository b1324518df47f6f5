"""Table of the fields of TRL's and transformers' training configurations that no key of align's sets, and why.

The other half of `trl_fields.py`. Imports no torch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Fixed(NamedTuple):
    """A field that changes what is trained: the values under which TRL does as align does, and what align does."""

    same: tuple[Any, ...]
    why: str


_OFF, _NONE = (False,), (None,)
_FEW: tuple[Any, ...] = (None, "", {}, [])
_SAMPLING = "responses are sampled by temperature alone, as top-k or top-p would bias the KL estimate"
_LORA = "LoRA of rank adapter.r, scaled by adapter.alpha / adapter.r, on the modules of adapter.target_modules"
_RULES = "the loss is the method's own"
_REFERENCE = "the reference is the start model throughout"
_REWARD = "reward models train with AdamW, 5% of the updates as warm-up, then linearly to 0, over reward.source.epochs"
_DATA = "rows are read by their columns: data.prompt_column, data.messages_column, data.completion_column and others"

FIXED: Mapping[str, Fixed] = {
    # the optimizer; the first six with reward_model, the rest with every method
    "max_steps": Fixed((-1, 0, None), _REWARD),
    "lr_scheduler_type": Fixed(("linear",), _REWARD),
    "warmup_steps": Fixed((), _REWARD),
    "warmup_ratio": Fixed((0.05,), _REWARD),
    "weight_decay": Fixed((0.0,), _REWARD),
    "max_grad_norm": Fixed((1.0,), _REWARD),
    "adam_beta1": Fixed((0.9,), _REWARD),
    "adam_beta2": Fixed((0.999,), _REWARD),
    "adam_epsilon": Fixed((1e-8,), _REWARD),
    "lr_scheduler_kwargs": Fixed(_FEW, "method.lr_schedule has no options"),
    "optim": Fixed(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "the optimizer is AdamW"),
    "optim_args": Fixed(_FEW, "the optimizer is AdamW, with method.adam_betas and method.adam_eps"),
    "optim_target_modules": Fixed(_FEW, "the optimizer is AdamW"),
    "label_smoothing_factor": Fixed((0.0,), _RULES),
    "neftune_noise_alpha": Fixed((None, 0), "embeddings get no noise"),
    "router_aux_loss_coef": Fixed((None, 0.0), _RULES),
    "train_sampling_strategy": Fixed(("random", "sequential"), "pairs come in an order that the seed decides"),
    "group_by_length": Fixed(_OFF, "pairs come in an order that the seed decides"),
    # the end of the run
    "load_best_model_at_end": Fixed(
        _OFF, "the last model is the result; callbacks=[retention] keeps the best checkpoint"
    ),
    "resume_from_checkpoint": Fixed(
        (None, False), "resume=RUN_DIR goes on with a run of align's, not with TRL's pickles"
    ),
    # the loss
    "loss_type": Fixed(("nll", "sigmoid_norm"), _RULES),
    "loss_weights": Fixed((None, [1.0]), "one loss at a time"),
    "rpo_alpha": Fixed(_NONE, "one loss at a time"),
    "reference_free": Fixed(_OFF, "method.reference_free, of method=dpo, is set by hand"),
    "ld_alpha": Fixed((None, 1.0), _RULES),
    "f_divergence_type": Fixed(("reverse_kl",), "the divergence is the reverse KL"),
    "use_weighting": Fixed(_OFF, "pairs count the same"),
    "discopop_tau": Fixed((0.05,), "TRL's default"),
    "completion_only_loss": Fixed((None, True), "the loss is of the chosen response alone"),
    "sync_ref_model": Fixed(_OFF, _REFERENCE),
    "num_iterations": Fixed((1,), "method=trl_grpo and trl_rloo pass over each rollout once; grpo has method.epochs"),
    "epsilon_high": Fixed(_NONE, "method.clip_range is for both sides; grpo has method.clip_high"),
    "importance_sampling_level": Fixed(("token",), "the ratio is a token's; grpo has method.ratio"),
    "delta": Fixed(_NONE, "the ratio is clipped on method.clip_range alone"),
    "top_entropy_quantile": Fixed((1.0,), "every token counts"),
    "entropy_coef": Fixed((0.0,), "there is no entropy bonus"),
    "use_adaptive_entropy": Fixed(_OFF, "there is no entropy bonus"),
    "off_policy_mask_threshold": Fixed(_NONE, "every response counts"),
    "cast_lm_head_to_fp32": Fixed(_OFF, "the head computes in `precision`"),
    # rewards and sampling
    "reward_funcs": Fixed(_FEW, "reward/source=function reward.source.path=FILE.py:NAME as it is, or =rules"),
    "reward_weights": Fixed((None, [1.0]), "reward/source=composite reward.source.weights.NAME=1"),
    "top_p": Fixed((1.0, None), _SAMPLING),
    "top_k": Fixed((0, None), _SAMPLING),
    "min_p": Fixed((None, 0.0), _SAMPLING),
    "repetition_penalty": Fixed((1.0, None), _SAMPLING),
    "generation_kwargs": Fixed(_FEW, _SAMPLING),
    "vllm_structured_outputs_regex": Fixed(_NONE, _SAMPLING),
    "max_tool_calling_iterations": Fixed(_NONE, "responses call no tools"),
    # data
    "packing": Fixed(
        _OFF,
        "a row is one pair: TRL packs several into max_length tokens, so method.batch_size, in pairs, "
        "is to be chosen by hand",
    ),
    "dataset_text_field": Fixed(("text",), _DATA),
    "dataset_kwargs": Fixed(_FEW, _DATA),
    "truncation_mode": Fixed(("keep_start",), "responses keep their first data.max_response_tokens tokens"),
    "eos_token": Fixed(_NONE, "the tokenizer's own"),
    "pad_token": Fixed(_NONE, "the tokenizer's own"),
    # adapters
    "use_rslora": Fixed(_OFF, _LORA),
    "use_dora": Fixed(_OFF, _LORA),
    "bias": Fixed(("none",), _LORA),
    "modules_to_save": Fixed(_FEW, _LORA),
    "lora_modules_to_save": Fixed(_FEW, _LORA),
    "lora_target_parameters": Fixed(_FEW, _LORA),
    "init_lora_weights": Fixed((True,), _LORA),
    "bnb_4bit_quant_type": Fixed(("nf4",), "quantization=nf4 is the one type of 4 bits"),
}

# Fields that change no result, or only how it is logged, stored or computed: reason -> names.
LEFT_OUT: Mapping[str, str] = {
    "every update is recorded, in log_history.jsonl": """
        logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node log_level logging_dir
        log_level_replica include_num_input_tokens_seen disable_tqdm run_name project trackio_space_id
        trackio_bucket_id trackio_static_space_id debug skip_memory_metrics log_completions log_multimodal
        num_completions_to_print log_unique_prompts""",
    "align uploads nothing": """
        push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
        log_completions_hub_repo""",
    "align runs on one device, which `device` chooses": """
        average_tokens_across_devices accelerator_config parallelism_config ddp_find_unused_parameters
        ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed
        local_rank ds3_gather_for_generation ignore_bias_buffers tf32 no_cuda""",
    "align chooses what saves memory and time, by model and device; the numbers are the same": """
        activation_checkpointing_kwargs gradient_checkpointing_kwargs activation_offloading torch_compile
        torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache
        torch_empty_cache_steps auto_find_batch_size padding_free pad_to_multiple_of precompute_ref_log_probs
        precompute_ref_batch_size cache_implementation bnb_4bit_quant_storage low_cpu_mem_usage""",
    "align samples itself": """
        use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_server_base_url vllm_server_host
        vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length
        vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap
        use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged""",
    "the evaluation is the same for every method, before and after": """
        eval_delay prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
        eval_accumulation_steps include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval
        num_generations_eval generate_during_eval do_eval do_predict""",
    "a run's folder holds its checkpoints whole, and align resume=RUN_DIR reads them": """
        save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip save_safetensors do_train
        restore_callback_states_from_checkpoint overwrite_output_dir""",
    "data are read whole, in this process, in an order that the seed decides": """
        dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns
        label_names length_column_name data_seed full_determinism dataset_num_proc shuffle_dataset dataset_streaming
        streaming""",
    "no model has dropout, or PPO's ratio would not be 1 on the first update": "disable_dropout lora_dropout",
    "the loss is of the chosen response alone": "assistant_only_loss",
    "quantization=nf4 nests its constants always": "use_bnb_nested_quant",
    "the method decides it": "lora_task_type task_type",
    "the shell's": "env",
    "felt with load_best_model_at_end alone": "metric_for_best_model greater_is_better",
    "felt with sync_ref_model alone": "ref_model_mixup_alpha ref_model_sync_steps",
    "felt with packing alone": "packing_strategy eval_packing",
    "felt with another f_divergence_type alone": "f_alpha_divergence_coef",
    "felt with several reward functions alone": "multi_objective_aggregation",
    "felt with use_adaptive_entropy alone": "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target",
    "felt with loss_type=sapo or vespo alone": """
        sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg""",
}
WHY_LEFT_OUT = {name: why for why, names in LEFT_OUT.items() for name in names.split()}

# Names of earlier versions of TRL and transformers, and of a configuration file beside its fields.
EARLIER = frozenset({
    "warmup_ratio", "max_prompt_length", "max_seq_length", "torch_dtype", "evaluation_strategy", "group_by_length",
    "rpo_alpha", "reference_free", "logging_dir", "overwrite_output_dir", "save_safetensors", "no_cuda",
    "generate_during_eval",
})  # fmt: skip
BESIDE = frozenset({"env", "low_cpu_mem_usage"})  # the environment of TRL's command line; of model_init_kwargs

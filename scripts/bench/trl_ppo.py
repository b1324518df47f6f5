"""TRL's last PPO (1.12) as a side of against_trl.py, in an environment of its own (--trl-python).

    python3 -m venv DIR && DIR/bin/pip install torch==2.13.0 trl==1.12.0 peft
    python scripts/bench/against_trl.py --method ppo --precision bf16 --trl-python DIR/bin/python

Its accelerator puts the update alone under autocast; with `autocast` in the setting all of training stands under it:
generation, the reference, the critic's and the reward model's passes too. The weights that autocast has cast are let go
after every step, as they are new then: it does so by itself only where its outermost block ends.

With LoRA the policy has adapters as TRL makes them; the critic is a second model with adapters, the reward model a
third one (`peft_config` is the policy's alone, and a critic whose every weight is trained would be slower).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from sides import BETA, DTYPES, LEARNING_RATE, Turns
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


def lora(task: str) -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type=task)


def classifier(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=1, dtype=dtype, attn_implementation=args.attention
    )
    model.config.pad_token_id = AutoTokenizer.from_pretrained(args.model).pad_token_id
    return model


def trainer(args: argparse.Namespace, turns: Turns) -> PPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    stored = getattr(torch, DTYPES[args.base])  # of what is frozen
    causal = {"attn_implementation": args.attention}
    micro = args.micro_rows or args.rows
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(), total_episodes=args.steps * args.rows, learning_rate=LEARNING_RATE, kl_coef=BETA,
        per_device_train_batch_size=micro, gradient_accumulation_steps=args.rows // micro, num_mini_batches=1,
        num_ppo_epochs=1, local_rollout_forward_batch_size=args.rows, response_length=args.new_tokens, stop_token="eos",
        temperature=1.0, num_sample_generations=0, optim="adamw_torch_fused", bf16=args.precision == "bf16",
        fp16=args.precision == "fp16", use_cpu=args.device == "cpu", report_to="none", save_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False, gradient_checkpointing=False,
    )  # fmt: skip
    adapters = args.adapter == "lora"
    critic = classifier(args, stored if adapters else torch.float32)
    if adapters:
        critic = inject_adapter_in_model(lora("SEQ_CLS"), critic)
        for name, parameter in critic.named_parameters():
            if "lora_" in name or "score" in name:
                parameter.data, parameter.requires_grad = parameter.data.float(), True
    policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=stored if adapters else torch.float32, **causal)
    reference = None if adapters else AutoModelForCausalLM.from_pretrained(args.model, dtype=stored, **causal)
    rows = [{"input_ids": ids} for ids in json.loads(Path(args.prompts).read_text())]
    data, first = Dataset.from_list(rows), Dataset.from_list(rows[:1])
    peft = lora("CAUSAL_LM") if adapters else None
    made = PPOTrainer(
        args=settings, processing_class=tokenizer, model=policy, ref_model=reference, value_model=critic,
        reward_model=classifier(args, stored), train_dataset=data, eval_dataset=first, peft_config=peft,
    )  # fmt: skip

    ended: list[int] = []  # end tokens among the sampled ones, by step

    class Report(TrainerCallback):
        def on_log(self, _a: Any, _s: Any, _c: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            ended.extend([int(logs["val/num_eos_tokens"])] if logs and "val/num_eos_tokens" in logs else [])

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.clear_autocast_cache()
            turns.step(before=0.0, tokens=args.new_tokens if ended[-1] == 0 else None)

    made.add_callback(Report())
    return made


def main() -> None:
    args = argparse.Namespace(**json.loads(sys.argv[1]))
    turns = Turns(args.device)
    made = trainer(args, turns)
    around = (
        torch.autocast(args.device, getattr(torch, DTYPES[args.precision]))
        if args.autocast
        else contextlib.nullcontext()
    )
    with around:
        made.train()


if __name__ == "__main__":
    main()

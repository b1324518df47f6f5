"""TRL's trainers that sample from the policy: GRPO and RLOO, paid by the run's reward source."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import trl

from align.algorithms.trl.method import TRLMethod
from align.algorithms.trl.reward import PLACE, reward_function
from align.config.trl import TRLGRPOConfig, TRLOnPolicyConfig, TRLRLOOConfig
from align.errors import InputError


class TRLOnPolicy(TRLMethod):
    method: TRLOnPolicyConfig

    def rows(self) -> list[dict[str, Any]]:
        """Prompts as messages, which TRL renders with the same template; refused where it reads other tokens.

        Repeated where a rollout needs more prompts than there are, as TRL drops rollouts that it cannot fill.
        """
        tokenizer, prompts = self.tokenizer(), self.run.prompts
        rows = []
        for i, prompt in enumerate(prompts):
            messages = [{"role": m["role"], "content": m["content"]} for m in prompt.messages]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            if list(ids) != list(prompt.input_ids):
                allowed = f"drop or error with {self.method.name}: TRL renders prompt {prompt.id} to other tokens"
                raise InputError("data.long_prompts", self.config.data.long_prompts.value, allowed)
            rows.append({"prompt": messages, PLACE: i})
        needed = self.config.rollout.batch_size // self.method.group_size
        return rows * math.ceil(needed / len(rows))

    def place(self, step: int) -> dict[str, int]:
        rollout, update = divmod(step - 1, self._updates_per_rollout)
        return {"rollout": rollout, "update": update + 1}

    def settled(self, step: int) -> bool:
        return step % self._updates_per_rollout == 0

    @property
    def _updates_per_rollout(self) -> int:
        return self.config.rollout.batch_size // self.method.minibatch_size

    def sampled_arguments(self, scratch: Path) -> dict[str, Any]:
        rollout, method = self.config.rollout, self.method
        rows = method.micro_batch_size or method.minibatch_size
        return self.arguments(scratch, rows=rows, update=method.minibatch_size) | {
            "num_generations": method.group_size,
            "generation_batch_size": rollout.batch_size,
            "max_completion_length": rollout.max_new_tokens,
            "temperature": rollout.temperature,
            "epsilon": method.clip_range,
        }

    def common(self, scratch: Path) -> dict[str, Any]:
        policy = self.run.roles.policy
        if policy.separate and self.method.beta:
            # TRL loads the reference from the path in the model's configuration, whatever was loaded from there.
            start = scratch / "start"
            self.run.roles.reference.model.save_pretrained(start)
            policy.model.config._name_or_path = str(start)
        return {
            "model": policy.whole,
            "reward_funcs": [reward_function(self.run, self.method.missing_eos_penalty, self.records.rollout)],
            "train_dataset": self.data,
            "processing_class": self.tokenizer(),
        }


class TRLGRPO(TRLOnPolicy):
    """Group-relative policy optimisation (arXiv 2402.03300), KL in the loss."""

    method: TRLGRPOConfig

    def build(self, scratch: Path) -> Any:
        arguments = trl.GRPOConfig(
            **self.sampled_arguments(scratch),
            loss_type=self.method.loss.value,
            scale_rewards=self.method.scale_rewards.value,
            use_bias_correction_kl=self.method.bias_correction_kl,
        )
        return trl.GRPOTrainer(args=arguments, **self.common(scratch))


class TRLRLOO(TRLOnPolicy):
    """REINFORCE with a leave-one-out baseline (arXiv 2402.14740), KL in the reward, whole responses as actions."""

    method: TRLRLOOConfig

    def build(self, scratch: Path) -> Any:
        arguments = trl.RLOOConfig(
            **self.sampled_arguments(scratch), normalize_advantages=self.method.normalize_advantages
        )
        return trl.RLOOTrainer(args=arguments, **self.common(scratch))

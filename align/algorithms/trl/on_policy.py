"""TRL's trainers that sample from the policy: GRPO and RLOO, paid by the run's reward source."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl

from align.algorithms.counted import counted_rows
from align.algorithms.rollout_metrics import add_gold, add_rewards, describe
from align.algorithms.trl.method import TRLMethod
from align.config import Truncated
from align.config.trl import TRLGRPOConfig, TRLOnPolicyConfig, TRLRLOOConfig
from align.data.collate import collate
from align.errors import InputError, RunError
from align.functional.credit import replace_truncated
from align.loop.context import RunContext
from align.rewards import reward_input
from align.types import SCORED, Prompt, Rollout, TrainerState

PLACE = "place"  # the data set's column with a prompt's index in the run's prompts


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
            "max_completion_length": rollout.new_tokens,
            "temperature": rollout.temperature,
            "epsilon": method.clip_range,
            "mask_truncated_completions": rollout.truncated is Truncated.mask,
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
            "reward_funcs": [self.align_reward],
            "train_dataset": self.data,
            "processing_class": self.tokenizer(),
        }

    def align_reward(
        self, *, completion_ids: Sequence[Sequence[int]], trainer_state: Any, **columns: Any
    ) -> list[float | None]:
        """The run's reward of each completion, under a name that TRL's metrics carry; None where there is none.

        Raises:
            RunError: A score is not finite; TRL would leave the completion out without a word.
        """
        run, penalty, tally = self.run, self.config.rollout.truncation_score, self.records.rollout
        prompts = [run.prompts[i] for i in columns[PLACE]]
        rollout = as_rollout(run, prompts, completion_ids)
        state = TrainerState(trainer_state.global_step, trainer_state.max_steps)
        batch = reward_input(rollout, prompts, run.chat, state)
        run.activity.advance("rewards", 0, len(rollout))
        output = run.source.score(batch, run.credit.needs)
        rewards = run.credit.assign(output, rollout.response_mask)
        rewards = replace_truncated(rewards, rollout.response_mask, rollout.ended, penalty)
        if not bool(torch.isfinite(rewards).all()):
            raise RunError(f"a reward was not finite after step {trainer_state.global_step}")
        add_rewards(tally, output, rollout, penalty is not None)  # before any penalty
        if run.world is not None:
            add_gold(tally, run.world, batch)
        run.callbacks.on_rollout(trainer_state.global_step + 1, describe(batch, output, rewards))
        scored = counted_rows(output, rollout, self.config.rollout).get(SCORED)
        paid: list[float | None] = rewards.sum(1).tolist()
        return paid if scored is None else [x if s else None for x, s in zip(paid, scored.tolist(), strict=True)]


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


def as_rollout(run: RunContext, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> Rollout:
    """TRL's completions as what our sources score; `sample_index` counts the completions to the same prompt."""
    rows = [(p.input_ids, ids) for p, ids in zip(prompts, completions, strict=True)]
    device = run.roles.policy.device
    sequences = collate(rows, run.chat.pad_id, device)
    seen: Counter[int] = Counter()
    index = []
    for prompt in prompts:
        index.append(seen[prompt.id])
        seen[prompt.id] += 1
    return Rollout(
        **sequences.tensors(),
        ended=torch.tensor([ids[-1] in run.chat.end_ids for ids in completions], device=device),
        prompt_index=torch.tensor([p.id for p in prompts], device=device),
        sample_index=torch.tensor(index, device=device),
        sampling_logprobs=torch.zeros(sequences.response_ids.shape, device=device),  # TRL does not keep them
    )

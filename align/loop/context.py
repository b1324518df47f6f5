"""What a training loop and a method work with: everything that a run has made ready, and nothing that a method owns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from accelerate import Accelerator

from align.activity import Activity
from align.callbacks.base import CallbackList
from align.config import Config, LoopConfig
from align.engine.budget import micro_batch_tokens
from align.engine.reference import Policy, ValueHead
from align.engine.roles import Roles
from align.engine.sampling import Noise, sample_as_configured
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import Credit, Source
from align.types import Completion, Pair, Prompt, Rollout
from align.worlds import World


@dataclass(frozen=True, kw_only=True)
class LoopContext:
    """Surroundings of one training: of a run's method, or of a model that is trained once and stored."""

    config: Config  # whose `method` has the loop's options
    folder: Path  # of checkpoints and records
    accelerator: Accelerator
    modules: Mapping[str, Policy | ValueHead]  # that can be trained, by role
    reference: Policy | None = None  # the start model, frozen
    chat: ChatTokenizer
    pairs: Sequence[Pair] = ()  # training pairs, in the data set's order
    demonstrations: Sequence[Completion] = ()
    labelled: Sequence[Completion] = ()  # completions with their labels, where the data have some
    callbacks: CallbackList
    activity: Activity = field(default_factory=Activity)  # hears how far an update, a rollout or a pass has come
    evaluate: Callable[[int], None] = lambda step: None  # measure the policy after `step` updates, and report it

    @cached_property
    def micro_batch_tokens(self) -> int:
        """Padded tokens of one forward and backward pass: as configured, else by the size of the first module."""
        method = self.config.method
        given = method.micro_batch_tokens if isinstance(method, LoopConfig) else None
        return micro_batch_tokens(next(iter(self.modules.values())).model_config, given)


@dataclass(frozen=True, kw_only=True)
class RunContext(LoopContext):
    """Surroundings of a run's method."""

    roles: Roles
    prompts: Sequence[Prompt]  # training prompts, in the data set's order
    source: Source
    credit: Credit
    held_out: Sequence[Pair] = ()  # pairs that nothing is trained on
    reward_folder: Path | None = None  # of the stored reward model, where the reward comes from one
    world: World | None = None  # whose gold reward of the run's prompts is known; nothing learns from it here

    def sample(self, prompts: Sequence[Prompt], noise: Noise, samples_per_prompt: int = 1) -> Rollout:
        """Sample responses from the policy as it is, under the run's settings of a rollout."""
        settings, policy = self.config.rollout, self.roles.policy
        return sample_as_configured(
            settings, policy, self.chat, prompts, noise, samples_per_prompt, activity=self.activity
        )


def modules_of(roles: Roles) -> dict[str, Policy | ValueHead]:
    """The roles of a run that a method may train, by name."""
    critic = {} if roles.critic is None else {"critic": roles.critic}
    return {"policy": roles.policy, **critic}

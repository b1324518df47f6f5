"""TRL's own trainers (1.16) under this harness: same data, tokens, reward, evaluation and run folder.

The loop, the sampling, the optimizer and the losses are TRL's, so that a method of ours can be compared with the same
method of theirs. Only final weights are kept: TRL's checkpoints hold pickles.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback

from align.algorithms.trl.models import lent, own_forward
from align.algorithms.trl.records import Records
from align.config import LRSchedule
from align.config.trl import TRLConfig
from align.loop.context import RunContext
from align.loop.method import Method
from align.models.chat_setup import with_pad

_AT_ONCE = 1000  # rows
_REFERENCE = "ref"  # the adapter that TRL adds to a PEFT model, as it was given


class TRLMethod(Method):
    """The adapter: a subclass names TRL's trainer, its data and its options."""

    method: TRLConfig

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        assert isinstance(run.config.method, TRLConfig)
        self.method = run.config.method
        self.records = Records(run, self.place, self.settled)
        self.data = _data_set(self.rows())

    @property
    def step(self) -> int:
        return self.records.step

    @abstractmethod
    def rows(self) -> Iterable[dict[str, Any]]:
        """The training data as TRL's trainer takes it."""

    @abstractmethod
    def place(self, step: int) -> dict[str, int]:
        """`rollout` and `update` of the step's record."""

    def settled(self, step: int) -> bool:
        """Whether the updates up to `step` have used all tokens that TRL has counted."""
        return True

    @abstractmethod
    def build(self, scratch: Path) -> Any:
        """TRL's trainer; `scratch` is a folder that is removed after training."""

    def train(self) -> None:
        roles = self.run.roles
        whole = roles.policy.whole
        with ExitStack() as stack:
            for model in {id(m): m for m in (roles.policy.model, roles.reference.model)}.values():
                stack.enter_context(lent(model, self.run.chat.end_ids))
            stack.enter_context(own_forward(whole))
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="align-trl-")))
            trainer = self.build(scratch)
            for parameter in roles.policy.trained_parameters().values():
                parameter.data = parameter.data.float()  # TRL puts adapters on a quantized base into bf16
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(self.records)
            trainer.compute_loss = partial(self.records.heard, trainer.compute_loss)
            trainer.train()
        whole.eval()
        if _REFERENCE in getattr(whole, "peft_config", {}):
            whole.delete_adapter(_REFERENCE)
        with roles.policy.active():  # the adapters switched as our roles expect them
            self.stopped = self.records.stopped

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """For TRL, which pads with EOS where a tokenizer has no pad token of its own."""
        return with_pad(self.run.chat)

    def arguments(self, scratch: Path, *, rows: int, update: int) -> dict[str, Any]:
        """What all of TRL's configurations share. `rows` per forward and backward, `update` per optimizer step."""
        method, config, policy = self.method, self.config, self.run.roles.policy
        schedule = "linear" if method.lr_schedule is LRSchedule.linear else "constant_with_warmup"
        return {
            "output_dir": str(scratch),
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": update // rows,
            "max_steps": config.max_steps,
            "learning_rate": method.rate,
            "lr_scheduler_type": schedule,
            "warmup_steps": method.warmup_steps,
            "adam_beta1": method.adam_betas[0],
            "adam_beta2": method.adam_betas[1],
            "adam_epsilon": method.adam_eps,
            "weight_decay": method.weight_decay,
            "max_grad_norm": method.max_grad_norm,
            "beta": method.beta,
            "seed": config.seed,
            "bf16": policy.dtype is torch.bfloat16,
            "fp16": policy.dtype is torch.float16,
            "use_cpu": policy.device.type == "cpu",
            "gradient_checkpointing": None,  # the old name, which TRL sets and transformers warns of
            "activation_checkpointing": config.model.gradient_checkpointing,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def _data_set(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Make a data set of rows that are taken a block at a time: as Python's numbers they take many times the memory."""
    given, blocks = iter(rows), list[pyarrow.RecordBatch]()
    while block := list(islice(given, _AT_ONCE)):
        blocks.append(pyarrow.RecordBatch.from_pylist(block, schema=blocks[0].schema if blocks else None))
    return Dataset(pyarrow.Table.from_batches(blocks))

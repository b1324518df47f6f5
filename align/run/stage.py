"""Training of a model that is stored and reused, on the same loop as a run: with records, checkpoints and resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from align.activity import Activity
from align.callbacks.base import Callback, CallbackList, RunInfo
from align.callbacks.display import Display
from align.callbacks.jsonl import LOG_HISTORY, JsonlCallback
from align.callbacks.progress import ProgressCallback
from align.config import Config
from align.config.io import plain
from align.config.methods import OfflineConfig
from align.engine.engine import Engine
from align.engine.layers import LayerReports
from align.engine.reference import Policy, ValueHead
from align.files import write_atomic
from align.loop.checkpoint import checkpoints
from align.loop.context import LoopContext
from align.loop.loop import Loop
from align.loop.protocol import Algorithm
from align.models.chat_tokenizer import ChatTokenizer
from align.models.hardware import one_process
from align.store import TRAINING
from align.types import Pair

RECORDS = "training.jsonl"  # of the stage, in the stored folder
_MACHINE = "machine.json"


@dataclass(frozen=True)
class Stage:
    """What is trained, from what, and where."""

    config: Config  # of the run that needs the model
    chat: ChatTokenizer
    train: Sequence[Pair]
    held_out: Sequence[Pair]
    device: torch.device
    dtype: torch.dtype  # of compute
    say: Callable[[str], None]  # prints a line for the user
    name: str = "model"  # for people: "reward model"
    folder: Path = Path()  # that will be stored; a killed stage's own is taken up again
    display: Display = field(default_factory=Display)  # of the run that needs the model

    def at(self, folder: Path, name: str) -> Stage:
        """This stage, whose model is called `name` and stored from `folder`."""
        return replace(self, folder=folder, name=name)

    @property
    def activity(self) -> Activity:
        """How far its work is, for the display."""
        return self.display.activity

    @property
    def engine(self) -> Engine:
        return Engine.of(self.config)

    def configured(self, method: OfflineConfig, *, steps: int, seed: int) -> Config:
        """The run's configuration with the stage's method, length and seed in place of the run's own."""
        evaluation = replace(self.config.evaluation, every_steps=0)
        own = replace(self.config, method=method, seed=seed, max_steps=steps, evaluation=evaluation)
        return replace(own, max_policy_tokens=None, resume=None)

    def run(
        self,
        config: Config,
        modules: Mapping[str, Policy | ValueHead],
        algorithm: Callable[[LoopContext], Algorithm],
        reference: Policy | None = None,
    ) -> None:
        """Train `modules`, or go on where a killed stage left them, and leave the records as RECORDS.

        Checkpoints stay in TRAINING until the folder is stored: a kill while the model is measured costs no training.
        More than method.max_bad_steps updates that are not finite raise RunError.
        """
        training = self.folder / TRAINING
        found = self._taken_up(training, config.method.name)
        start = int(found.name.rpartition("_")[2]) if found is not None else 0
        callbacks = CallbackList([JsonlCallback(completions=False), *self._progress()])
        context = LoopContext(
            config=config,
            folder=training,
            accelerator=one_process(self.device, self.dtype),
            modules=modules,
            reference=reference,
            chat=self.chat,
            pairs=self.train,
            callbacks=callbacks,
            activity=self.activity,
        )
        LayerReports(self.activity).watch([*modules.values(), reference])
        info = RunInfo(training, plain(config), config.method.name, config.max_steps, start, config.seed)
        try:
            loop = Loop(context, algorithm(context))  # which may score all pairs first: no part of the training
            callbacks.on_run_start(info)
            if found is not None:
                self.say(f"{self.name}: going on after update {start} of a training that was cut short")
                loop.resume(found)
            loop.train()
        except BaseException as error:
            callbacks.on_failure(error)
            raise
        callbacks.on_end({})
        shutil.copyfile(training / LOG_HISTORY, self.folder / RECORDS)

    def _progress(self) -> list[Callback]:
        enabled = self.config.callbacks.progress.enabled
        return [ProgressCallback(self.display, stage=self.name)] if enabled else []

    def _taken_up(self, training: Path, method: str) -> Path | None:
        """The newest checkpoint of the same training on this machine; a training of other threads starts over."""
        training.mkdir(parents=True, exist_ok=True)
        machine = {"device": self.device.type, "threads": torch.get_num_threads(), "dtype": str(self.dtype)}
        noted = training / _MACHINE
        if noted.is_file() and json.loads(noted.read_text()) != machine:
            self.say(f"{self.name}: starting over, as the training that was cut short had {noted.read_text()}")
            shutil.rmtree(training)
            training.mkdir()
        write_atomic(noted, json.dumps(machine))
        found = checkpoints(training, method)
        return found[-1][1] if found else None

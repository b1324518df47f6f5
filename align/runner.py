"""The composition root: from a checked configuration to a run's folder. Callable from a notebook, without Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from align import config as configuration
from align.callbacks import RunInfo, default_callbacks
from align.config import Config, CriticInit, GoldSource, RewardModelSource
from align.data.preferences import Preferences, load_preferences
from align.data.prompts import load_texts, prompts_of
from align.errors import InputError
from align.evaluation import EvaluationResult, EvaluationSet, Judge, evaluate, load_before, save_after, save_before
from align.evaluation import settings as evaluation_settings
from align.libraries import quiet
from align.model_card import write_model_card
from align.models.codec import ChatCodec
from align.models.load import context_length, hub_commit, load_codec, resolve_device, resolve_precision, torch_dtype
from align.models.reward_folder import read_card
from align.models.roles import Roles, build_roles, weights_mib
from align.report import write_report
from align.rewards import GoldSource as GoldScorer
from align.rewards import RewardModelSource as ModelScorer
from align.rewards import Source, build_credit
from align.rewards.reference import reference_scale
from align.rollout.responder import Responder
from align.run_record import RunRecord
from align.streams import permutation
from align.trainers.checkpoint import checkpoints
from align.trainers.context import RunContext
from align.trainers.method import Method
from align.trainers.registry import trainer_class
from align.trainers.reward_model import ensure_reward_model
from align.types import RewardInput, RewardOutput
from align.worlds import get as get_world


def to_stderr(line: str) -> None:
    """A line for the user, apart from what other programs may read on stdout."""
    print(line, file=sys.stderr, flush=True)


def run(config: Config, folder: Path, *, say: Callable[[str], None] = to_stderr) -> dict[str, Any]:
    """Run what `config` composes and leave everything in `folder`.

    Args:
        config: From `align.config.build`. With `config.resume` the run of that folder goes on; `folder` is the same.
        say: Told in a line what the run chose for itself and what it is busy with.

    Returns:
        {"before", "after": evaluation summaries, "stopped": why it ended early or None, "step", "folder"}.

    Raises:
        InputError: Data, model or reward cannot be used as configured.
        RunError: The run cannot go on.
    """
    quiet()
    return _Run(config, folder, say).go()


class _Run:
    """One run, phase by phase; each phase's time is in run.json."""

    def __init__(self, config: Config, folder: Path, say: Callable[[str], None]) -> None:
        self.config, self.folder, self.say = config, folder, say
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = resolve_device(config)
        precision, why = resolve_precision(config.precision, self.device)
        self.dtype = torch_dtype(precision)
        say(f"{config.method.name} in {folder}: {precision.value} on {self.device} ({why})")
        self.checkpoint = self._checkpoint()
        folder.mkdir(parents=True, exist_ok=True)
        # A resumed run keeps the command that started it: its config.yaml must still repeat the whole run.
        command = configuration.command_of(folder / "config.yaml") if config.resume is not None else None
        configuration.save(replace(config, resume=None), folder / "config.yaml", command)
        self.record = RunRecord(
            folder,
            self.device,
            precision=precision.value,
            precision_why=why,
            seed=config.seed,
            resumed=config.resume is not None,
        )
        self.callbacks = default_callbacks(config.tracking)

    def go(self) -> dict[str, Any]:
        try:
            return self._phases()
        except BaseException as error:
            self.callbacks.on_failure(error)
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record.finish(status, error=f"{type(error).__name__}: {error}")
            raise

    def _phases(self) -> dict[str, Any]:
        with self.record.phase("load_data"):
            codec, data = self._load_data()
        with self.record.phase("reward_model"):
            reward_folder = self._reward_model(codec, data)
        with self.record.phase("load_models"):
            context = self._assemble(codec, data, reward_folder)
            trainer: Method = trainer_class(self.config.method.name)(context)
        with self.record.phase("evaluate_before"):
            before = self._before()
        with self.record.phase("train"):
            if self.checkpoint is not None:
                trainer.resume(self.checkpoint)
            trainer.train()
        step = trainer.step
        with self.record.phase("evaluate_after"):
            after = self._after(trainer, before)
            save_after(self.folder, before, after, self._settings)
            self.callbacks.on_evaluation("after", step, after.summary)
        trainer.save(self.folder / "model")
        write_model_card(self.folder / "model", self.config, before.summary, after.summary, trainer.stopped)
        result = {"before": before.summary, "after": after.summary, "stopped": trainer.stopped, "step": step}
        self.callbacks.on_end(result)
        self.record.finish("finished", stopped=result["stopped"], step=result["step"])
        with self.record.phase("report"):  # of a run that run.json calls finished
            write_report(self.folder)
        return result | {"folder": str(self.folder)}

    # Phases ----------------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Path | None:
        """Where a resumed run goes on; None at the start, also where it was killed before its first checkpoint."""
        if self.config.resume is None or not self.folder.is_dir():
            return None
        found = checkpoints(self.folder, self.config.method.name)
        if not found:
            self.say("no checkpoint yet: starting over in the same folder")
            return None
        self._check_threads()
        self.say(f"resuming after step {found[-1][0]}")
        return found[-1][1]

    def _check_threads(self) -> None:
        saved = RunRecord.read(self.folder).get("hardware", {}).get("threads")
        if self.device.type == "cpu" and saved not in (None, torch.get_num_threads()):
            allowed = f"{saved}, as before: another number of threads changes the rounding of every sum"
            raise InputError("threads", torch.get_num_threads(), allowed)

    def _load_data(self) -> tuple[ChatCodec, Preferences]:
        codec = load_codec(self.config.model)
        data = load_preferences(self.config.data, codec)
        model = self.config.model
        self.record.update(data=data.counts, hub_commit=hub_commit(model.path, model.revision))
        self._check_context(data)
        lost = {name: n for name, n in data.counts.items() if n and name.endswith(("dropped", "cut", "truncated"))}
        noted = f" ({', '.join(f'{name} {n}' for name, n in lost.items())})" if lost else ""
        self.say(f"{len(data.train)} training pairs, {len(data.held_out)} held out{noted}")
        return codec, data

    def _check_context(self, data: Preferences) -> None:
        """Beyond its context some models fail in the middle of a run, and others answer nonsense silently."""
        limit = context_length(self.config.model)
        if limit is None:
            return
        pairs = [*data.train, *data.held_out]
        prompt = max(len(p.prompt.input_ids) for p in pairs)
        given = max(len(p.prompt.input_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs)
        wanted = self.config.rollout.max_new_tokens
        if prompt + wanted > limit:
            allowed = f"at most {limit - prompt}: the longest prompt has {prompt} tokens, the model's context {limit}"
            raise InputError("rollout.max_new_tokens", wanted, allowed)
        if given > limit:
            allowed = f"less: the longest prompt and response have {given} tokens, the model's context {limit}"
            raise InputError("data.max_response_tokens", self.config.data.max_response_tokens, allowed)

    def _reward_model(self, codec: ChatCodec, data: Preferences) -> Path | None:
        source = self.config.reward.source
        if not isinstance(source, RewardModelSource):
            return None
        folder = ensure_reward_model(
            self.config, source, codec, data.train, data.held_out, device=self.device, dtype=self.dtype, say=self.say
        )
        card = read_card(folder)
        measured = None if card is None else {"accuracy": card.accuracy, "longer_wins": card.longer_wins}
        self.record.update(reward_model={"folder": str(folder), "held_out": measured})
        return folder

    def _assemble(self, codec: ChatCodec, data: Preferences, reward_folder: Path | None) -> RunContext:
        config = self.config
        roles = build_roles(
            config, device=self.device, dtype=self.dtype, reward=reward_folder, critic_init=config.method.critic
        )
        self.record.update(weights_mib={name: round(size, 3) for name, size in weights_mib(roles).items()})
        if roles.critic_from is not None:
            self.say(f"critic starts as the {roles.critic_from.value.replace('_', ' ')}")
        world = get_world(config.data.world) if config.data.world is not None else None
        source: Source
        if isinstance(config.reward.source, GoldSource):
            if world is None:
                raise InputError("data.world", None, "the world whose gold reward is the source")
            source = GoldScorer(world)
        else:
            source = self._model_source(roles, codec, data)
        credit = build_credit(config.reward.credit)

        def score(batch: RewardInput) -> RewardOutput:
            return source.score(batch, credit.needs)

        texts = load_texts(config.evaluation.general_text)
        self._set = EvaluationSet.select(prompts_of(data.held_out), data.held_out, texts, config.evaluation)
        self._judge = Judge(score, credit.assign, world)
        self._settings = evaluation_settings(
            self._set, self._judge, config.evaluation, config.rollout, config.method.name
        )
        self._roles, self._codec = roles, codec
        self._before_result: EvaluationResult | None = None
        accelerator = self._accelerator()
        return RunContext(
            config=config,
            folder=self.folder,
            accelerator=accelerator,
            roles=roles,
            codec=codec,
            prompts=prompts_of(data.train),
            pairs=data.train,
            source=source,
            credit=credit,
            callbacks=self.callbacks,
            evaluate=self._during,
            held_out=data.held_out,
            reward_folder=reward_folder,
        )

    def _accelerator(self) -> Accelerator:
        """Device placement and, in fp16, gradient scaling; autocast is the roles' own.

        Raises:
            InputError: The run was launched as several processes.
        """
        # Accelerate keeps one state per process: the reward model's trainer, or the job before, has left its own.
        AcceleratorState._reset_state(reset_partial_state=True)
        mixed_precision = "fp16" if self.dtype is torch.float16 else "no"
        accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision=mixed_precision)
        if accelerator.num_processes > 1:
            raise InputError("processes", accelerator.num_processes, "1: a run is one process; sweeps run many")
        return accelerator

    def _model_source(self, roles: Roles, codec: ChatCodec, data: Preferences) -> ModelScorer:
        """The reward model, put on the scale on which the start model's responses have mean 0 and deviation 1."""
        config, settings = self.config, self.config.reward.source
        assert roles.reward is not None and isinstance(settings, RewardModelSource)
        source = ModelScorer(roles.reward)
        candidates, wanted = prompts_of(data.train), settings.reference_responses
        order = permutation(len(candidates), settings.seed, "reference prompts")[:wanted]
        prompts = [candidates[i] for i in order.tolist()]
        if len(prompts) < wanted:
            self.say(f"reward scale set on {len(prompts)} responses: there are no more training prompts")
        mean, std = reference_scale(
            roles.reference,
            source,
            codec,
            prompts,
            seed=settings.seed,
            max_new_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
            decode_batch_size=config.rollout.decode_batch_size or config.rollout.batch_size,
        )
        roles.reward.rescale(mean, std)
        if roles.critic is not None and roles.critic_from is CriticInit.reward_model:
            roles.critic.rescale(mean, std)
        self.record.update(reward_scale={"raw_mean": mean, "raw_std": std, "responses": len(prompts)})
        return source

    # Evaluation ------------------------------------------------------------------------------------------------------

    def _before(self) -> EvaluationResult:
        """The start model's figures; read back where the run had got that far. Starts the callbacks."""
        step = 0 if self.checkpoint is None else int(self.checkpoint.name.rpartition("_")[2])
        plain = configuration.plain(self.config)
        method = self.config.method
        steps = self.config.max_steps if method.trains else 0
        info = RunInfo(self.folder, plain, method.name, steps, start_step=step, seed=self.config.seed)
        self.callbacks.on_run_start(info)
        before = load_before(self.folder) if self.config.resume is not None else None
        if before is None:
            before = self._evaluate(None)
            save_before(self.folder, before, self._settings)
        self._before_result = before
        self.callbacks.on_evaluation("before", 0, before.summary)
        return before

    def _during(self, step: int) -> None:
        self.callbacks.on_evaluation("during", step, self._evaluate(self._before_result).summary)

    def _after(self, trainer: Method, before: EvaluationResult) -> EvaluationResult:
        respond = trainer.responder()
        # The same policy under the same noise answers as it did before.
        same = not self.config.method.trains and respond is None
        result = before if same else self._evaluate(before, respond)
        return replace(result, summary=result.summary | trainer.figures())

    def _evaluate(self, before: EvaluationResult | None, respond: Responder | None = None) -> EvaluationResult:
        return evaluate(
            self._roles.policy,
            self._roles.reference,
            self._codec,
            self._set,
            self._judge,
            evaluation=self.config.evaluation,
            rollout=self.config.rollout,
            baseline=None if before is None else before.samples,
            respond=respond,
        )

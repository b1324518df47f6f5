"""The composition root: from a checked configuration to a run's folder. Callable from a notebook, without Hydra."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from align.algorithms.registry import algorithm_class
from align.callbacks import CallbackList, RunInfo, default_callbacks
from align.callbacks.display import Display
from align.config import Config, CriticInit
from align.config import io as configuration
from align.config.automatic import settle
from align.engine.engine import Engine
from align.engine.responder import Responder
from align.errors import ERROR, InputError, RunError, Verdict
from align.evaluation import EvaluationResult, evaluate, load_before, save_after, save_before
from align.evaluation.intervals import Bootstrap
from align.evaluation.too_small import HeldOut
from align.evaluation.verdicts import judge_run, status_of
from align.libraries import quiet
from align.loop.context import RunContext, modules_of
from align.loop.method import Method, method_of
from align.models.chat_tokenizer import ChatTokenizer
from align.models.hardware import one_process, precision_hint, resolve_device, resolve_precision, torch_dtype
from align.models.load import load_causal_lm, model_facts
from align.report import write_report
from align.run import identity
from align.run.assembly import assemble, judge_given, note_memory
from align.run.model_card import write_model_card
from align.run.plan import announced
from align.run.record import RunRecord
from align.run.resumed import taken_up, with_date
from align.run.stages import Site, ensure_stored, load_materials
from align.run.verdicts import Watch


def to_stderr(line: str) -> None:
    """A line for the user, apart from what other programs may read on stdout."""
    print(line, file=sys.stderr, flush=True)


def run(config: Config, folder: Path, *, say: Callable[[str], None] = to_stderr) -> dict[str, Any]:
    """Run what `config` composes, or go on with the run in `config.resume`, and leave everything in `folder`.

    `say` gets a line for what the run chose for itself and what it is busy with.

    Returns:
        {"before", "after": evaluation summaries, "stopped": why it ended early or None, "step", "folder"}.

    Raises:
        InputError: Data, model or reward cannot be used as configured.
        RunError: The run cannot go on.
    """
    quiet()
    display = Display(enabled=config.callbacks.progress.enabled)
    with display, Engine.of(config).memory(resolve_device(config)):
        return _Run(config, folder, say, display).go()


def measure(
    config: Config, folder: Path, *, weights: Path | str | None, say: Callable[[str], None] = to_stderr
) -> dict[str, Any]:
    """Evaluate without training, under the definitions of a run, and leave evaluation.json and its samples in `folder`.

    Args:
        weights: The folder of a finished run, or a model of the start model's architecture, to compare with the start
            model; None = the start model alone, unless the method answers without training it (best_of_n).

    Returns:
        {"before", "after": evaluation summaries or None, "verdicts", "folder"}.

    Raises:
        InputError: Data, model, weights or reward cannot be used as configured.
    """
    quiet()
    display = Display(enabled=config.callbacks.progress.enabled)
    with display, Engine.of(config).memory(resolve_device(config)):
        return _Run(config, folder, say, display, trains=False).measure(weights)


class _Run:
    """One run, phase by phase; each phase's time is in run.json."""

    def __init__(
        self, config: Config, folder: Path, say: Callable[[str], None], display: Display, *, trains: bool = True
    ) -> None:
        model = model_facts(config.model)
        settled = settle(config, model)
        config = settled.config
        self.config, self.folder, self.say, self.display = config, folder, say, display
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = resolve_device(config)
        precision, why = resolve_precision(config.precision, device)
        say(f"{config.method.name} in {folder}: {precision.value} on {device} ({why})")
        for line in [*precision_hint(config, device, world=model.world), *settled.lines(trains=trains)]:
            say(line)
        # The user's own are imported here, before anything is written.
        self.watch = Watch()
        self.began = False  # this sitting, to add to the run
        self.callbacks = CallbackList([*default_callbacks(config, display).callbacks, self.watch])
        self.checkpoint = taken_up(config, folder, device, say)
        folder.mkdir(parents=True, exist_ok=True)
        # A resumed run keeps the command that started it: its config.yaml must still repeat the whole run.
        self.command = configuration.command_of(folder / "config.yaml") if config.resume is not None else None
        facts = {"precision": precision.value, "precision_why": why, "seed": config.seed, "auto": settled.chosen}
        self.record = RunRecord(folder, device, resumed=config.resume is not None, **facts)
        self._save_config()
        self.site = Site(config, folder, device, torch_dtype(precision), self.record, say, display)

    def _pin(self, chat: ChatTokenizer) -> None:
        """Write the day that the chat template writes into config.yaml: resumes and evaluations read the same text."""
        dated = with_date(self.config, chat)
        if dated is not self.config:
            self.config, self.site = dated, replace(self.site, config=dated)
            self._save_config()

    def _save_config(self) -> None:
        written = replace(self.config, resume=None, overwrite=False)
        configuration.save(written, self.folder / "config.yaml", self.command)

    # Training --------------------------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        try:
            return self._phases()
        except BaseException as error:
            if isinstance(error, InputError) and not self.began and self.record.withdraw():
                raise  # a resume that was refused
            self.callbacks.on_failure(error)
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record.fail(status, error, **self._given_up())
            raise

    def _given_up(self) -> dict[str, list[str]]:
        """What run.json says of listeners that failed while the run went on; nothing where none did."""
        return {"callbacks_failed": self.callbacks.failures} if self.callbacks.failures else {}

    def _phases(self) -> dict[str, Any]:
        context = self._prepared(self.config.method.critic, trains=True)
        trainer = self._method(context)
        self.began = True
        with self.record.phase("evaluate_before"):
            before = self._before()
        with self.record.phase("train"):
            self.record.update(micro_batch_tokens=trainer.micro_batch_tokens)
            if self.checkpoint is not None:
                trainer.resume(self.checkpoint)
            trainer.train()
        self.display.end()
        step = trainer.step
        with self.record.phase("evaluate_after"):
            after = self._after(trainer, before)
            content = self._save_after(before, after)
            self.callbacks.on_evaluation("after", step, after.summary)
        trainer.save(self.folder / "model")
        write_model_card(self.folder / "model", self.config, before.summary, after.summary, trainer.stopped)
        verdicts = self._verdicts(content)
        result: dict[str, Any] = {"before": before.summary, "after": after.summary}
        result |= {"stopped": trainer.stopped, "step": step}
        result["verdicts"] = [verdict.as_json() for verdict in verdicts]
        self.record.update(verdicts=result["verdicts"])
        self.callbacks.on_end(result)
        self.record.finish(status_of(verdicts), stopped=result["stopped"], step=result["step"], **self._given_up())
        with self.record.phase("report"):  # of a run that run.json calls finished
            write_report(self.folder)
        meaningless = next((verdict for verdict in verdicts if verdict.level == ERROR), None)
        if meaningless is not None:
            raise RunError(meaningless.text)
        return result | {"folder": str(self.folder)}

    def _verdicts(self, evaluation: Mapping[str, Any]) -> list[Verdict]:
        """What went wrong, from the data to the end."""
        learned = self.watch.learned if self.config.method.trains else None
        held_out = HeldOut.of(self.materials.data.measured)
        found = judge_run(self.config, evaluation, held_out, learned=learned, all_cut=self.watch.all_cut)
        return [*self.site.verdicts, *found]

    def _prepared(self, critic: CriticInit | None, *, trains: bool) -> RunContext:
        with self.record.phase("load_data"):
            materials = load_materials(self.site, trains=trains)
            self._pin(materials.chat)
            identity.hold(self.site, identity.of_materials(self.config, materials))
            for line in announced(self.config, materials.data, materials.aside):
                self.say(line)
            if trains:  # the estimate is of updates too
                note_memory(self.site, materials.data)
        with self.record.phase("reward_model"):
            stored = ensure_stored(self.site, materials)
            identity.hold(self.site, identity.of_stored(self.config, stored))
        with self.record.phase("load_models"):
            made = assemble(self.site, materials, stored, critic)
            judge_given(self.site, made, materials)
        self.made, self.materials, data = made, materials, materials.data
        return RunContext(
            config=self.config,
            folder=self.folder,
            accelerator=one_process(self.site.device, self.site.dtype),
            modules=modules_of(made.roles),
            reference=made.roles.reference,
            roles=made.roles,
            chat=materials.chat,
            prompts=data.trained.prompts,
            pairs=data.train,
            demonstrations=data.trained.demonstrations,
            labelled=data.trained.labelled,
            source=made.source,
            credit=made.credit,
            callbacks=self.callbacks,
            evaluate=self._during,
            activity=self.display.activity,
            held_out=data.held_out,
            reward_folder=stored.rewards[0] if stored.rewards else None,
            world=made.world,
        )

    def _method(self, context: RunContext) -> Method:
        return method_of(context, algorithm_class(self.config.method.name)(context))

    # Measuring without training --------------------------------------------------------------------------------------

    def measure(self, weights: Path | str | None) -> dict[str, Any]:
        try:
            context = self._prepared(critic=None, trains=False)
            for line in identity.noted_differences(weights, self.record) if isinstance(weights, Path) else ():
                self.say(line)
            with self.record.phase("evaluate_before"):
                before = self._evaluate(None)
                save_before(self.folder, before, self.made.settings)
            with self.record.phase("evaluate_after"):
                after = self._measured(context, before, weights)
                content = None if after is None else self._save_after(before, after)
            verdicts = self.site.verdicts if content is None else self._verdicts(content)
        except BaseException as error:
            self.record.fail("failed", error)
            raise
        found = [verdict.as_json() for verdict in verdicts]
        self.record.finish("finished", verdicts=found)
        summary = None if after is None else after.summary
        return {"before": before.summary, "after": summary, "verdicts": found, "folder": str(self.folder)}

    def _measured(
        self, context: RunContext, before: EvaluationResult, weights: Path | str | None
    ) -> EvaluationResult | None:
        """The evaluation of what is compared with the start model; None where nothing is."""
        if not self.config.method.trains:
            respond = self._method(context).responder()
            return None if respond is None else self._evaluate(before, respond)
        if weights is None:
            return None
        policy = self.made.roles.policy
        if isinstance(weights, Path):
            policy.restore(weights / "model")
        else:
            settings = replace(self.config.model, path=weights, revision=None)
            other = load_causal_lm(settings, dtype=torch.float32, device=self.site.device)
            try:
                policy.model.load_state_dict(other.state_dict())
            except RuntimeError as error:
                allowed = f"a model of the architecture of {self.config.model.path}, which it is compared with"
                raise InputError("model", weights, allowed) from error
        return self._evaluate(before)

    # Evaluation ------------------------------------------------------------------------------------------------------

    def _before(self) -> EvaluationResult:
        """The start model's figures; read back where the run had got that far. Starts the callbacks."""
        step = 0 if self.checkpoint is None else int(self.checkpoint.name.rpartition("_")[2])
        plain, method, seed = configuration.plain(self.config), self.config.method, self.config.seed
        steps = self.config.max_steps if method.trains else 0
        self.callbacks.on_run_start(RunInfo(self.folder, plain, method.name, steps, start_step=step, seed=seed))
        before = load_before(self.folder) if self.config.resume is not None else None
        if before is None:
            before = self._evaluate(None)
            save_before(self.folder, before, self.made.settings)
        self._before_result = before
        self.callbacks.on_evaluation("before", 0, before.summary)
        return before

    def _save_after(self, before: EvaluationResult, after: EvaluationResult) -> dict[str, Any]:
        """Write both evaluations; return what evaluation.json holds."""
        return save_after(self.folder, before, after, self.made.settings, Bootstrap.of(self.config.evaluation))

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
            self.made.roles.policy,
            self.made.roles.reference,
            self.materials.chat,
            self.made.data,
            self.made.judge,
            evaluation=self.config.evaluation,
            rollout=self.config.rollout,
            baseline=None if before is None else before.samples,
            reference_pairs=None if before is None else before.pairs,
            respond=respond,
            activity=self.display.activity,
        )

"""The composition root: from a checked configuration to a run's folder. Callable from a notebook, without Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from align import config as configuration
from align.callbacks import RunInfo, default_callbacks
from align.config import Config, CriticInit, ImplicitCredit, RewardModelSource
from align.config_checks import TRAIN
from align.data.preferences import Preferences, load_preferences, set_aside
from align.data.prompts import load_texts, prompts_of
from align.errors import InputError
from align.evaluation import (
    EvaluationResult,
    EvaluationSet,
    Judge,
    evaluate,
    load_before,
    load_judge,
    probes_of,
    save_after,
    save_before,
)
from align.evaluation import settings as evaluation_settings
from align.libraries import quiet
from align.model_card import write_model_card
from align.models.codec import ChatCodec
from align.models.hardware import one_process
from align.models.load import (
    context_length,
    hub_commit,
    load_causal_lm,
    load_codec,
    resolve_device,
    resolve_precision,
    torch_dtype,
)
from align.models.reward_folder import read_card
from align.models.roles import Roles, build_roles, weights_mib
from align.report import write_report
from align.rewards import Builder, References, Source, build_credit, frozen, load_functions
from align.rewards.foreign import reads_policy_tokens
from align.rewards.signals import LogRatio, WithSignals
from align.rollout.responder import Responder
from align.run_record import RunRecord
from align.trainers.checkpoint import checkpoints
from align.trainers.context import RunContext
from align.trainers.implicit import ensure_dpo_policy
from align.trainers.method import Method
from align.trainers.registry import trainer_class
from align.trainers.reward_model import ensure_reward_model
from align.types import RewardInput, RewardOutput
from align.worlds import World
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


def measure(
    config: Config, folder: Path, *, weights: Path | str | None, say: Callable[[str], None] = to_stderr
) -> dict[str, Any]:
    """Evaluate without training, under the definitions of a run, and leave evaluation.json and its samples in `folder`.

    Args:
        config: Of the run that is measured again, or a composition whose model is the start model.
        weights: The folder of a finished run, or a model of the start model's architecture, to compare with the start
            model; None = the start model alone, unless the method answers without training it (best_of_n).

    Returns:
        {"before", "after": evaluation summaries or None, "folder"}.

    Raises:
        InputError: Data, model, weights or reward cannot be used as configured.
    """
    quiet()
    return _Run(config, folder, say).measure(weights)


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
        self.callbacks = default_callbacks(config)  # the user's own are imported here, before anything is written
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

    def go(self) -> dict[str, Any]:
        try:
            return self._phases()
        except BaseException as error:
            self.callbacks.on_failure(error)
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record.finish(status, error=f"{type(error).__name__}: {error}", **self._given_up())
            raise

    def _given_up(self) -> dict[str, list[str]]:
        """What run.json says of listeners that failed while the run went on; nothing where none did."""
        return {"callbacks_failed": self.callbacks.failures} if self.callbacks.failures else {}

    def _phases(self) -> dict[str, Any]:
        with self.record.phase("load_data"):
            self._functions = load_functions(self.config.reward.source)
            codec, data = self._load_data()
        with self.record.phase("reward_model"):
            reward_folders = self._reward_models(codec, data)
            dpo_folder = self._dpo_policy(codec, data)
        with self.record.phase("load_models"):
            context = self._assemble(codec, data, reward_folders, dpo_folder, self.config.method.critic)
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
        self.record.finish("finished", stopped=result["stopped"], step=result["step"], **self._given_up())
        with self.record.phase("report"):  # of a run that run.json calls finished
            write_report(self.folder)
        return result | {"folder": str(self.folder)}

    def measure(self, weights: Path | str | None) -> dict[str, Any]:
        try:
            with self.record.phase("load_data"):
                codec, data = self._load_data()
            with self.record.phase("reward_model"):
                self._functions = load_functions(self.config.reward.source)
                reward_folders = self._reward_models(codec, data)
                dpo_folder = self._dpo_policy(codec, data)
            with self.record.phase("load_models"):
                context = self._assemble(codec, data, reward_folders, dpo_folder, critic=None)
            with self.record.phase("evaluate_before"):
                before = self._evaluate(None)
                save_before(self.folder, before, self._settings)
            with self.record.phase("evaluate_after"):
                after = self._measured(context, before, weights)
                if after is not None:
                    save_after(self.folder, before, after, self._settings)
        except BaseException as error:
            self.record.finish("failed", error=f"{type(error).__name__}: {error}")
            raise
        self.record.finish("finished")
        summary = None if after is None else after.summary
        return {"before": before.summary, "after": summary, "folder": str(self.folder)}

    def _measured(
        self, context: RunContext, before: EvaluationResult, weights: Path | str | None
    ) -> EvaluationResult | None:
        """The evaluation of what is compared with the start model; None where nothing is."""
        if not self.config.method.trains:
            respond = trainer_class(self.config.method.name)(context).responder()
            return None if respond is None else self._evaluate(before, respond)
        if weights is None:
            return None
        if isinstance(weights, Path):
            self._roles.policy.restore(weights / "model")
        else:
            settings = replace(self.config.model, path=weights, revision=None)
            other = load_causal_lm(settings, dtype=torch.float32, device=self.device)
            try:
                self._roles.policy.model.load_state_dict(other.state_dict())
            except RuntimeError as error:
                allowed = f"a model of the architecture of {self.config.model.path}, which it is compared with"
                raise InputError("model", weights, allowed) from error
        return self._evaluate(before)

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
        if self.config.evaluation.reward_model == TRAIN:
            data, self._set_aside = set_aside(data, self.config.evaluation.reward_model_fraction)
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
        read = [*pairs, *data.reward_train, *data.reward_held_out]
        given = max(len(p.prompt.input_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in read)
        wanted = self.config.rollout.max_new_tokens
        if prompt + wanted > limit:
            allowed = f"at most {limit - prompt}: the longest prompt has {prompt} tokens, the model's context {limit}"
            raise InputError("rollout.max_new_tokens", wanted, allowed)
        if given > limit:
            allowed = f"less: the longest prompt and response have {given} tokens, the model's context {limit}"
            raise InputError("data.max_response_tokens", self.config.data.max_response_tokens, allowed)

    def _reward_models(self, codec: ChatCodec, data: Preferences) -> list[Path]:
        """The folders of all reward models that the source needs, trained where they are not stored yet."""
        self._judging = self._evaluation_reward_model(codec, data)
        folders = []
        for model in self.config.reward.source.models():
            folder = ensure_reward_model(
                self.config,
                model,
                codec,
                data.reward_train,
                data.reward_held_out,
                device=self.device,
                dtype=self.dtype,
                say=self.say,
            )
            folders.append(folder)
        facts = [self._reward_facts(folder) for folder in folders]
        if facts:
            self.record.update(reward_model=facts[0])
        if len(facts) > 1:
            self.record.update(reward_models=facts)
        return folders

    @staticmethod
    def _reward_facts(folder: Path) -> dict[str, Any]:
        card = read_card(folder)
        measured = None if card is None else {"accuracy": card.accuracy, "longer_wins": card.longer_wins}
        return {"folder": str(folder), "held_out": measured}

    def _dpo_policy(self, codec: ChatCodec, data: Preferences) -> Path | None:
        credit = self.config.reward.credit
        if not isinstance(credit, ImplicitCredit):
            return None
        folder = ensure_dpo_policy(
            self.config,
            credit,
            codec,
            data.reward_train,
            data.reward_held_out,
            device=self.device,
            dtype=self.dtype,
            say=self.say,
        )
        self.record.update(dpo_policy={"folder": str(folder)})
        return folder

    def _evaluation_reward_model(self, codec: ChatCodec, data: Preferences) -> str | None:
        """Where the reward model that only judges is; trained first where it is asked for and nobody has."""
        path = self.config.evaluation.reward_model
        if path != TRAIN:
            return path
        chosen, pairs = self.config.reward.source, self._set_aside
        base = chosen if isinstance(chosen, RewardModelSource) else RewardModelSource()
        source = replace(base, path=None, seed=base.seed + 1)
        folder = ensure_reward_model(
            self.config,
            source,
            codec,
            pairs,
            data.reward_held_out,
            device=self.device,
            dtype=self.dtype,
            say=self.say,
        )
        self.record.update(evaluation_reward_model={"folder": str(folder), "train_pairs": len(pairs)})
        return str(folder)

    def _assemble(
        self,
        codec: ChatCodec,
        data: Preferences,
        reward_folders: Sequence[Path],
        dpo_folder: Path | None,
        critic: CriticInit | None,
    ) -> RunContext:
        config = self.config
        foreign = self._foreign(codec, reward_folders)
        own = [folder for i, folder in enumerate(reward_folders) if i not in foreign]
        roles = build_roles(
            config,
            device=self.device,
            dtype=self.dtype,
            reward=own[0] if own else None,
            critic_init=critic,
            more_rewards=own[1:],
            dpo=dpo_folder,
        )
        self.record.update(weights_mib={name: round(size, 3) for name, size in weights_mib(roles).items()})
        if roles.critic_from is not None:
            self.say(f"critic starts as the {roles.critic_from.value.replace('_', ' ')}")
        world = get_world(config.data.world) if config.data.world is not None else None
        credit = build_credit(config.reward.credit)
        source = self._source(roles, codec, data, world, foreign, credit.needs)
        judging = frozen(source)

        def score(batch: RewardInput) -> RewardOutput:
            return judging.score(batch, credit.needs)

        self._set = self._evaluation_set(codec, data)
        evaluation = None
        if self._judging is not None:
            evaluation = load_judge(self._judging, codec, self.device, self.dtype).score
        self._judge = Judge(score, credit.assign, world, evaluation, judging.score)
        self._settings = evaluation_settings(
            self._set, self._judge, config.evaluation, config.rollout, config.method.name
        )
        self._roles, self._codec = roles, codec
        self._before_result: EvaluationResult | None = None
        return RunContext(
            config=config,
            folder=self.folder,
            accelerator=one_process(self.device, self.dtype),
            roles=roles,
            codec=codec,
            prompts=prompts_of(data.train),
            pairs=data.train,
            source=source,
            credit=credit,
            callbacks=self.callbacks,
            evaluate=self._during,
            held_out=data.held_out,
            reward_folder=reward_folders[0] if reward_folders else None,
            world=world,
        )

    def _foreign(self, codec: ChatCodec, folders: Sequence[Path]) -> dict[int, Path]:
        """The reward models that cannot read the policy's tokens, by their place."""
        found = {}
        for i, (model, folder) in enumerate(zip(self.config.reward.source.models(), folders, strict=True)):
            if model.path is not None and not reads_policy_tokens(folder, codec, "reward.source.path"):
                self.say(f"{model.path} reads text: responses are re-encoded with its own tokenizer and chat template")
                found[i] = folder
        return found

    def _evaluation_set(self, codec: ChatCodec, data: Preferences) -> EvaluationSet:
        config, prompts = self.config, prompts_of(data.held_out)
        limit = context_length(config.model)
        longest = None if limit is None else limit - config.rollout.max_new_tokens
        probes = probes_of(config.evaluation, codec, prompts, world=config.data.world, longest=longest)
        texts = load_texts(config.evaluation.general_text)
        return EvaluationSet.select(prompts, data.held_out, texts, config.evaluation, probes)

    def _source(
        self,
        roles: Roles,
        codec: ChatCodec,
        data: Preferences,
        world: World | None,
        foreign: Mapping[int, Path],
        needs: frozenset[str],
    ) -> Source:
        references = References(roles.reference, codec, prompts_of(data.train), self.config.rollout, self.say)
        scored = prompts_of([*data.train, *data.held_out])
        builder = Builder(roles, references, world, scored, self._functions, foreign, needs)
        source = builder.build(self.config.reward.source)
        if builder.scales:
            own = builder.scales.pop("reward.source", {})
            self.record.update(reward_scale=own | ({"parts": builder.scales} if builder.scales else {}))
        return WithSignals(source, None if roles.dpo is None else LogRatio(roles.dpo, roles.reference))

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

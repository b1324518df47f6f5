"""What a run needs before its models: the data, and the reward models and DPO policies that are trained once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from align.activity import Activity
from align.callbacks.display import Display
from align.config import TRAIN, AttentionCredit, Config, Examples, ImplicitCredit, Shape
from align.config.needs import check_shapes, needs_of
from align.data.preferences import load_preferences
from align.data.prepared import LOST, REPEATED, Preferences, set_aside
from align.data.rows import read_rows
from align.data.texts import load_texts
from align.engine.layers import attention_layers
from align.errors import InputError, Verdict
from align.evaluation import Passage, passages
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import context_length, load_chat_tokenizer, load_skeleton
from align.models.locate import hub_commit
from align.models.reward_folder import read_card
from align.rewards import check_columns, load_functions
from align.run.dpo_policies import ensure_dpo_policy
from align.run.record import RunRecord
from align.run.reward_models import ensure_reward_model
from align.run.stage import Stage
from align.run.verdicts import (
    ENOUGH,
    PairAccuracy,
    chance_verdict,
    judge_verdict,
    lost_rows,
    one_sided,
    untrained_sources,
)
from align.types import Pair

_NAMED = 3  # dropped rows of a kind that the console names
_NOTED = 20  # that run.json names; `align show data --dropped N` lists any number


@dataclass(frozen=True)
class Site:
    """Where a run happens and to whom it reports."""

    config: Config
    folder: Path
    device: torch.device
    dtype: torch.dtype  # of compute
    record: RunRecord
    say: Callable[[str], None]
    display: Display = field(default_factory=Display)
    verdicts: list[Verdict] = field(default_factory=list)  # so far

    def judged(self, verdicts: Iterable[Verdict]) -> None:
        """Keep verdicts for the run's end, and print them now."""
        for verdict in verdicts:
            self.verdicts.append(verdict)
            self.say(verdict.line)

    def judge_reward_model(self, found: PairAccuracy, key: str) -> None:
        """Keep a verdict on a reward model of the run that is not shown to be better than chance.

        Raises:
            InputError: Enough prompts show it, and the method would learn from it or choose by it.
        """
        verdict, method = chance_verdict(found, key), self.config.method
        if verdict is None:
            return
        allowed = any(getattr(part, "allow_chance", False) for part in self.config.reward.source.every().values())
        if found.prompts >= ENOUGH and method.needs_reward and method.name != "reward_model" and not allowed:
            raise InputError("reward.source.allow_chance", False, f"true, to go on although {verdict.what}")
        self.judged([verdict])

    def judge_judge(self, found: PairAccuracy) -> None:
        """Keep a verdict on the reward model that only judges where it is not shown to be better than chance."""
        verdict = judge_verdict(found)
        self.judged([] if verdict is None else [verdict])


@dataclass(frozen=True)
class Materials:
    """Read from files: the user's functions, the tokenizer and the data."""

    functions: dict[str, Callable[..., Any]]  # by the key of their source
    chat: ChatTokenizer
    data: Preferences
    aside: Sequence[Pair]  # of the evaluation's own reward model; nobody else learns from them
    texts: list[Passage]  # general, for forgetting


@dataclass(frozen=True)
class Stored:
    """Models that are trained once and found again by every later run."""

    rewards: list[Path]  # in the order of the source's reward models
    dpo: Path | None  # whose log-ratio is the credit
    judge: str | None  # the reward model that only evaluates


def load_materials(site: Site, *, trains: bool = True) -> Materials:
    """Load the functions, chat tokenizer and data of `site.config`; raise InputError where one cannot be used."""
    config = site.config
    check_attention(config)
    functions = load_functions(config.reward.source)
    site.display.activity.advance("loading the tokenizer")
    chat = load_chat_tokenizer(config.model)
    data, aside = load_data(config, chat, site.display.activity, trains=trains)
    check_columns(config.reward.source, functions, [*data.trained.prompts, *data.measured.prompts])
    commit = hub_commit(config.model.path, config.model.revision)
    dropped = {name: [row.where for row in rows[:_NOTED]] for name, rows in data.dropped.items()}
    counts = {**data.counts, **({"sources": data.sources} if data.sources else {})}
    site.record.update(data=counts, data_shape=data.shape.value, data_dropped=dropped, data_notes=list(data.notes))
    site.record.update(hub_commit=commit)
    check_context(config, data)
    texts = load_texts(config.evaluation.general_text, config.evaluation)
    general = passages(texts, chat, longest=context_length(config.model))
    site.judged(data_verdicts(config, data))
    for line in data_lines(config, data):
        site.say(line)
    for note in (*chat.notes(), *data.notes):
        site.say(note)
    return Materials(functions, chat, data, aside, general)


def load_data(
    config: Config, chat: ChatTokenizer, activity: Activity | None = None, *, trains: bool = True
) -> tuple[Preferences, Sequence[Pair]]:
    """Load the data, and the pairs that only the evaluation's own reward model learns from.

    Args:
        trains: Whether the method learns, or what is there is only measured.

    Raises:
        InputError: The rows have not what the method, the reward or the evaluation learns from.
    """
    rows = read_rows(config.data)
    kinds = {own.name: (own.shape, f"{own.place}, of {rows.kinds[own.name]},") for own in rows.train}
    check_shapes(config, kinds, trains=trains)
    data = load_preferences(config.data, chat, activity, rows)
    check_examples(config, data, trains=trains)
    if config.evaluation.reward_model != TRAIN:
        return data, []
    return set_aside(data, config.evaluation.reward_model_fraction)


def check_examples(config: Config, data: Preferences, *, trains: bool = True) -> None:
    """Refuse rows of a shape from which pairs or demonstrations can be made, where none can be made of these."""
    there = {Examples.pairs: data.train, Examples.demonstrations: data.trained.demonstrations}
    for need in needs_of(config, trains=trains):
        if not there.get(need.examples, data.trained.prompts):
            lost = ", ".join(f"{name} {n}" for name, n in data.counts.items() if n)
            allowed = f"rows that make {need.examples.value}, which {need.given} needs ({data.rows}: {lost})"
            raise InputError("data.path", config.data.named(), allowed)


def data_verdicts(config: Config, data: Preferences) -> list[Verdict]:
    """Judge the data before anything learns from them."""
    labelled = one_sided(config, data.trained.labelled)
    return [*lost_rows(config, data.counts), *untrained_sources(data.sources), *labelled]


def data_lines(config: Config, data: Preferences) -> list[str]:
    """Return a line on the rows and their shape, and one on what the method gets of them and what is lost."""
    sizes = {
        Examples.pairs: (len(data.train), len(data.held_out)),
        Examples.demonstrations: (len(data.trained.demonstrations), len(data.measured.demonstrations)),
        Examples.labels: (len(data.trained.labelled), len(data.measured.labelled)),
        Examples.prompts: (len(data.trained.prompts), len(data.measured.prompts)),
    }
    examples = config.method.learns_from
    if data.shape is Shape.preference:
        examples = Examples.pairs
    elif not sizes[examples][0]:  # KTO makes labels of ranked rows' pairs; what only measures needs prompts alone
        examples = Examples.pairs if data.train else Examples.prompts
    kind, (train, held_out) = examples.value.removeprefix("preference "), sizes[examples]
    lost = ", ".join(_lost(name, data, config.data.path) for name in (*LOST, *REPEATED) if data.counts[name])
    kept = f", kept in {data.cached}" if data.cached is not None else ""
    lines = [f"data: {data.counts['rows']} {data.rows}{kept}"]
    return [*lines, f"{train} training {kind}, {held_out} held out{f' ({lost})' if lost else ''}"]


def _lost(name: str, data: Preferences, path: str | None) -> str:
    """Write a count of lost rows, with the places of the first ones where those are known."""
    places = [row.where.rpartition(", row ") for row in data.dropped.get(name, ())]
    named = [number if file == path else f"{Path(file).name} row {number}" for file, _, number in places[:_NAMED]]
    more = ", …" if len(places) > _NAMED else ""
    row = "row " if named and named[0].isdigit() else ""
    return f"{name} {data.counts[name]}" + (f" [{row}{', '.join(named)}{more}]" if named else "")


def check_context(config: Config, data: Preferences) -> None:
    """Refuse rows and limits beyond the model's context.

    There some models fail in the middle of a run, and others answer nonsense silently.
    """
    limit = context_length(config.model)
    if limit is None:
        return
    prompt = max(prompt.tokens for side in (data.trained, data.measured) for prompt in side.prompts)
    pairs = ((pair.prompt, pair.completions) for pair in [*data.reward_train, *data.reward_held_out])
    read = chain(data.trained.given(), data.measured.given(), pairs)
    given = max(asked.tokens + max((one.tokens for one in beside), default=0) for asked, beside in read)
    wanted = config.rollout.new_tokens
    if prompt + wanted > limit:
        allowed = f"at most {limit - prompt}: the longest prompt has {prompt} tokens, the model's context {limit}"
        raise InputError("rollout.max_new_tokens", wanted, allowed)
    if given > limit:
        allowed = f"less: the longest prompt and response have {given} tokens, the model's context {limit}"
        raise InputError("data.max_response_tokens", config.data.max_response_tokens, allowed)


def check_attention(config: Config) -> None:
    """Refuse credit by attention before a reward model is trained from a start model that has none."""
    trained = any(model.path is None for model in config.reward.source.models())
    if not trained or not isinstance(config.reward.credit, AttentionCredit):
        return
    model = load_skeleton(config.model)
    if not attention_layers(model):
        allowed = f"sparse, uniform or prefix (reward=sparse chooses one): {type(model).__name__} has no attention"
        raise InputError("reward/credit", "attention", allowed)


def ensure_stored(site: Site, materials: Materials) -> Stored:
    """The folders of all models that the reward and the evaluation need, trained where they are not stored yet."""
    judge = _judge(site, materials)
    return Stored(_reward_models(site, materials), _dpo_policy(site, materials), judge)


def _stage(site: Site, materials: Materials, pairs: Sequence[Pair]) -> Stage:
    held_out = materials.data.reward_held_out
    config, device, dtype, say, display = site.config, site.device, site.dtype, site.say, site.display
    return Stage(config, materials.chat, pairs, held_out, device, dtype, say, display=display)


def _reward_models(site: Site, materials: Materials) -> list[Path]:
    stage = _stage(site, materials, materials.data.reward_train)
    models = site.config.reward.source.models()
    folders = [ensure_reward_model(stage, model) for model in models]
    for model, folder in zip(models, folders, strict=True):
        found = _accuracy(site, materials, folder) if model.path is None else None
        if found is not None:
            site.judge_reward_model(found, "reward.source")
    facts = [_facts(folder) for folder in folders]
    if facts:
        site.record.update(reward_model=facts[0])
    if len(facts) > 1:
        site.record.update(reward_models=facts)
    return folders


def _accuracy(site: Site, materials: Materials, folder: Path) -> PairAccuracy | None:
    """The accuracy that a trained reward model's card states; None where no pair was held out."""
    card, prompts = read_card(folder), len({pair.prompt.id for pair in materials.data.reward_held_out})
    if card is None or card.accuracy is None or not prompts:
        return None
    return PairAccuracy.of_mean(card.accuracy, prompts, site.config.evaluation.confidence)


def _facts(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    measured = None if card is None else {"accuracy": card.accuracy, "longer_wins": card.longer_wins}
    return {"folder": str(folder), "held_out": measured}


def _dpo_policy(site: Site, materials: Materials) -> Path | None:
    credit = site.config.reward.credit
    if not isinstance(credit, ImplicitCredit):
        return None
    folder = ensure_dpo_policy(_stage(site, materials, materials.data.reward_train), credit)
    site.record.update(dpo_policy={"folder": str(folder)})
    return folder


def _judge(site: Site, materials: Materials) -> str | None:
    """Where the reward model that only judges is; trained first where it is asked for and nobody has."""
    path = site.config.evaluation.reward_model
    if path != TRAIN:
        return path
    stage = _stage(site, materials, materials.aside)
    folder = ensure_reward_model(stage, site.config.evaluation.judge.source())
    site.record.update(evaluation_reward_model={**_facts(folder), "train_pairs": len(materials.aside)})
    found = _accuracy(site, materials, folder)
    if found is not None:
        site.judge_judge(found)
    return str(folder)

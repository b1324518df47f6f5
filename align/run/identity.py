"""Fingerprints of what a run learns from and is measured on; a resumed run is held to those it began with."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from align.config import Config, FunctionSource, ImplicitCredit
from align.data.examples import Side
from align.errors import InputError
from align.models.locate import fingerprint
from align.models.tokenizer_identity import template_fingerprint, tokenizer_fingerprint
from align.run.record import RunRecord
from align.run.stages import Materials, Site, Stored
from align.types import Pair, Prompt
from align.user_files import imported_files

KEY = "identity"  # in run.json: fingerprint by part
_SHOWN = 12  # characters of a fingerprint in messages
# What a message says of a part: the key that names it, and what must be there still.
_PARTS = {
    "tokenizer": ("model.path", "the tokenizer"),
    "template": ("model.chat_template", "the chat template"),
    "model": ("model.path", "the start model"),
    "rows": ("data.path", "the set of training rows"),
    "held_out_rows": ("data.held_out_path", "the set of held-out rows"),
    "general_text": ("evaluation.general_text", "the texts"),
    "functions": ("reward.source.path", "the reward function's files"),
    "reward": ("reward.source", "the reward model"),
    "dpo_policy": ("reward.credit", "the policy whose log-ratio is the credit"),
    "judge": ("evaluation.reward_model", "the reward model that judges"),
}


def of_materials(config: Config, materials: Materials) -> dict[str, str]:
    """Compute the fingerprints of what is read from files: model, tokenizer, template, rows, texts, functions.

    Rows count by what they say, in order; with their other columns where a reward may read those.
    """
    data, rows = materials.data, config.method.needs_reward
    found = {
        "tokenizer": tokenizer_fingerprint(materials.chat.tokenizer, materials.chat.end_ids),
        "template": template_fingerprint(materials.chat.tokenizer),
        "model": fingerprint(config.model.path, config.model.revision),
        "rows": _side(data.trained, [*data.reward_train, *materials.aside], rows=rows),
        "held_out_rows": _side(data.measured, data.reward_held_out, rows=rows),
        "general_text": _hash((text.kind, text.input_ids) for text in materials.texts),
    }
    files = sorted({file for path in _functions(config) for file in imported_files(path)})
    return found | ({"functions": _hash(file.read_bytes() for file in files)} if files else {})


def of_stored(config: Config, stored: Stored) -> dict[str, str]:
    """Compute the fingerprints of the models that a run scores with."""
    found = {}
    if stored.rewards:
        found["reward"] = _hash(fingerprint(str(folder)) for folder in stored.rewards)
    if stored.dpo is not None and isinstance(config.reward.credit, ImplicitCredit):
        found["dpo_policy"] = fingerprint(str(stored.dpo))
    if stored.judge is not None:
        found["judge"] = fingerprint(stored.judge)
    return found


def hold(site: Site, found: Mapping[str, str]) -> None:
    """Note fingerprints in run.json; InputError where a resumed run began with others (`check`)."""
    began = site.record.earlier.get(KEY, {})
    if site.config.resume is not None and not began and not site.record.noted(KEY):
        site.say("warning: run.json says nothing of what the run began with; rows, model and reward are those of now")
    check(site.config, began, found)
    site.record.update(**{KEY: site.record.noted(KEY) | dict(found) | began})


def check(config: Config, began: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compare fingerprints with those that the run began with; parts that either side lacks count as equal.

    Raises:
        InputError: A part is another now. Its message names each such part, the first by its key.
    """
    changed = [part for part in _PARTS if part in began and part in now and began[part] != now[part]]
    if not changed:
        return
    first, (key, what) = changed[0], _PARTS[changed[0]]
    others = "".join(f", and {_PARTS[part][1]} ({_PARTS[part][0]})" for part in changed[1:])
    was, found = began[first][:_SHOWN], now[first][:_SHOWN]
    allowed = (
        f"{what}{others} that the run began with (fingerprint {was}, found {found}); a new run takes what is there"
    )
    raise InputError(key, _value(config, key), allowed)


def noted_differences(run: Path, record: RunRecord) -> Iterator[str]:
    """Say in a line each what an evaluation of `run` does not share with it, though no key of an evaluation sets it."""
    began, now = RunRecord.read(run).get(KEY, {}), record.noted(KEY)
    for part in ("tokenizer", "template", "model", "held_out_rows"):
        if part in began and part in now and began[part] != now[part]:
            key, what = _PARTS[part]
            yield f"warning: {what} is not that of the run any more ({key}): its figures are not those of the run's end"


def _value(config: Config, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return getattr(value, "name", value) if dataclasses.is_dataclass(value) else value


def _functions(config: Config) -> Iterator[str]:
    """Yield FILE.py:NAME of the reward functions."""
    yield from (one.path for one in config.reward.source.every().values() if isinstance(one, FunctionSource))


def _side(side: Side, pairs: Iterable[Pair], *, rows: bool) -> str:
    """Hash what one side of the split says, and further pairs."""
    said: list[Iterable[bytes]] = [
        (_number(one) + one.fingerprint + (one.row_fingerprint if rows else b"") for one in side.prompts),
        (_number(one.prompt) + one.prompt.fingerprint + one.fingerprint for one in [*side.pairs, *pairs]),
        (_number(one.prompt) + one.fingerprint + bytes([one.label]) for one in [*side.demonstrations, *side.labelled]),
    ]
    return _hash(_hash(items) for items in said)


def _number(prompt: Prompt) -> bytes:
    return prompt.id.to_bytes(8, "big", signed=True)


def _hash(items: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for item in items:
        content = item if isinstance(item, bytes) else json.dumps(item, default=lambda value: str(type(value))).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()

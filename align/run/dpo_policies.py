"""The DPO policy whose log-ratio is implicit credit (RTO): trained on the loop from a run's pairs, measured, stored."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from align.algorithms.dpo import DPO
from align.config import Config, ImplicitCredit
from align.config.methods import DPOConfig
from align.engine.roles import build_roles
from align.errors import InputError
from align.loop.checkpoint import save_policy
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_tokenizer
from align.models.locate import fingerprint, locate
from align.rewards.pairs import log_ratio_accuracy
from align.run.plan import updates_of
from align.run.record import RunRecord
from align.run.stage import Stage
from align.store import find_or_make
from align.stored.keys import dpo_policy_key

CARD = "dpo_policy.json"
KEY = "reward.credit.path"


def ensure_dpo_policy(stage: Stage, credit: ImplicitCredit) -> Path:
    """The folder of the policy that `credit` names, a whole model or an adapter; trained now if it never was.

    Raises:
        InputError: credit.path is no finished DPO run on this run's start model, or has another tokenizer.
    """
    if credit.path is not None:
        return _given(Path(credit.path), stage.config, stage.chat)
    key = dpo_policy_key(stage.config, credit, stage.train, stage.held_out)

    def make(folder: Path) -> None:
        stage.say(f"training the DPO policy of implicit credit on {len(stage.train)} pairs, once")
        card = train_dpo_policy(stage.at(folder, "DPO policy"), credit, key)
        figures = "" if card["accuracy"] is None else f"; held-out accuracy of its log-ratio {card['accuracy']:.3f}"
        stage.say(f"DPO policy trained in {card['seconds']:.0f} s{figures}")

    return find_or_make("dpo_policies", key, make)


def train_dpo_policy(stage: Stage, credit: ImplicitCredit, key: dict[str, Any]) -> dict[str, Any]:
    """Train as `method=dpo` does, measure on held-out pairs, write model and card into the stage's folder."""
    began = time.perf_counter()
    method = DPOConfig(learning_rate=credit.learning_rate, batch_size=credit.batch_size, beta=credit.beta)
    steps = updates_of(credit.epochs, len(stage.train), credit.batch_size)
    config = stage.configured(method, steps=steps, seed=credit.seed)
    stage.activity.advance("loading the models")
    roles = build_roles(config, device=stage.device, dtype=stage.dtype, reward=None, critic_init=None)
    stage.run(config, {"policy": roles.policy}, DPO, roles.reference)
    save_policy(roles.policy, stage.chat, stage.folder)
    held_out = stage.held_out
    models, chat, activity = (roles.policy, roles.reference), stage.chat, stage.activity
    accuracy = log_ratio_accuracy(*models, chat, held_out, activity) if held_out else None
    card = {
        "accuracy": accuracy,
        "held_out_pairs": len(held_out),
        "train_pairs": len(stage.train),
        "seconds": time.perf_counter() - began,
        "precision": str(stage.dtype).removeprefix("torch."),
        "key": key,
    }
    (stage.folder / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    return card


def _given(path: Path, config: Config, chat: ChatTokenizer) -> Path:
    """The model of a finished DPO run; any other folder with a model is taken as it is."""
    found = locate(str(path), key=KEY)
    folder = found.adapter or Path(found.base)
    if not folder.is_dir():
        raise InputError(KEY, str(path), "a folder on this machine")
    if (path / "config.yaml").is_file():
        _check_run(path, config)
    settings = replace(config.model, path=str(folder), revision=None)
    if load_tokenizer(settings, key=KEY).get_vocab() != chat.tokenizer.get_vocab():
        raise InputError(KEY, str(path), "a policy with this run's vocabulary")
    return folder


def _check_run(path: Path, config: Config) -> None:
    """Raise InputError unless the run in `path` is a finished DPO run on this run's start model."""
    saved = yaml.safe_load((path / "config.yaml").read_text())
    method, start = saved["method"]["name"], saved["model"]
    if method not in ("dpo", "trl_dpo"):
        raise InputError(KEY, f"{path} (method={method})", "a run of method=dpo or trl_dpo")
    status = RunRecord.read(path).get("status")
    if not str(status).startswith("finished"):  # "finished with 2 warnings"
        raise InputError(KEY, f"{path} ({status})", "a run that has finished")
    if fingerprint(start["path"], start["revision"]) != fingerprint(config.model.path, config.model.revision):
        raise InputError(KEY, f"{path} (on {start['path']})", f"a run on {config.model.path}, its reference")

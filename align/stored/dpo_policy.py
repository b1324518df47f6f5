"""The DPO policy whose log-ratio is implicit credit (RTO): from a finished run, or trained once, stored and reused."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from align.algorithms.dpo import DPO
from align.callbacks.base import Callback, CallbackList
from align.config import CheckpointConfig, Config, ImplicitCredit, RewardConfig, SparseCredit
from align.config.methods import DPOConfig
from align.data.collate import collate
from align.data.preferences import digest
from align.engine.budget import FORWARD_TOKENS
from align.engine.policy import Policy
from align.engine.roles import build_roles
from align.errors import InputError
from align.functional.batching import token_batches
from align.functional.masked import masked_sum
from align.loop.checkpoint import save_policy
from align.loop.context import LoopContext
from align.loop.loop import Loop
from align.models.chat_tokenizer import ChatTokenizer
from align.models.hardware import one_process
from align.models.load import load_tokenizer
from align.models.locate import fingerprint, locate
from align.run.record import RunRecord
from align.stored.store import find_or_make
from align.types import Pair

FORMAT = 1  # raised when a stored policy of an older version must not be reused
CARD = "dpo_policy.json"
KEY = "reward.credit.path"
TRAINING = ("learning_rate", "epochs", "batch_size", "beta", "seed")


def ensure_dpo_policy(
    config: Config,
    credit: ImplicitCredit,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device,
    dtype: torch.dtype,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder of the policy that `credit` names, a whole model or an adapter; trained now if it never was.

    Raises:
        InputError: credit.path is no finished DPO run on this run's start model, or has another tokenizer.
    """
    if credit.path is not None:
        return _given(Path(credit.path), config, chat)
    key = dpo_policy_key(config, credit, train, held_out)

    def make(folder: Path) -> None:
        say(f"training the DPO policy of implicit credit on {len(train)} pairs, once")
        card = train_dpo_policy(
            folder, config, credit, chat, train, held_out, device=device, dtype=dtype, key=key, say=say
        )
        told = "" if card["accuracy"] is None else f"; held-out accuracy of its log-ratio {card['accuracy']:.3f}"
        say(f"DPO policy trained in {card['seconds']:.0f} s{told}")

    return find_or_make("dpo_policies", key, make)


def dpo_policy_key(
    config: Config, credit: ImplicitCredit, train: Sequence[Pair], held_out: Sequence[Pair]
) -> dict[str, Any]:
    """What names a trained policy; as `reward_model_key`, precision and device are left out."""
    return {
        "format": FORMAT,
        "base": fingerprint(config.model.path, config.model.revision),
        "pairs": digest(train),
        "held_out": digest(held_out),
        "adapter": {"name": "none"} if config.adapter.name == "none" else asdict(config.adapter),
        "quantization": config.quantization.name,
        "settings": {name: getattr(credit, name) for name in TRAINING},
    }


def train_dpo_policy(
    folder: Path,
    config: Config,
    credit: ImplicitCredit,
    chat: ChatTokenizer,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device,
    dtype: torch.dtype,
    key: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train with `method=dpo`, measure on `held_out`, write model and card into `folder`; returns the card."""
    started = time.perf_counter()
    steps = math.ceil(credit.epochs * len(train) / credit.batch_size)
    own = replace(
        config,
        method=DPOConfig(learning_rate=credit.learning_rate, batch_size=credit.batch_size, beta=credit.beta),
        reward=RewardConfig(source=config.reward.source, credit=SparseCredit()),
        checkpoint=CheckpointConfig(every_steps=0),
        seed=credit.seed,
        max_steps=steps,
        max_policy_tokens=None,
        resume=None,
    )
    roles = build_roles(own, device=device, dtype=dtype, reward=None, critic_init=None)
    run = LoopContext(
        config=own,
        folder=folder / "training",
        accelerator=one_process(device, dtype),
        modules={"policy": roles.policy},
        reference=roles.reference,
        chat=chat,
        pairs=train,
        callbacks=CallbackList([_Lines(say, steps)]),
    )
    Loop(run, DPO(run)).train()
    save_policy(roles.policy, chat, folder)
    shutil.rmtree(run.folder)  # the checkpoint that every run ends with
    card = {
        "accuracy": log_ratio_accuracy(roles.policy, roles.reference, chat, held_out) if held_out else None,
        "held_out_pairs": len(held_out),
        "train_pairs": len(train),
        "seconds": time.perf_counter() - started,
        "precision": str(dtype).removeprefix("torch."),
        "key": dict(key),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    return card


def log_ratio_accuracy(
    policy: Policy, reference: Policy, chat: ChatTokenizer, pairs: Sequence[Pair], token_budget: int = FORWARD_TOKENS
) -> float:
    """Share of pairs whose chosen response has the higher log pi - log pi_ref, ties counting half."""
    rows = [(p.prompt.input_ids, r) for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    ratios = torch.zeros(len(rows))
    for index in token_batches(torch.tensor([len(a) + len(b) for a, b in rows]), token_budget):
        batch = collate([rows[i] for i in index.tolist()], chat.pad_id, policy.device)
        both = policy.response_logprobs(batch, 1.0) - reference.response_logprobs(batch, 1.0)
        ratios[index] = masked_sum(both, batch.response_mask, dim=1).cpu()
    margin = ratios[0::2] - ratios[1::2]
    return float(((margin > 0).float() + 0.5 * (margin == 0).float()).mean())


def _given(path: Path, config: Config, chat: ChatTokenizer) -> Path:
    """The model of a finished DPO run; any other folder with a model is taken at its word."""
    found = locate(str(path), key=KEY)
    folder = found.adapter or Path(found.base)
    if not folder.is_dir():
        raise InputError(KEY, str(path), "a folder on this machine")
    if (path / "config.yaml").is_file():
        saved = yaml.safe_load((path / "config.yaml").read_text())
        method, start = saved["method"]["name"], saved["model"]
        if method not in ("dpo", "trl_dpo"):
            raise InputError(KEY, f"{path} (method={method})", "a run of method=dpo or trl_dpo")
        status = RunRecord.read(path).get("status")
        if status != "finished":
            raise InputError(KEY, f"{path} ({status})", "a run that has finished")
        if fingerprint(start["path"], start["revision"]) != fingerprint(config.model.path, config.model.revision):
            raise InputError(KEY, f"{path} (on {start['path']})", f"a run on {config.model.path}, its reference")
    settings = replace(config.model, path=str(folder), revision=None)
    if load_tokenizer(settings, key=KEY).get_vocab() != chat.tokenizer.get_vocab():
        raise InputError(KEY, str(path), "a policy with this run's vocabulary")
    return folder


class _Lines(Callback):
    """A line at every tenth of the training, for which a first run may wait minutes."""

    def __init__(self, say: Callable[[str], None], steps: int) -> None:
        self._say, self._steps = say, steps

    def on_step(self, record: Mapping[str, Any]) -> None:
        step = int(record["step"])
        if step * 10 // self._steps > (step - 1) * 10 // self._steps:
            self._say(f"  DPO policy step {step}/{self._steps}  accuracy {record['dpo/accuracy']:.3f}")

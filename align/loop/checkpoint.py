"""Checkpoints: a folder `<method>_step_<N>` of safetensors and JSON, whole or not there at all. No pickles."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.engine.reference import Policy
from align.errors import InputError
from align.files import read_object
from align.loop.context import LoopContext
from align.models.chat_setup import save_chat
from align.models.chat_tokenizer import ChatTokenizer

STATE = "state.json"
FORMAT = 2  # of what a checkpoint holds


def save_modules(run: LoopContext, writer: CheckpointWriter) -> None:
    """Write the trained modules: a policy as a folder that transformers or peft load, others as their parameters."""
    for name, module in run.modules.items():
        if isinstance(module, Policy):
            save_policy(module, run.chat, writer.folder / "model")
        else:
            writer.tensors(name, module.trained_parameters())


@torch.no_grad()
def restore_modules(run: LoopContext, folder: Path) -> None:
    """Put back the weights that `save_modules` wrote, bit for bit."""
    for name, module in run.modules.items():
        if isinstance(module, Policy):
            module.restore(folder / "model")
            continue
        saved = read_tensors(folder, name)
        for key, parameter in module.trained_parameters().items():
            parameter.copy_(saved[key])


def save_policy(policy: Policy, chat: ChatTokenizer, folder: Path) -> None:
    """Write a policy and its tokenizer as transformers or peft load them, with the tokens at which responses end."""
    policy.save(folder)
    save_chat(chat, folder)


class CheckpointWriter:
    """Collects a checkpoint under a temporary name; `commit` makes it appear under its own."""

    def __init__(self, run_folder: Path, method: str, step: int) -> None:
        self.final = run_folder / f"{method}_step_{step}"
        self.folder = run_folder / f".{self.final.name}.partial"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, self.folder / f"{name}.safetensors")

    def commit(self, state: Mapping[str, Any]) -> Path:
        (self.folder / STATE).write_text(json.dumps(dict(state), indent=1) + "\n")
        for path in self.folder.rglob("*"):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(self.final, ignore_errors=True)
        os.replace(self.folder, self.final)
        return self.final


def checkpoints(run_folder: Path, method: str) -> list[tuple[int, Path]]:
    """(step, folder) of every whole checkpoint, oldest first."""
    pattern = re.compile(rf"{re.escape(method)}_step_(\d+)")
    found = ((pattern.fullmatch(p.name), p) for p in run_folder.iterdir())
    return sorted((int(m[1]), p) for m, p in found if m and (p / STATE).is_file())


def prune(run_folder: Path, method: str, keep: int, spare: Callable[[int], bool] = lambda step: False) -> None:
    """Remove all but the newest `keep` checkpoints and those whose step `spare` names."""
    for step, path in checkpoints(run_folder, method)[: -keep or None]:
        if not spare(step):
            shutil.rmtree(path)


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON part of a whole checkpoint, brought to today's format; raises InputError for one of a later format."""
    state = read_object(folder / STATE)
    if state.get("format", 1) > FORMAT:
        raise InputError("resume", f"{folder}, of format {state['format']}", f"format {FORMAT} or older; upgrade align")
    return state if "format" in state else _from_format_1(state, (folder / "experience.safetensors").is_file())


def _from_format_1(state: dict[str, Any], in_rollout: bool) -> dict[str, Any]:
    """Format 1 kept a rollout's metrics with the method, and began the next rollout where it was read."""
    metrics = state["method"].pop("rollout_metrics", None)
    progress = dict(state["progress"])
    if metrics is not None and not in_rollout and progress["update"]:
        progress |= {"rollout": progress["rollout"] + 1, "update": 0}
    return state | {"progress": progress, "examples": metrics or {}}


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file; none where the checkpoint has no such file."""
    path = folder / f"{name}.safetensors"
    return load_file(path) if path.is_file() else {}


def global_rng_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Python's, NumPy's and PyTorch's own generators: align draws from none of them, a user's reward may."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = [kind, np.asarray(keys).tolist(), position, has_gauss, gauss]
    state = {"python": random.getstate(), "numpy": numpy_state}
    tensors = {"torch_cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"torch_cuda_{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state, tensors


def set_global_rng_state(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put the generators back to what `global_rng_state` saw."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch_cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[k] for k in sorted(tensors) if k.startswith("torch_cuda")])

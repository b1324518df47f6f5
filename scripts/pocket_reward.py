"""The shipped reward models: trained by the package's own code, under the keys that runs look for.

Seeds 0 to 2 are an ensemble's members, 0 the default; `prefixes` is the default one after its second stage;
`evaluation` only measures, from pairs that no other reward model saw.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from pocket_figures import Figures
from pocket_rows import read_rows
from pocket_tokenizer import END, render
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from align.cli.groups import CONF
from align.config import RewardModelSource
from align.config.io import build, register_schemas
from align.data.preferences import load_preferences
from align.libraries import quiet
from align.models.load import load_chat_tokenizer
from align.stored.reward_model import reward_model_key, train_reward_model
from align.stored.store import key_of

VARIANTS = {
    "default": [],
    "prefixes": ["reward.source.trained_on=prefixes"],
    "seed_1": ["reward.source.seed=1"],
    "seed_2": ["reward.source.seed=2"],
    "evaluation": ["reward.source.seed=3"],
}
CHAINS = (("default", "prefixes"), ("seed_1",), ("seed_2",), ("evaluation",))  # a later link starts from the first


def train_reward_models(out: Path, overrides: list[str], jobs: int = 1) -> Figures:
    """Train every variant on the pairs under `out`, `jobs` at a time; they lie in out/reward_models/<key>, the
    measuring one in out/reward_models/evaluation. Returns the figures of each."""
    shutil.rmtree(out / "reward_models", ignore_errors=True)
    work = partial(_train_chain, out, overrides, torch.get_num_threads())
    if jobs == 1:
        done = [work(chain) for chain in CHAINS]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(work, CHAINS))
    figures: Figures = {name: result for results in done for name, result in results.items()}
    return {name: figures[name] for name in VARIANTS}


def _train_chain(out: Path, overrides: list[str], threads: int, chain: Sequence[str]) -> Figures:
    torch.set_num_threads(threads)
    quiet()
    register_schemas()
    figures: Figures = {}
    start: Path | None = None
    for name in chain:
        figures[name] = _train(out, name, [*VARIANTS[name], *overrides], start)
        start = out / "reward_models" / figures[name]["folder"]
        print(f"reward model {name}: {figures[name]['seconds']} s, {figures[name]['held_out']['all']}", flush=True)
    return figures


def _train(out: Path, name: str, overrides: list[str], start: Path | None) -> Figures:
    pairs = "evaluation.parquet" if name == "evaluation" else "train.parquet"
    paths = [f"model.path={out / 'model'}", f"data.path={out / pairs}"]
    paths += [f"data.held_out_path={out / 'held_out.jsonl'}", "device=cpu", "precision=fp32"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build(compose("config", [*paths, *overrides]))
    source = config.reward.source
    assert isinstance(source, RewardModelSource)
    chat = load_chat_tokenizer(config.model)
    data = load_preferences(config.data, chat)
    train, held_out = data.reward_train, data.reward_held_out  # all rows, whichever ones a run's figures are about
    key = reward_model_key(config, source, train, held_out)
    folder = out / "reward_models" / ("evaluation" if name == "evaluation" else key_of(key))
    folder.mkdir(parents=True)
    card = train_reward_model(
        folder, config, source, chat, train, held_out,
        device=torch.device("cpu"), dtype=torch.float32, key=key, say=print, start=start,
    )  # fmt: skip
    shutil.rmtree(folder / "unused", ignore_errors=True)  # the Trainer's own output folder
    halve(folder / "model.safetensors")
    figures = {"folder": folder.name, "seconds": round(card.seconds, 1), "prefix_scores": card.prefix_scores}
    return figures | reward_figures(folder, out / "held_out.jsonl")


def halve(path: Path) -> None:
    """Store weights in half precision; config.json keeps float32, in which they are loaded."""
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


@torch.no_grad()
def reward_figures(folder: Path, held_out: Path) -> Figures:
    """Held-out pairs by length and family: accuracy, the labels' ceiling, the way from chance to it, "longer wins".

    `expected` figures are means over all labels that could have been drawn for these pairs, not only those that were:
    the same accuracy with less noise.
    """
    rows = read_rows(held_out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [render(row["prompt"]) + row[side] + END for row in rows for side in ("chosen", "rejected")]
    encoded = tokenizer(texts)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    scores = [0.0] * len(texts)
    for at in range(0, len(order), 64):
        batch = order[at : at + 64]
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, padding_side="right", return_tensors="pt")
        for i, score in zip(batch, model(**inputs).logits[:, 0].tolist(), strict=True):
            scores[i] = score
    groups: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for i, row in enumerate(rows):
        p, gap = row["label_probability"], len(encoded[2 * i]) - len(encoded[2 * i + 1])
        won = _beats(scores[2 * i] - scores[2 * i + 1])
        for group in ("all", row["length"], row["split"], row["family"]):
            groups[group].append((won, won * p + (1 - won) * (1 - p), max(p, 1 - p), _beats(gap)))
    gold = [row[column] for row in rows for column in ("gold_chosen", "gold_rejected")]
    correlation = torch.corrcoef(torch.tensor([scores, gold]))[0, 1].item()
    return {"gold_correlation": round(correlation, 4), "held_out": {g: _summary(v) for g, v in groups.items()}}


def _beats(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def _summary(values: list[tuple[float, ...]]) -> dict[str, Any]:
    accuracy, expected, ceiling, longer = (fmean(column) for column in zip(*values, strict=True))
    way, expected_way = ((value - 0.5) / max(ceiling - 0.5, 1e-6) for value in (accuracy, expected))
    figures = {"accuracy": accuracy, "expected_accuracy": expected, "bayes_ceiling": ceiling, "way_to_ceiling": way}
    figures |= {"expected_way_to_ceiling": expected_way, "longer_wins": longer}
    return {"pairs": len(values), **{name: round(value, 4) for name, value in figures.items()}}

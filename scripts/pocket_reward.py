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
from safetensors.torch import load_file, save_file

from align.cli.groups import CONF
from align.config import RewardModelSource
from align.config.automatic import settle
from align.config.io import build, register_schemas
from align.data.preferences import load_preferences
from align.engine.engine import Engine
from align.evaluation.judge import load_value_head
from align.libraries import quiet
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_chat_tokenizer, model_facts
from align.models.locate import HEAD
from align.rewards.pairs import final_scores
from align.run.reward_models import train_reward_model
from align.run.stage import RECORDS, Stage
from align.store import TRAINING, key_of
from align.stored.keys import reward_model_key
from align.types import Pair

VARIANTS = {
    "default": [],
    "prefixes": ["reward.source.trained_on=prefixes"],
    "seed_1": ["reward.source.seed=1"],
    "seed_2": ["reward.source.seed=2"],
    "evaluation": ["reward.source.seed=3"],
}
CPU = torch.device("cpu")
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
    config = settle(config, model_facts(config.model)).config
    source = config.reward.source
    assert isinstance(source, RewardModelSource)
    chat = load_chat_tokenizer(config.model)
    data = load_preferences(config.data, chat)
    train, held_out = data.reward_train, data.reward_held_out  # all rows, whichever ones a run's figures are about
    key = reward_model_key(config, source, train, held_out)
    folder = out / "reward_models" / ("evaluation" if name == "evaluation" else key_of(key))
    folder.mkdir(parents=True)
    stage = Stage(config, chat, train, held_out, CPU, torch.float32, print, f"reward model {name}", folder)
    card = train_reward_model(stage, source, key, start)
    shutil.rmtree(folder / TRAINING)
    (folder / RECORDS).unlink()  # of use to whoever waits for them
    halve(folder / "model.safetensors")
    figures = {"folder": folder.name, "seconds": round(card.seconds, 1), "prefix_scores": card.prefix_scores}
    return figures | reward_figures(folder, chat, held_out)


def halve(path: Path) -> None:
    """Store a body's weights in half precision; config.json keeps float32, in which they are loaded."""
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    for part in (path, path.with_name(HEAD)):
        part.chmod(0o644)


def reward_figures(folder: Path, chat: ChatTokenizer, held_out: Sequence[Pair]) -> Figures:
    """Held-out pairs by length and family: accuracy, the labels' ceiling, the way from chance to it, "longer wins".

    `expected` figures are means over all labels that could have been drawn for these pairs, not only those that were:
    the same accuracy with less noise.
    """
    model = load_value_head(str(folder), CPU, torch.float32, Engine(), key="reward.source.path")
    scores = final_scores(model, chat, held_out).tolist()
    rows = [pair.prompt.row for pair in held_out]
    groups: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for i, (row, pair) in enumerate(zip(rows, held_out, strict=True)):
        p, gap = row["label_probability"], len(pair.chosen_ids) - len(pair.rejected_ids)
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

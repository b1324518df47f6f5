"""Build the embedded world's assets from a seed: tokenizer, start model, pairs, general text, prompts, reward model.

    python scripts/build_pocket.py                    # align/worlds/assets/pocket, about 40 minutes
    python scripts/build_pocket.py --tiny --out DIR   # seconds, for tests
    python scripts/build_pocket.py --start-at pairs   # pairs and reward models again, with the model that lies there

The same seed, threads, library versions and CPU class give the same files; build.json records all of these, a hash of
every file, and the figures. The reward models are those that runs would train (same code, same keys).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from pocket_corpus import Mixture, examples
from pocket_figures import Figures, pair_figures, perplexity, start_model_figures
from pocket_model import TrainSettings, train_start_model
from pocket_pairs import PairSettings, StartModel, make_pairs, unique_tasks
from pocket_reward import train_reward_models
from pocket_rows import read_rows, write_rows
from pocket_tokenizer import train_tokenizer
from transformers.utils import logging as hf_logging

from align.evaluation.prompts_file import format_prompts, made_perturbations
from align.worlds import ASSETS
from align.worlds.pocket import general, split

LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "pyarrow")


@dataclass(frozen=True)
class Settings:
    """Everything that a build depends on, the seed and the threads aside."""

    vocab_size: int = 1024
    tokenizer_texts: int = 20_000
    general_texts: int = 400
    prompts: int = 50
    figure_prompts: int = 1000
    model: TrainSettings = field(default_factory=TrainSettings)
    pairs: PairSettings = field(default_factory=PairSettings)


TINY = Settings(
    vocab_size=400,
    tokenizer_texts=300,
    general_texts=10,
    prompts=10,
    figure_prompts=8,
    model=TrainSettings(
        hidden=32, layers=1, heads=2, intermediate=64, tokens=150_000, batch_tokens=512, pool=256,
        learning_rate=1e-2, mixture=Mixture(long=0.1),
    ),
    pairs=PairSettings(train=32, evaluation=16, held_out=16, long_share=0.2, max_new_tokens=64),
)  # fmt: skip


def build(out: Path, settings: Settings, seed: int, from_scratch: bool = True) -> Figures:
    """Write every file but the reward models under `out`, with the start model that lies there unless `from_scratch`;
    returns the figures.

    Files, in order: model/, train.parquet, evaluation.parquet, held_out.jsonl, general.jsonl, prompts.txt.
    """
    out.mkdir(parents=True, exist_ok=True)
    timings: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        timings[name], began = round(time.perf_counter() - began, 1), time.perf_counter()
        print(f"{name}: {timings[name]} s", flush=True)

    if from_scratch:
        _build_model(out / "model", settings, seed)
        lap("model")
    model = StartModel.load(out / "model")
    _write_pairs(out, model, settings.pairs, seed)
    lap("pairs")
    rng = random.Random(f"general-{seed}")
    texts = [general.text(rng, frozenset({"tune", "report"})) for _ in range(settings.general_texts)]
    write_rows(out / "general.jsonl", [{"text": text} for text in texts])
    write_prompts(out, settings.prompts, seed)
    figures = {
        "start_model": start_model_figures(model, settings.figure_prompts, seed),
        "general_perplexity": perplexity(model, texts[:100]),
        "train_pairs": pair_figures(read_rows(out / "train.parquet")),
        "held_out_pairs": pair_figures(read_rows(out / "held_out.jsonl")),
    }
    lap("figures")
    return {**figures, "seconds": timings}


def _write_pairs(out: Path, model: StartModel, s: PairSettings, seed: int) -> None:
    """The three files of pairs; none of them shares a prompt with another."""
    taken: frozenset[str] = frozenset()
    for name, sides, count in (("train.parquet", ("train",), s.train), ("evaluation.parquet", ("train",), s.evaluation),
                               ("held_out.jsonl", ("tune", "report"), s.held_out)):  # fmt: skip
        stream = f"{name.split('.')[0]}-{seed}"
        chosen = unique_tasks(random.Random(stream), frozenset(sides), count, s.long_share, taken)
        taken |= {task.prompt for task in chosen}
        owners = [split(task.prompt) for task in chosen]
        write_rows(out / name, make_pairs(model, chosen, owners, s, seed=_stream(stream)))


def write_prompts(out: Path, count: int, seed: int) -> None:
    """prompts.txt: held-out prompts of the report side, half of them long, each with its perturbations.

    They are rows of held_out.jsonl, because the gold reward of what a perturbation is answered needs the prompt's row.
    """
    rows = [row for row in read_rows(out / "held_out.jsonl") if row["split"] == "report"]
    rng = random.Random(f"prompts-{seed}")
    chosen: list[str] = []
    for length in ("short", "long"):
        prompts = [row["prompt"] for row in rows if row["length"] == length]
        chosen += rng.sample(prompts, min(count // 2, len(prompts)))
    rng.shuffle(chosen)
    (out / "prompts.txt").write_text(format_prompts(made_perturbations(chosen)))


def _build_model(folder: Path, settings: Settings, seed: int) -> None:
    """Train tokenizer and start model; weights are stored in half precision and loaded as float32."""
    s = settings.model
    sample = examples(random.Random(f"tokenizer-{seed}"), s.mixture)
    texts = [e.prefix + e.target for e in islice(sample, settings.tokenizer_texts)]
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    model = train_start_model(tokenizer, s, seed)
    halves = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=halves)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _stream(name: str) -> int:
    """A seed for torch from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every file by relative path, but of the two that hold timings."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in {"build.json", "reward_model.json"})
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "pocket")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="what the hashes depend on; 1 made the shipped files")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes; useless as a world")
    parser.add_argument("--tokens", type=int, help="training tokens of the start model (default: full recipe)")
    parser.add_argument("--jobs", type=int, default=2, help="reward models trained at once, on --threads each")
    parser.add_argument("--start-at", choices=("model", "pairs", "rewards"), default="model",
                        help="keep the files of the stages before")  # fmt: skip
    parser.add_argument("overrides", nargs="*", help="of the reward models' runs, such as reward.source.epochs=2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    settings = TINY if args.tiny else Settings()
    if args.tokens:
        settings = replace(settings, model=replace(settings.model, tokens=args.tokens))
    record_path = args.out / "build.json"
    figures: Figures = json.loads(record_path.read_text())["figures"] if args.start_at != "model" else {}
    if args.start_at != "rewards":
        seconds = figures.get("seconds", {})
        figures = build(args.out, settings, args.seed, from_scratch=args.start_at == "model")
        figures["seconds"] = seconds | figures["seconds"]
    began = time.perf_counter()
    figures["reward_models"] = train_reward_models(args.out, args.overrides, args.jobs)
    figures["seconds"]["reward_models"] = round(time.perf_counter() - began, 1)
    record = {
        "seed": args.seed,
        "threads": args.threads,
        "cpu": {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "settings": asdict(settings),
        "figures": figures,
        "sha256": hashes(args.out),
    }
    record_path.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

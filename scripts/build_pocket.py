"""Build the embedded world's assets from a seed: tokenizer, start model, pairs, general text, prompts, reward model.

    python scripts/build_pocket.py                    # align/worlds/assets/pocket, about half an hour on one core
    python scripts/build_pocket.py --tiny --out DIR   # seconds, for tests
    python scripts/build_pocket.py --reward-only      # the reward model again, from the pairs that lie there

The same seed, threads, library versions and CPU class give the same files; build.json records all of these, a hash of
every file, and the figures. The reward model is the one that a default run would train (same code, same key).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pocket_corpus import Mixture, examples
from pocket_figures import Figures, pair_figures, perplexity, read_rows, start_model_figures
from pocket_model import TrainSettings, train_start_model
from pocket_pairs import PairSettings, make_pairs, unique_tasks
from pocket_reward import train_reward
from pocket_tokenizer import train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from align.evaluation.prompts_file import format_prompts, made_twins
from align.worlds import ASSETS
from align.worlds.pocket import general, split

LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


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
    pairs=PairSettings(train=32, held_out=16, long_share=0.2, max_new_tokens=64),
)  # fmt: skip


def build(out: Path, settings: Settings, seed: int) -> Figures:
    """Write every file but the reward models under `out`; returns the figures.

    Files, in order: model/, train.jsonl, held_out.jsonl, general.jsonl, prompts.txt, build.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    timings: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        timings[name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {timings[name]} s", flush=True)

    _build_model(out / "model", settings, seed)
    lap("model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model = AutoModelForCausalLM.from_pretrained(out / "model", attn_implementation="eager").eval()
    for name, sides, count in (("train", ("train",), settings.pairs.train),
                               ("held_out", ("tune", "report"), settings.pairs.held_out)):  # fmt: skip
        chosen = unique_tasks(random.Random(f"{name}-{seed}"), frozenset(sides), count, settings.pairs.long_share)
        owners = [split(task.prompt) for task in chosen]
        rows = make_pairs(model, tokenizer, chosen, owners, settings.pairs, seed=_stream(f"{name}-{seed}"))
        _write_jsonl(out / f"{name}.jsonl", rows)
    lap("pairs")
    rng = random.Random(f"general-{seed}")
    texts = [general.text(rng) for _ in range(settings.general_texts)]
    _write_jsonl(out / "general.jsonl", ({"text": text} for text in texts))
    write_prompts(out, settings.prompts, seed)
    figures = {
        "start_model": start_model_figures(model, tokenizer, settings.figure_prompts, seed),
        "general_perplexity": perplexity(model, tokenizer, texts[:100]),
        "train_pairs": pair_figures(read_rows(out / "train.jsonl")),
        "held_out_pairs": pair_figures(read_rows(out / "held_out.jsonl")),
    }
    lap("figures")
    return {**figures, "seconds": timings}


def write_prompts(out: Path, count: int, seed: int) -> None:
    """prompts.txt: held-out prompts of the report side, half of them long, each with its twins.

    They are rows of held_out.jsonl, because the gold reward of what a twin is answered needs the prompt's row.
    """
    rows = [row for row in read_rows(out / "held_out.jsonl") if row["split"] == "report"]
    rng = random.Random(f"prompts-{seed}")
    chosen: list[str] = []
    for length in ("short", "long"):
        prompts = [row["prompt"] for row in rows if row["length"] == length]
        chosen += rng.sample(prompts, min(count // 2, len(prompts)))
    rng.shuffle(chosen)
    (out / "prompts.txt").write_text(format_prompts(made_twins(chosen)))


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


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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
    parser.add_argument("--reward-only", action="store_true")
    parser.add_argument("overrides", nargs="*", help="of the reward model's run, such as reward.source.epochs=2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    settings = TINY if args.tiny else Settings()
    if args.tokens:
        settings = replace(settings, model=replace(settings.model, tokens=args.tokens))
    record_path = args.out / "build.json"
    if args.reward_only:
        figures = json.loads(record_path.read_text())["figures"]
    else:
        figures = build(args.out, settings, args.seed)
    figures["reward_model"] = train_reward(args.out, args.overrides)
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

"""align and TRL on the same model, prompts, tokens and precision: seconds a step, tokens a second, peak memory.

    python scripts/bench/against_trl.py --method grpo                                   # SmolLM2-135M's dimensions
    python scripts/bench/against_trl.py --method grpo --adapter lora --prompt-tokens 512 --group 8
    python scripts/bench/against_trl.py --method dpo --precision bf16
    python scripts/bench/against_trl.py --method ppo --trl-python DIR/bin/python        # TRL 1.12: see trl_ppo.py
    python scripts/bench/against_trl.py --method grpo --device cuda --precision fp16 --shape 1.7b --adapter lora
    python scripts/bench/against_trl.py --method grpo --shape tiny --steps 2            # to see that it works

Both sides run in processes of their own and take turns, a step each, so that whatever else the machine does meets both.
TRL runs in every setting of --trl first (one step after a warm-up) and is compared at its fastest. A DPO step of TRL's
with precomputed reference log-probabilities includes its share of their computation, as for one pass over the data.
Memory is the peak of the resident size less the size after imports, on a GPU of what torch has allocated there. Weights
are random, so responses never end early; the table says how long they were. Run it on an otherwise idle machine;
OMP_NUM_THREADS sets the threads of both sides; MALLOC_... there takes the keeping of freed memory from align's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from limits import ideal_seconds, measure, require
from shapes import SHAPES, prompt_ids, random_model, random_reward, write_pairs

from align.engine.fast.pages import KEPT_UP_TO

HERE = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "trl", "peft")
WORDS = {
    "pre": "reference log-probabilities precomputed (dpo)",
    "bf16": "frozen weights stored in bf16",
    "fp16": "frozen weights stored in fp16",
    "autocast": "all of training under autocast (ppo)",
    "kept": "freed memory kept by glibc, as align keeps it (on a CPU)",
    "static": "transformers' static cache, whose decoding steps it compiles (grpo)",
}
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(KEPT_UP_TO), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULTS = {  # by method and adapter
    ("grpo", "none"): "sdpa/0,sdpa/4,eager/0,sdpa/4/kept",
    ("grpo", "lora"): "sdpa/0,sdpa/0/bf16,sdpa/4/bf16,eager/0/bf16,sdpa/4/bf16/kept",
    ("dpo", "none"): "sdpa/0,sdpa/4,eager/0,sdpa/4/pre,sdpa/4/kept",
    ("dpo", "lora"): "sdpa/0,sdpa/0/bf16,sdpa/4/bf16,eager/0/bf16,sdpa/4/bf16/pre,sdpa/4/bf16/kept",
    ("ppo", "none"): "sdpa/0,sdpa/0/autocast,sdpa/0/bf16/autocast,eager/0/bf16/autocast,sdpa/0/bf16/autocast/kept",
    ("ppo", "lora"): "sdpa/0,sdpa/0/autocast,sdpa/0/bf16/autocast,eager/0/bf16/autocast,sdpa/0/bf16/autocast/kept",
}


class Side:
    """A process of sides.py."""

    def __init__(self, side: str, args: argparse.Namespace, **settings: Any) -> None:
        given = vars(args) | settings | {"side": side}
        ppo = side == "trl" and args.method == "ppo"
        python, script = (args.trl_python, "trl_ppo.py") if ppo else (sys.executable, "sides.py")
        command = [python, str(HERE / script), json.dumps(given)]
        log = Path(args.scratch) / f"{side}.log"
        paths = str(HERE.parents[1]), os.environ.get("PYTHONPATH")
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
            | (KEPT if settings.get("kept") else {}),
        )

    def warm(self) -> None:
        """Wait for the first step, once; sides that are started together load together."""
        self._read()

    def step(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._log.read_text()[-3000:])
        return json.loads(line)


def trl_settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What --trl names: attention/rows of a micro-batch (0 = all), and any of WORDS behind them."""
    settings = []
    for text in args.trl.split(","):
        attention, rows, *words = text.split("/")
        if set(words) - WORDS.keys():
            raise SystemExit(f"--trl: given {text}; allowed behind attention/rows: {', '.join(WORDS)}")
        if "kept" in words and args.device == "cuda":
            raise SystemExit(f"--trl: given {text}; allowed: kept where --device is cpu")
        stored = set(words) & DTYPES.keys()
        if stored - {args.precision} or (args.precision == "fp32" and "autocast" in words):
            raise SystemExit(f"--trl: given {text}; allowed: the type that --precision names ({args.precision})")
        if stored and args.adapter == "none" and args.method != "ppo":
            raise SystemExit(
                f"--trl: given {text}; allowed where every weight is trained: settings without {args.precision}"
            )
        own = {
            "precompute": "pre" in words,
            "base": args.precision if stored else "fp32",
            "autocast": "autocast" in words,
            "static": "static" in words,
            "kept": "kept" in words,
        }
        settings.append({"attention": attention, "micro_rows": int(rows), "name": text, **own})
    return settings


def default_settings(args: argparse.Namespace) -> str:
    """Of DEFAULTS those that this precision has."""
    known = DEFAULTS[args.method, args.adapter].replace("/bf16", f"/{args.precision}").split(",")
    if args.precision == "fp32":
        known = [setting for setting in known if not {"fp32", "autocast"} & set(setting.split("/"))]
    if args.device == "cuda":
        known = [setting for setting in known if "kept" not in setting]
    if args.device == "cuda" and args.method == "grpo":
        known.append(known[1] + "/static" if args.adapter == "lora" and args.precision != "fp32" else "sdpa/0/static")
    return ",".join(known)


def fastest(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """TRL's fastest setting, and a step's seconds in each that was tried."""
    settings = trl_settings(args)
    if len(settings) == 1:
        return settings[0], {}
    seconds = {}
    for setting in settings:
        side = Side("trl", args, **setting)
        side.warm()
        step = side.step()
        seconds[setting["name"]] = step["seconds"] + step["before"]
        side.close()
        print(f"TRL {setting['name']}: {seconds[setting['name']]:.2f} s a step", file=sys.stderr)
    best = min(seconds, key=lambda name: seconds[name])
    return next(s for s in settings if s["name"] == best), seconds


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Steps in turn; medians of them."""
    best, tried = fastest(args)
    together = args.device == "cuda" and not best["precompute"]  # else what is timed before the first step is alone
    sides = {}
    for name, settings in (("align", {}), ("trl", best)):
        sides[name] = Side(name, args, **settings)
        if not together:
            sides[name].warm()
    for side in sides.values() if together else ():
        side.warm()
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(args.steps - 1):
        for name, side in sides.items():
            steps[name].append(side.step())
            print(f"{name}: {steps[name][-1]}", file=sys.stderr)
    for side in sides.values():
        side.close()
    found: dict[str, Any] = {"trl_setting": best["name"], "trl_tried": tried}
    for name, done in steps.items():
        seconds = median(s["seconds"] + s.get("before", 0.0) for s in done)
        tokens = args.rows * (args.prompt_tokens + args.new_tokens)
        found[name] = {
            "seconds": seconds,
            "all_seconds": [round(s["seconds"], 3) for s in done],
            "tokens_per_second": tokens / seconds,
            "peak_mib": done[-1]["mib"],
            "response_tokens": done[-1]["tokens"],
            "parts": done[-1].get("parts"),
        }
    return found


def table(found: dict[str, Any]) -> str:
    ours, theirs = found["align"], found["trl"]
    lines = ["| | align | TRL | ratio |", "| --- | --- | --- | --- |"]
    for name, key, digits in (("seconds a step", "seconds", 2), ("peak memory, MiB", "peak_mib", 0)):
        a, b = ours[key], theirs[key]
        ratio = b / a if key == "seconds" else a / b
        lines.append(f"| {name} | {a:.{digits}f} | {b:.{digits}f} | {ratio:.2f}x |")
    tokens = [f"{side['tokens_per_second']:.0f}" for side in (ours, theirs)]
    shares = [f"{found['ideal_seconds'] / side['seconds']:.0%}" for side in (ours, theirs)]
    lines.append(f"| tokens/s, prompt and response | {tokens[0]} | {tokens[1]} | |")
    lines.append(f"| of the machine's limit ({found['ideal_seconds']:.2f} s) | {shares[0]} | {shares[1]} | |")
    return "\n".join(lines)


def prepare(args: argparse.Namespace, shape: dict[str, Any], scratch: Path) -> None:
    """Model and data of the two sides, into `scratch`; their places go into `args`."""
    os.environ["HF_DATASETS_CACHE"] = f"{scratch}/datasets"
    args.scratch, args.model = str(scratch), str(random_model(scratch / "model", shape))
    lengths = {"prompt_tokens": args.prompt_tokens, "response_tokens": args.new_tokens}
    count = (args.steps + 2) * args.rows
    args.pairs = str(write_pairs(scratch / "pairs.jsonl", Path(args.model), count=count, **lengths))
    if args.method == "ppo":
        args.reward = str(random_reward(scratch / "reward", Path(args.model), args.adapter))
        args.prompts = f"{scratch}/prompts.json"
        Path(args.prompts).write_text(json.dumps(prompt_ids(Path(args.model), Path(args.pairs))))


def versions_of(python: str) -> dict[str, str]:
    """Of the libraries in another interpreter's environment."""
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {LIBRARIES}}}))"
    return json.loads(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["grpo", "dpo", "ppo"], default="grpo")
    parser.add_argument("--adapter", choices=["none", "lora"], default="none")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="135m", help="of SmolLM2")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64, help="of each response")
    parser.add_argument("--group", type=int, default=4, help="responses to a prompt (grpo)")
    parser.add_argument("--rows", type=int, default=16, help="responses of a step")
    parser.add_argument("--steps", type=int, default=4, help="the first is a warm-up")
    parser.add_argument("--micro-batch-tokens", type=int, help="align's method.micro_batch_tokens (its own default)")
    parser.add_argument(
        "--trl", default=None, help=f"settings of TRL, comma-separated: attention/micro-batch rows[/WORD...]; {WORDS}"
    )
    parser.add_argument("--results", default=str(HERE / "results"), help="folder to write to")
    parser.add_argument("--trl-python", help="of an environment with TRL 1.12, for --method ppo")
    args = parser.parse_args()
    require(args.device)
    if args.method == "ppo" and args.trl_python is None:
        raise SystemExit(
            "--method ppo: TRL has had no PPO since 1.13; allowed: --trl-python of an environment with 1.12"
        )
    args.trl = args.trl or default_settings(args)
    shape, dtype = SHAPES[args.shape], DTYPES[args.precision]
    before = measure(dtype, args.device)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(args, shape, Path(scratch))
        found = compare(args)
    after = measure(dtype, args.device)
    machine = {name: max(rate, before[name]) for name, rate in after.items()}  # others may be at work, too
    found |= {"ideal_seconds": ideal_seconds(args, shape, machine), "machine": machine}
    found["threads"] = torch.get_num_threads()
    found["cpu"] = platform.processor() or platform.machine()
    if args.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    found["versions"] = {name: version(name) for name in LIBRARIES}
    if args.method == "ppo":
        found["versions_trl"] = versions_of(args.trl_python)
    command = "python scripts/bench/against_trl.py " + " ".join(sys.argv[1:])
    where = f", on one {found['gpu']}" if args.device == "cuda" else ""
    text = f"`OMP_NUM_THREADS={found['threads']} {command}`{where}\n\n{table(found)}\n"
    print(text)
    if args.shape != "tiny":
        name = f"{args.method}_{args.adapter}_{args.precision}_p{args.prompt_tokens}_n{args.new_tokens}_g{args.group}"
        name += f"_r{args.rows}" if args.rows != 16 else ""
        name += f"_m{args.micro_batch_tokens}" if args.micro_batch_tokens else ""
        name += "" if args.shape == "135m" else f"_{args.shape.replace('.', '_')}"
        name += "_cuda" if args.device == "cuda" else f"_t{found['threads']}" if found["threads"] > 1 else ""
        results = Path(args.results)
        results.mkdir(exist_ok=True)
        (results / f"{name}.json").write_text(json.dumps({"command": command, **found}, indent=2) + "\n")
        (results / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()

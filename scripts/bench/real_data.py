"""GSM8K under the numeric rule, and QA-Feedback under a reward model trained on it, on SmolLM2-135M's dimensions.

    python scripts/bench/real_data.py DATA    # DATA/gsm8k/train.jsonl, DATA/qa_feedback/dev_feedback.json
    python scripts/bench/real_data.py DATA --tiny

Do real data go through whole runs, of a few updates, on a model of a real one's size? The weights are random, so the
rewards mean nothing. Data: https://github.com/openai/grade-school-math, https://github.com/allenai/FineGrainedRLHF.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from shapes import SHAPE, TINY, random_model

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = (
    *("adapter=lora", "model=local", "data=jsonl", "data.max_prompt_tokens=256", "data.max_response_tokens=400"),
    *("rollout.batch_size=8", "rollout.max_new_tokens=48", "method.minibatch_size=8", "max_steps=3"),
    *("evaluation.num_prompts=8", "evaluation.num_pairs=8", "evaluation.num_texts=4", "evaluation.num_probes=2"),
)
RULES = ("reward/source=rules", "reward/credit=sparse", "reward.source.word_limit.weight=0")
RULES += ("reward.source.numeric.weight=1", "reward.source.format.weight=0.2")
RUNS = {
    "gsm8k": ("method=grpo", "method.group_size=4", "data.train_split='train[:400]'", *RULES),
    "qa_feedback": ("method=ppo", "reward=dense", "data.train_split='train[:80]'", "reward.source.epochs=1",
                    "reward.source.reference_responses=16"),
}  # fmt: skip
FILES = {"gsm8k": "gsm8k/train.jsonl", "qa_feedback": "qa_feedback/dev_feedback.json"}


def run(name: str, source: Path, model: Path, folder: Path, own: list[str]) -> None:
    """Convert, align, and say what came of it.

    Raises:
        CalledProcessError: either of the two commands failed.
    """
    pairs = folder / f"{name}.jsonl"
    subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py"), str(source), str(pairs)], check=True)
    words = [*RUNS[name], *COMMON, f"model.path={model}", f"data.path={pairs}", f"hydra.run.dir={folder / name}", *own]
    environment = os.environ | {"ALIGN_HOME": str(folder / "home")}
    subprocess.run([sys.executable, "-m", "align", *words], check=True, env=environment)
    record = json.loads((folder / name / "run.json").read_text())
    steps = [json.loads(line) for line in (folder / name / "log_history.jsonl").read_text().splitlines()]
    last = next(step for step in reversed(steps) if "rollout" in step)
    print(f"{name}: {record['status']}, {record['data']}")
    print(f"{name}: seconds {record['seconds']}, peak {record['peak_memory_mib']:.0f} MiB")
    print(f"{name}: update {last['step']}, KL {last['kl/per_response_k1']:.4f}, score {last['reward/score_mean']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape in place of 135M")
    given, own = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="align-bench-") as scratch:
        model = random_model(Path(scratch) / "model", TINY if given.tiny else SHAPE)
        for name, file in FILES.items():
            run(name, given.data / file, model, Path(scratch), own)


if __name__ == "__main__":
    main()

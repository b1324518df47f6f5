"""The folder of a small run, written with the parts that real runs use."""

import json

import pytest
import yaml

from align.callbacks import RunInfo
from align.callbacks.jsonl import JsonlCallback
from align.evaluation import EvaluationResult, save_after
from align.metrics import METRICS

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \u2028 ü 😀"


def summary(after):
    return {
        "perplexity": 4.0 + after,
        "forgetting_perplexity": 5.0,
        "kl_per_response": 1.25 * after,
        "reward": {"proxy_mean": 0.1 + 0.5 * after, "gold_mean": 0.2 + 0.3 * after},
        "win_rate": {"mean": 0.5 + 0.2 * after, "low": 0.5 + 0.1 * after, "high": 0.5 + 0.3 * after, "judge": "gold"},
        "verbosity": {"mean_tokens": 20.0 - 8 * after, "compliance_rate": 0.5},
        "eos_rate": 1.0,
    }


def samples(after):
    rows = []
    for i in range(12):
        text = HOSTILE if i == 3 else f"answer {i}" + " more" * (i % 3)
        rows.append(
            {
                "prompt_id": i,
                "prompt": f"question {i} " + (HOSTILE if i == 3 else ""),
                "response": text,
                "tokens": 3,
                "words": len(text.split()),
                "ended": i != 5,
                "proxy": 0.1 * i,
                "gold": 0.05 * i * (1 if after else -1),
                "pieces": [text[:4], text[4:], ""],
                "token_rewards": [0.1, -0.2, None if i == 2 else 0.3],
                "segments": [[0, 4, 0.5, "good"], [len(text), len(text), -0.25, "no end"]],
            }
        )
    return rows


def record(step):
    values = {n: float(step) / 10 for n, m in METRICS.items() if not m.optional}
    return {"step": step, "seconds": float(step), "rollout": step // 2, "update": step % 2, **values}


def write_run(folder, steps=20):
    config = {
        "method": {"name": "ppo"},
        "model": {"path": "align://pocket/model"},
        "reward": {"source": {"name": "reward_model"}, "credit": {"name": "attention"}},
        "max_steps": steps,
        "seed": 7,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("# python -m align\n" + yaml.safe_dump(config))
    facts = {
        "status": "finished",
        "command": "/somewhere/align/__main__.py method=ppo 'data.path=my file.jsonl'",
        "hardware": {"device": "cpu"},
        "seconds": {"train": 61.0},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    callback = JsonlCallback()
    callback.on_run_start(RunInfo(folder, config, "ppo", steps, 0, 7))
    callback.on_evaluation("before", 0, summary(0))
    for step in range(1, steps + 1):
        values = record(step)
        if step == 7:
            values["policy/entropy"] = float("nan")
        callback.on_step(values)
        if step == steps // 2:
            callback.on_evaluation("during", step, summary(0.5))
    callback.on_evaluation("after", steps, summary(1))
    callback.on_end({})
    before, after = EvaluationResult(summary(0), samples(False)), EvaluationResult(summary(1), samples(True))
    save_after(folder, before, after, {"num_prompts": 12, "temperature": 1.0, "judge": "gold", "confidence": 0.9})
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first")

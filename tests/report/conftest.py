"""The folder of a small run, written with the parts that real runs use."""

import json

import pytest
import yaml

from align.callbacks import RunInfo
from align.callbacks.jsonl import JsonlCallback
from align.errors import NOTE, Verdict
from align.evaluation import EvaluationResult, save_after
from align.evaluation.intervals import Bootstrap
from align.evaluation.probes import shifts
from align.files import LineFile
from align.metrics import DELTA, METRICS
from align.report.summary import figures_of

NOTED = Verdict(NOTE, "too few", 0.1, "evaluation.num_prompts")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \u2028 ü 😀"


def summary(after):
    return {
        "perplexity": 4.0 + after,
        "forgetting_perplexity": 5.0,
        "kl_per_response": 1.25 * after,
        "kl": {"per_response_k1_se": 0.1},
        "reward": {"proxy_mean": 0.1 + 0.5 * after, "gold_mean": 0.2 + 0.3 * after},
        "win_rate": {"mean": 0.5 + 0.2 * after, "low": 0.5 + 0.1 * after, "high": 0.5 + 0.3 * after, "judge": "gold"},
        "verbosity": {"mean_tokens": 20.0 - 8 * after, "compliance_rate": 0.5},
        "eos_rate": 1.0,
        "length_correlation": {"proxy": 0.5 * min(after, 1)},
        "proxy_gold_gap": {"proxy_gain": after, "quality_gain": 0.25 * after, "gap": 0.75 * min(after, 1)},
    }


def samples(after):
    rows = []
    for i in range(12):
        text = HOSTILE if i == 3 else f"answer {i}" + " more" * (i % 3)
        text += "!" if after and i != 4 else ""  # the fifth stays what it was, whatever it scores
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


def record(step, method="ppo", seed=0):
    values = {n: float(step + seed) / 10 for n, m in METRICS.items() if method in m.methods and not m.optional}
    values |= {"event/bad_steps": 0.0} if "event/bad_steps" in values else {}
    return {"step": step, "seconds": (1 + seed) * step, "rollout": step // 2, "update": step % 2, **values}


def moved(kind, proxy, gold):
    """Rows of two prompts, whose perturbation moves both rewards by the given amounts."""
    rows = []
    for i in (0, 1):
        rows.append({"prompt_id": i, "kind": "original", "proxy": 1.0 * i, "gold": 0.5, "tokens": 5})
        rows.append({"prompt_id": i, "kind": kind, "proxy": i + proxy[i], "gold": 0.5 + gold[i], "tokens": 9})
    return rows


def probes(seed):
    """By the evaluation's own code: the report reads what that writes."""
    filler = shifts(moved("filler", (0.3 + 0.1 * seed, 0.5 + 0.1 * seed), (-0.2, 0.0)), "gold")
    cut = shifts(moved("truncation", (-1.0 + 0.1 * seed, -1.0 + 0.1 * seed), (-0.5, -0.3 * seed)), "gold")
    return {
        "prompts": shifts(moved("typos", (-0.2, -0.4 - 0.1 * seed), (0.0, 0.0)), "gold"),
        "responses": {figure: kinds | cut[figure] for figure, kinds in filler.items()},
        "strongest": {"prompts": None, "responses": "filler"},
    }


def write_run(folder, steps=20, method="ppo", seed=7, credit="attention", probed=False, gap_at=7, verdicts=()):
    config = {
        "method": {"name": method},
        "model": {"path": "align://pocket/model"},
        "reward": {"source": {"name": "reward_model"}, "credit": {"name": credit}},
        "max_steps": steps,
        "seed": seed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("# python -m align\n" + yaml.safe_dump(config))
    facts = {
        "status": "finished",
        "command": f"/somewhere/align/__main__.py method={method} 'data.path=my file.jsonl'",
        "hardware": {"device": "cpu"},
        "seconds": {"train": 61.0},
        "verdicts": [verdict.as_json() for verdict in verdicts],
    }
    (folder / "run.json").write_text(json.dumps(facts))
    callback = JsonlCallback()
    callback.on_run_start(RunInfo(folder, config, method, steps, 0, seed))
    callback.on_evaluation("before", 0, summary(0))
    for step in range(1, steps + 1):
        values = record(step, method, seed)
        if step == gap_at:
            values["policy/entropy"] = float("nan")
        callback.on_step(values)
        if step == steps // 2:
            callback.on_evaluation("during", step, summary(0.5))
    end = summary(1 + seed / 100) | ({"probes": probes(seed)} if probed else {})
    callback.on_evaluation("after", steps, end)
    callback.on_end({})
    before, after = EvaluationResult(summary(0), samples(False)), EvaluationResult(end, samples(True))
    settings = {"num_prompts": 12, "temperature": 1.0, "judge": "gold", "confidence": 0.9, "delta": DELTA}
    save_after(folder, before, after, settings, Bootstrap(0.9, 0))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", seed=0)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """Two methods, two seeds each, and a job that failed before it had a folder."""
    root = tmp_path_factory.mktemp("sweep")
    summary_file = LineFile(root / "summary.jsonl")
    arms = [(method, seed) for method in ("ppo", "dpo") for seed in (0, 1)]
    for job, (method, seed) in enumerate(arms):
        verdicts = [NOTED] if (method, seed) == ("ppo", 1) else []
        path = write_run(root / str(job), method=method, seed=seed, probed=method == "ppo", verdicts=verdicts)
        line = {"job": job, "overrides": [f"method={method}", f"seed={seed}"], "exit_code": 0, "error": None}
        summary_file.append(line | {"folder": str(job), "seconds": 1.0, **figures_of(path)})
    failed = {"job": 4, "overrides": ["method=sft", "seed=0"], "exit_code": 1, "error": "RunError: <b>diverged</b>"}
    summary_file.append(failed | {"folder": None, "seconds": 1.0, **figures_of(root / "4")})
    summary_file.close()
    return root

"""Best-of-n against a plain search over the same samples, and what it leaves in a run's folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from align.algorithms.best_of_n import BestOfN
from align.config.methods import BestOfNConfig
from align.engine.sampling import Noise, sample
from align.errors import InputError
from align.rewards import reward_input
from align.run.runner import run
from align.types import RewardOutput
from tests import tiny
from tests.algorithms import runs

NOISE = Noise(5, "evaluation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_data(tmp_path_factory.mktemp("data"))


def method(tmp_path: Path, data: Path, n: int, source=None) -> BestOfN:
    cfg = runs.config(BestOfNConfig(n=n), data, rollout={"decode_batch_size": 6})
    return BestOfN(runs.context(tmp_path, cfg, source=source)[0])


def test_it_is_the_best_of_these_samples(tmp_path, data):
    best = method(tmp_path, data, 4)
    prompts, scorer = tiny.prompts(5), best.run.source
    rollout = best.responder()(prompts, NOISE)
    assert rollout.prompt_index.tolist() == [p.id for p in prompts]
    chosen = []
    for i, prompt in enumerate(prompts):
        settings = {"noise": NOISE, "max_new_tokens": 8, "temperature": 1.0}
        four = sample(best.run.roles.policy, tiny.chat(), [prompt] * 4, **settings)
        scores = [
            float(scorer.score(reward_input(four.rows(torch.tensor([k])), [prompt], tiny.chat())).total)
            for k in range(4)
        ]
        k = max(range(4), key=lambda k: scores[k])
        chosen.append(k)
        n = int(four.lengths[k])
        assert rollout.sample_index[i] == k
        assert rollout.response_ids[i, :n].tolist() == four.response_ids[k, :n].tolist()
        assert rollout.lengths[i] == n and rollout.ended[i] == four.ended[k]
    assert len(set(chosen)) > 1


class Constant:
    """Every response scores the same, but for those whose place says otherwise."""

    def __init__(self, **places: float) -> None:
        self.places = {int(k.removeprefix("at")): v for k, v in places.items()}

    def score(self, batch, needs=frozenset()):
        total = torch.zeros(len(batch.rollout))
        for place, value in self.places.items():
            total[batch.rollout.sample_index == place] = value
        return RewardOutput(total)


@pytest.mark.parametrize(
    ("source", "place"), [(Constant(), 0), (Constant(at2=1.0), 2), (Constant(at0=math.nan, at1=-1, at2=-1), 3)]
)
def test_of_equals_the_first_and_never_one_without_score(tmp_path, data, source, place):
    rollout = method(tmp_path, data, 4, source).responder()(tiny.prompts(3), NOISE)
    assert rollout.sample_index.tolist() == [place] * 3


def test_the_bound_holds_and_is_tight_on_an_enumerated_distribution(tmp_path, data):
    """KL(best-of-n || start) exactly, over many responses of distinct scores: P(best = i) = F(i)^n - F(i - 1)^n."""
    torch.manual_seed(0)
    p = torch.rand(4000, dtype=torch.float64)
    p /= p.sum()
    upper = p.cumsum(0)
    for n in (1, 2, 4, 16):
        best = upper**n - (upper - p).clamp(min=0) ** n
        kl = float((best * (best / p).log()).sum())
        bound = method(tmp_path, data, n).responder().kl_upper_bound
        assert kl <= bound + 1e-12
        assert bound - kl < 0.005


@pytest.mark.parametrize("n", [1, 4])
def test_a_whole_run(tmp_path, data, n):
    folder = tmp_path / "run"
    result = run(runs.config(BestOfNConfig(n=n), data), folder, say=lambda line: None)
    assert (result["step"], result["stopped"]) == (0, None)
    report = json.loads((folder / "evaluation.json").read_text())
    before, after = report["before"], report["after"]
    bound = math.log(n) - (n - 1) / n
    assert after["kl_per_response"] == after["kl"]["per_response_upper_bound"] == pytest.approx(bound, abs=1e-12)
    assert "upper bound" in after["kl"]["upper_bound"]
    assert set(after["kl"]) == {"per_response_upper_bound", "upper_bound"}  # no estimate beside it
    assert "upper bound" in report["settings"]["definitions"]["kl_per_response"]
    for name in ("perplexity", "forgetting_perplexity"):
        assert after[name] == before[name]
    samples = runs.lines(folder / "evaluation_samples.jsonl")
    old, new = ([s for s in samples if s["phase"] == phase] for phase in ("before", "after"))
    assert all(b["proxy"] >= a["proxy"] - 1e-6 for a, b in zip(old, new, strict=True))
    if n == 1:  # the start model itself
        assert [s["response"] for s in new] == [s["response"] for s in old]
        assert after["win_rate"]["mean"] == 0.5
    else:
        assert after["reward"]["proxy_mean"] > before["reward"]["proxy_mean"] + 0.3
    assert [r["phase"] for r in runs.lines(folder / "log_history.jsonl")] == ["before", "after"]
    assert (folder / "model" / "model.safetensors").is_file()
    assert json.loads((folder / "run.json").read_text())["status"].startswith("finished")


def test_less_than_one_is_refused(data):
    with pytest.raises(InputError, match=r"method\.n: given 0"):
        runs.config(BestOfNConfig(n=0), data)

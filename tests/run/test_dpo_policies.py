"""The DPO policy of implicit credit: trained once and shared, taken from a finished run, and its place among roles."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from align import metrics
from align.config import AdapterConfig, Config, GoldSource, ImplicitCredit, ModelConfig, RewardConfig
from align.config.io import save as save_config
from align.config.methods import DPOConfig, GRPOConfig, KLConfig, PPOConfig, SFTConfig
from align.engine.reference import Policy
from align.engine.roles import build_roles
from align.errors import InputError
from align.models.load import load_causal_lm
from align.rewards import GoldScorer
from align.rewards.signals import LogRatio, WithSignals
from align.run.dpo_policies import CARD, ensure_dpo_policy
from align.run.stage import RECORDS
from align.stored.keys import dpo_policy_key
from tests import tiny
from tests.algorithms import runs
from tests.contexts import loop_of, run_context
from tests.run.stages import HELD_OUT, LORA, TRAIN, stage

PAIRS, MEASURED = TRAIN[:96], HELD_OUT[:40]


def setting(adapter: AdapterConfig | None = None, **credit) -> tuple[Config, ImplicitCredit]:
    options = ImplicitCredit(**({"learning_rate": 5e-3, "batch_size": 16, "epochs": 2} | credit))
    made = tiny.config(adapter=adapter, reward=RewardConfig(source=GoldSource(), credit=options))
    made.callbacks.progress.enabled = False
    return made, options


def ensure(cfg, credit, say=lambda line: None):
    return ensure_dpo_policy(stage(None, cfg, PAIRS, MEASURED, say=say), credit)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def stored(home):
    """Per kind of run (whole, LoRA) the stored folder and what was said."""
    made = {}
    for name, adapter in (("none", None), ("lora", LORA)):
        lines: list[str] = []
        made[name] = (ensure(*setting(adapter), say=lines.append), lines)
    return made


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
def test_trained_once_and_found_again(stored, adapter):
    cfg, credit = setting(adapter)
    folder, lines = stored[cfg.adapter.name]
    assert len(lines) == 2 and "held-out accuracy" in lines[-1]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again: list[str] = []
    assert ensure(cfg, credit, say=again.append) == folder
    assert again == [] and torch.equal(torch.get_rng_state(), before)
    assert not list(folder.rglob("*_step_*")) and not list(folder.rglob("*.pkl"))
    records = runs.lines(folder / RECORDS)
    assert len(records) == 12 and all(metrics.compare(record, "dpo") == (set(), set()) for record in records)
    assert {record["policy/learning_rate"] for record in records} == {5e-3}
    card = json.loads((folder / CARD).read_text())
    assert card["key"] == dpo_policy_key(cfg, credit, PAIRS, MEASURED)
    assert card["accuracy"] > 0.9 and (card["train_pairs"], card["held_out_pairs"]) == (96, 40)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
@pytest.mark.parametrize("kind", ["none", "lora"])
def test_in_its_place_it_is_the_stored_policy_and_stays_so(stored, adapter, kind):
    """A whole policy or an adapter, in a run with or without LoRA: the log-probabilities of the folder loaded alone."""
    folder, _ = stored[kind]
    cfg, _ = setting(adapter)
    roles = build_roles(cfg, device=tiny.CPU, dtype=torch.float32, reward=None, critic_init=None, dpo=folder)
    assert roles.dpo is not None
    alone = load_causal_lm(ModelConfig(path=str(folder)), dtype=torch.float32, device=tiny.CPU)
    rollout = tiny.rollout_of(tiny.prompts(3), [p.chosen_ids for p in PAIRS[:3]])
    expected = Policy(alone, torch.float32).response_logprobs(rollout, 1.0)
    torch.testing.assert_close(roles.dpo.response_logprobs(rollout, 1.0), expected, rtol=0, atol=1e-4)
    assert float((expected - roles.reference.response_logprobs(rollout, 1.0)).abs().max()) > 0.1
    before = tiny.weights(roles.dpo)
    tiny.nudge(roles.policy)
    assert tiny.same(before, tiny.weights(roles.dpo))
    assert not any(p.requires_grad for p in roles.dpo.trained_parameters().values())


@pytest.mark.parametrize(
    "method",
    [
        PPOConfig(minibatch_size=8, learning_rate=3e-3, kl=KLConfig(coef=0.05)),
        GRPOConfig(group_size=4, minibatch_size=8, learning_rate=3e-3),
    ],
    ids=["ppo", "grpo"],
)
def test_methods_learn_from_it(stored, tmp_path, method):
    """With a score that says nothing, what rises is the log-ratio itself."""
    folder, _ = stored["none"]
    cfg, _ = setting(scale=1.0, clip=5.0)
    cfg = replace(cfg, method=method, max_steps=12)
    roles = build_roles(cfg, device=tiny.CPU, dtype=torch.float32, reward=None, critic_init=method.critic, dpo=folder)
    assert roles.dpo is not None

    class Silent(tiny.VowelWorld):
        def gold(self, row, response, ended):
            return super().gold(row, "", True)

    recorder = tiny.Recorder()
    source = WithSignals(GoldScorer(Silent()), LogRatio(roles.dpo, roles.reference))
    run = run_context(
        tmp_path, cfg, tiny.chat(), roles=roles, source=source, prompts=tiny.prompts(8), callbacks=[recorder]
    )
    loop_of(run).train()
    totals = recorder.column("reward/total_mean")
    assert set(recorder.column("reward/score_mean")) == {0}
    assert sum(totals[-3:]) / 3 > sum(totals[:3]) / 3 + 1


# --- a given run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A run's folder as `method=dpo` leaves it."""
    cfg, _ = setting()
    shutil.copytree(tiny.folder(seed=1), tmp_path / "model")
    save_config(replace(cfg, method=DPOConfig()), tmp_path / "config.yaml", "align method=dpo")
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    return tmp_path


def test_a_finished_runs_model_is_taken(finished):
    assert ensure(*setting(path=str(finished))) == finished / "model"
    assert ensure(*setting(path=str(finished / "model"))) == finished / "model"


def test_what_is_no_finished_dpo_run_on_this_model_is_refused(finished):
    cfg, credit = setting(path=str(finished))

    def refused(line: str) -> None:
        with pytest.raises(InputError, match=rf"^reward\.credit\.path: .*{line}") as caught:
            ensure(cfg, credit)
        assert "\n" not in str(caught.value)

    (finished / "run.json").write_text(json.dumps({"status": "failed"}))
    refused(r"\(failed\).*has finished")
    (finished / "run.json").write_text(json.dumps({"status": "finished"}))
    save_config(replace(cfg, method=SFTConfig()), finished / "config.yaml", "align")
    refused("method=sft")
    other = replace(cfg, method=DPOConfig(), model=ModelConfig(path=str(tiny.folder(seed=1))))
    save_config(other, finished / "config.yaml", "align")
    refused("its reference")
    (finished / "config.yaml").unlink()
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(finished / "model")
    refused("vocabulary")

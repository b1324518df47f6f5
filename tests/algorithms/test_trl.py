"""TRL's own trainers under our harness: same tokens, our reward, our run folder, and models given back unharmed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from align.algorithms.trl.metrics import DROPPED, NAMES
from align.algorithms.trl.on_policy import TRLGRPO, TRLRLOO
from align.algorithms.trl.pairs import TRLDPO, TRLKTO
from align.algorithms.trl.records import Records
from align.cli.resume import resumed_config
from align.config import AttentionCredit, LRSchedule, Truncated
from align.config.io import register_schemas
from align.config.trl import (
    TRLConfig,
    TRLDPOConfig,
    TRLDPOLoss,
    TRLGRPOConfig,
    TRLKTOConfig,
    TRLKTOLoss,
    TRLRLOOConfig,
)
from align.data.collate import collate
from align.data.preferences import load_preferences
from align.errors import InputError, RunError
from align.functional.masked import masked_sum
from align.metrics import METRICS, compare
from align.models.adapters import lora_config
from align.run.runner import run
from align.types import Completion, RewardOutput
from tests import tiny
from tests.algorithms import runs

PAIRS: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16}
PENALISED = {"truncated": Truncated.penalise}
SAMPLED: dict[str, Any] = {"learning_rate": 1e-3, "group_size": 4, "minibatch_size": 4}
METHODS: dict[str, TRLConfig] = {
    "trl_dpo": TRLDPOConfig(**PAIRS),
    "trl_kto": TRLKTOConfig(**PAIRS),
    "trl_grpo": TRLGRPOConfig(**SAMPLED),
    "trl_rloo": TRLRLOOConfig(**SAMPLED),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path):
    """A whole run of each method, three steps with an evaluation in between, and all that TRL logged."""
    found: dict[str, tuple[Path, set[str]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, method in METHODS.items():
            folder, logged = tmp_path_factory.mktemp(name), set()

            def on_log(self, args, state, control, logs=None, _original=Records.on_log, _logged=logged, **kwargs):
                _logged |= set(logs)
                return _original(self, args, state, control, logs=logs, **kwargs)

            with patch.context() as local:
                local.setattr(Records, "on_log", on_log)
                cfg = runs.config(method, data, max_steps=3, evaluation={"every_steps": 2}, rollout=PENALISED)
                run(cfg, folder, say=lambda line: None)
            found[name] = (folder, logged)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run_leaves_the_folder_of_any_run(finished, name):
    folder, _ = finished[name]
    history = runs.lines(folder / "log_history.jsonl")
    steps = [r for r in history if "phase" not in r]
    assert [(r["phase"], r["step"]) for r in history if "phase" in r] == [("before", 0), ("during", 2), ("after", 3)]
    assert history.index(steps[1]) + 1 == [r.get("phase") for r in history].index("during")  # after its step's record
    assert [r["step"] for r in steps] == [1, 2, 3]
    assert [compare(r, name) for r in steps] == [(set(), set())] * 3
    assert runs.lines(folder / f"{name}_metrics.jsonl") == steps
    report = json.loads((folder / "evaluation.json").read_text())
    assert abs(report["before"]["kl_per_response"]) < 1e-6
    assert report["after"]["kl"]["per_response_k3"] > 1e-3  # against the start model, which stayed what it was
    assert json.loads((folder / "run.json").read_text())["status"].startswith("finished")
    trained = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny.folder()).state_dict()
    assert all(not torch.equal(trained[k], start[k]) for k in start)
    assert trained.keys() == start.keys()
    assert not [p.name for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.parametrize("name", METHODS)
def test_the_table_covers_what_trl_logs_and_nothing_else(finished, name):
    _, logged = finished[name]
    assert logged - set(NAMES[name]) - set(DROPPED) == set()
    assert set(NAMES[name]) - logged == set()
    assert set(NAMES[name].values()) <= {n for n, m in METRICS.items() if name in m.methods}


def test_nothing_is_dropped_that_no_trainer_logs(finished):
    assert set(DROPPED) <= set().union(*(logged for _, logged in finished.values()))


@pytest.mark.parametrize("name", ["trl_dpo", "trl_kto"])
def test_responses_are_read_as_our_own_methods_read_them(finished, data, name):
    """The first update sees every pair under the start model: all figures are known."""
    folder, _ = finished[name]
    first, *_, last = runs.lines(folder / f"{name}_metrics.jsonl")
    pairs = load_preferences(runs.config(METHODS[name], data).data, tiny.chat()).train
    policy, tokens, sums = tiny.policy(), 0, {}
    for side in ("chosen_ids", "rejected_ids"):
        batch = collate([(p.prompt.input_ids, getattr(p, side)) for p in pairs], tiny.chat().pad_id, tiny.CPU)
        sums[side] = masked_sum(policy.response_logprobs(batch, 1.0), batch.response_mask, dim=1)
        tokens += int(batch.attention_mask.sum())
    assert first["dpo/chosen_logp"] == pytest.approx(float(sums["chosen_ids"].mean()), abs=1e-4)
    assert first["dpo/rejected_logp"] == pytest.approx(float(sums["rejected_ids"].mean()), abs=1e-4)
    assert first["tokens/policy"] == tokens
    assert last["tokens/policy"] == 3 * tokens
    assert first["dpo/margin"] == pytest.approx(0, abs=1e-5)
    assert last["dpo/margin"] > 0.1
    assert last["dpo/chosen_reward"] > 0 > last["dpo/rejected_reward"]  # chosen is desirable, rejected is not
    loss, start = {"trl_dpo": ("dpo/loss", math.log(2)), "trl_kto": ("kto/loss", 0.5)}[name]
    assert first[loss] == pytest.approx(start, abs=1e-6)
    assert last[loss] < start - 0.02


@pytest.mark.parametrize("name", ["trl_grpo", "trl_rloo"])
def test_completions_are_paid_by_our_reward(finished, name):
    """Scores in completions.jsonl against the classifier itself, and what TRL says it was paid against those."""
    folder, _ = finished[name]
    scale = json.loads((folder / "run.json").read_text())["reward_scale"]
    model = AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()
    records = {r["step"]: r for r in runs.lines(folder / f"{name}_metrics.jsonl")}
    samples = runs.lines(folder / "completions.jsonl")
    assert {s["step"] for s in samples} == {1, 3}  # two updates on each rollout of 8
    for sample in samples:
        if not sample["ended"]:
            continue
        prompt = tiny.chat().encode_prompt([{"role": "user", "content": sample["prompt"]}])
        for end in tiny.chat().end_ids:
            ids = torch.tensor([[*prompt, *tiny.said(sample["response"])[:-1], end]])
            with torch.no_grad():
                score = (float(model(ids).logits) - scale["raw_mean"]) / scale["raw_std"]
            if abs(score - sample["score"]) < 1e-4:
                break
        else:
            pytest.fail(f"no end token gives {sample['score']}")
    for step in (1, 3):
        rollout = [s for s in samples if s["step"] == step]
        paid = [s["score"] if s["ended"] else -1.0 for s in rollout]
        record = records[step]
        assert len(rollout) == 8 and 0 < sum(s["ended"] for s in rollout) < 8
        assert record["reward/paid_mean"] == pytest.approx(sum(paid) / 8, abs=1e-5)
        assert record["reward/score_mean"] == pytest.approx(sum(s["score"] for s in rollout) / 8, abs=1e-5)
        assert [sum(s["token_rewards"]) for s in rollout] == pytest.approx(paid, abs=1e-5)
        assert record["response/eos_rate"] == sum(s["ended"] for s in rollout) / 8
        assert record["reward/missing_eos_rate"] == 1 - record["response/eos_rate"]
        assert [s["sample_index"] for s in rollout] == [0, 1, 2, 3] * 2
        assert len({s["prompt_id"] for s in rollout}) == 2
    assert records[2]["reward/paid_mean"] == records[1]["reward/paid_mean"]  # repeated on the rollout's updates
    assert [(r["rollout"], r["update"]) for r in records.values()] == [(0, 1), (0, 2), (1, 1)]


def grpo(path: Path, data: Path, *, source=None, prompts=None, name="trl_grpo", adapter=None, **settings):
    cfg = runs.config(type(METHODS[name])(**(SAMPLED | settings.pop("method", {}))), data, adapter=adapter, **settings)
    context, recorder = runs.context(path, cfg, source=source, prompts=prompts or tiny.prompts())
    return {"trl_grpo": TRLGRPO, "trl_rloo": TRLRLOO}[name](context), recorder


class Vowels:
    """A score that is easily learned: vowels less other letters, by the text that a source is given."""

    def score(self, batch, needs=frozenset()):
        return RewardOutput(torch.tensor([sum(1.0 if c in "aeiou" else -1.0 for c in t) for t in batch.responses]))


@pytest.mark.parametrize("name", ["trl_grpo", "trl_rloo"])
@pytest.mark.parametrize("adapter", [None, runs.LORA], ids=["full", "lora"])
def test_the_reward_rises(tmp_path, data, name, adapter):
    settings = {"learning_rate": 3e-3 if adapter is None else 3e-2, "minibatch_size": 16}
    method, seen = grpo(
        tmp_path, data, name=name, source=Vowels(), adapter=adapter, method=settings, max_steps=12,
        rollout={"batch_size": 16, "truncated": Truncated.keep},
    )  # fmt: skip
    method.train()
    scores = seen.column("reward/score_mean")
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 1
    assert seen.column("reward/paid_mean") == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("adapter", [None, runs.LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["trl_dpo", "trl_grpo"])
def test_models_come_back_as_they_were(tmp_path, data, name, adapter):
    if name == "trl_grpo":
        method, _ = grpo(tmp_path, data, adapter=adapter)
    else:
        cfg = runs.config(TRLDPOConfig(**PAIRS), data, adapter=adapter)
        pairs = load_preferences(cfg.data, tiny.chat()).train
        method = TRLDPO(runs.context(tmp_path, cfg, pairs=pairs)[0])
    roles = method.run.roles
    model, whole = roles.policy.model, roles.policy.whole
    configuration, generation = model.config.to_dict(), model.generation_config.to_dict()
    reference = tiny.policy()
    batch = collate([(p.input_ids, p.input_ids[:5]) for p in tiny.prompts(3)], tiny.chat().pad_id, tiny.CPU)
    method.train()
    for module in (model, whole, roles.reference.model):
        assert "forward" not in vars(module) and not module.training
    assert (model.config.to_dict(), model.generation_config.to_dict()) == (configuration, generation)
    assert model.config._name_or_path == str(tiny.folder())
    assert torch.equal(roles.reference.response_logprobs(batch, 1.0), reference.response_logprobs(batch, 1.0))
    assert not torch.allclose(roles.policy.response_logprobs(batch, 1.0), reference.response_logprobs(batch, 1.0))
    trained = roles.policy.trained_parameters()
    assert all(p.requires_grad and p.grad is None for p in trained.values())
    method.save(tmp_path / "model")
    if adapter is not None:
        assert set(whole.peft_config) == {"default", "reward"}
        fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.folder()), tmp_path / "model")
        ids = batch.input_ids, batch.attention_mask
        with torch.no_grad():
            got = fresh(input_ids=ids[0][:1], attention_mask=ids[1][:1]).logits
        assert torch.allclose(got, roles.policy.logits(ids[0][:1], ids[1][:1], got.shape[1]), atol=1e-5)


def test_bf16_leaves_no_autocast_behind(tmp_path, data):
    cfg = runs.config(TRLDPOConfig(**PAIRS), data, adapter=runs.LORA)
    pairs = load_preferences(cfg.data, tiny.chat()).train
    context, seen = runs.context(tmp_path, cfg, pairs=pairs, dtype=torch.bfloat16)
    TRLDPO(context).train()
    policy = context.roles.policy
    assert all(p.dtype is torch.float32 for p in policy.trained_parameters().values())
    assert "forward" not in vars(policy.model) and "forward" not in vars(policy.whole)
    assert seen.column("dpo/loss")[0] == pytest.approx(math.log(2), abs=1e-3)
    assert seen.column("dpo/margin")[-1] > 0


@pytest.mark.parametrize("name", ["trl_grpo", "trl_rloo"])
def test_adapters_on_a_bf16_base_sample_without_autocast(tmp_path, data, name):
    """TRL's `generate` runs outside of it: there adapters must bring what they read to fp32 themselves."""
    cfg = runs.config(type(METHODS[name])(**SAMPLED), data, adapter=runs.LORA, max_steps=1)
    context, seen = runs.context(tmp_path, cfg, prompts=tiny.prompts(), dtype=torch.bfloat16)
    {"trl_grpo": TRLGRPO, "trl_rloo": TRLRLOO}[name](context).train()
    assert len(seen.column("reward/score_mean")) == 1


def test_the_reference_is_the_start_model_also_where_that_is_an_adapter(tmp_path, data):
    """TRL by itself would load the adapter's base."""
    base = AutoModelForCausalLM.from_pretrained(tiny.folder())
    start = get_peft_model(base, lora_config(runs.LORA, TaskType.CAUSAL_LM))
    with torch.no_grad():
        for p in start.parameters():
            p.add_(0.1 if p.requires_grad else 0)
    start.save_pretrained(tmp_path / "adapter")
    tiny.chat().tokenizer.save_pretrained(tmp_path / "adapter")
    for name, figure in (("trl_grpo", "kl/per_token_k3_update"), ("trl_rloo", "kl/per_token_k1")):
        method, seen = grpo(tmp_path, data, name=name, model=str(tmp_path / "adapter"))
        method.train()
        assert abs(seen.column(figure)[0]) < 1e-6


def test_kto_reads_its_kl_from_responses_to_other_prompts(tmp_path, data):
    cfg = runs.config(TRLKTOConfig(batch_size=8, micro_batch_size=4), data)
    pairs = load_preferences(cfg.data, tiny.chat()).train[:10]
    rows = list(TRLKTO(runs.context(tmp_path, cfg, pairs=pairs)[0]).rows())
    assert len(rows) == 24  # three micro-batches of 4 pairs, the last one completed from the first
    answers = {p.prompt.input_ids: {True: p.chosen_ids, False: p.rejected_ids} for p in pairs}
    assert {tuple(r["prompt_ids"]) for r in rows} == set(answers)
    for i in range(0, 24, 8):
        part = rows[i : i + 8]
        assert [r["label"] for r in part] == [True] * 4 + [False] * 4
        assert sorted(map(tuple, (r["KL_completion_ids"] for r in part))) == sorted(r["completion_ids"] for r in part)
        for k, row in enumerate(part):
            assert answers[row["prompt_ids"]][row["label"]] == row["completion_ids"]
            assert row["KL_completion_ids"] == part[k - 1]["completion_ids"]
            assert part[k - 1]["prompt_ids"] != row["prompt_ids"]
    other = runs.config(TRLKTOConfig(batch_size=8, loss=TRLKTOLoss.apo_zero_unpaired), data, seed=1)
    again = list(TRLKTO(runs.context(tmp_path, other, pairs=pairs)[0]).rows())
    assert "KL_completion_ids" not in again[0]
    assert [r["prompt_ids"] for r in again[:8]] != [r["prompt_ids"] for r in rows[:8]]


def test_kto_takes_labelled_completions_as_they_are(tmp_path, data):
    cfg = runs.config(TRLKTOConfig(batch_size=4, micro_batch_size=2), data)
    given = [
        Completion(prompt, f"{label} {i}", tuple(tiny.said(tiny.LETTERS[k] * (i + 1))), label)
        for k, prompt in enumerate(tiny.prompts(3))
        for i, label in enumerate((True, False, False))
    ]
    context = dataclasses.replace(runs.context(tmp_path, cfg)[0], labelled=given)
    method = TRLKTO(context)
    rows = list(method.rows())
    assert len(rows) == 12  # three micro-batches of 4 completions, the last one completed from the first
    labels = {(one.prompt.input_ids, one.ids): one.label for one in given}
    answered = {(row["prompt_ids"], row["completion_ids"]) for row in rows[:9]}
    assert answered == set(labels)
    assert all(row["label"] is labels[row["prompt_ids"], row["completion_ids"]] for row in rows)
    assert [sum(row["label"] for row in rows[i : i + 3]) for i in (0, 3, 6)] == [1, 1, 1]
    prompts = {ids: prompt for prompt, ids in labels}
    assert all(prompts[row["KL_completion_ids"]] != row["prompt_ids"] for row in rows)
    assert method.place(9) == {"rollout": 8, "update": 9}
    alone = dataclasses.replace(context, labelled=given[:3])
    with pytest.raises(InputError, match=r"^data\.path: given 'completions of a single prompt'"):
        TRLKTO(alone)


def test_micro_batches_change_no_update(tmp_path, data):
    """The settings reach TRL: two ways to split one update, and a learning rate that falls to its end."""
    weights = []
    for name, rows in (("whole", None), ("split", 4)):
        settings = PAIRS | {"micro_batch_size": rows, "lr_schedule": LRSchedule.linear, "beta": 0.3}
        cfg = runs.config(TRLDPOConfig(**settings), data, max_steps=4)
        pairs = load_preferences(cfg.data, tiny.chat()).train
        context, seen = runs.context(tmp_path / name, cfg, pairs=pairs)
        TRLDPO(context).train()
        weights.append(torch.cat([p.flatten() for p in tiny.weights(context.roles.policy)]))
        assert seen.column("policy/learning_rate") == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4], rel=1e-6)
        assert [(r["rollout"], r["update"]) for r in seen.records] == [(1, 1), (2, 2), (3, 3), (4, 4)]
        margin = seen.column("dpo/chosen_reward")[1] - seen.column("dpo/rejected_reward")[1]
        assert seen.column("dpo/margin")[1] == pytest.approx(margin, abs=1e-5)
        risen = seen.column("dpo/chosen_logp")[1] - seen.column("dpo/chosen_logp")[0]  # the reference is the start
        assert seen.column("dpo/chosen_reward")[1] == pytest.approx(0.3 * risen, abs=1e-4)
    start = torch.cat([p.flatten() for p in tiny.weights(tiny.policy())])
    assert float((weights[0] - weights[1]).abs().max()) < 0.02 * float((weights[0] - start).abs().max())


def test_rollouts_may_need_more_prompts_than_there_are(tmp_path, data):
    method, seen = grpo(tmp_path, data, prompts=tiny.prompts(1), method={"group_size": 2, "minibatch_size": 8})
    method.train()
    assert len(seen.records) == 2
    assert {s["prompt_id"] for _, samples in seen.rollouts for s in samples} == {10}


@pytest.mark.parametrize("budget", [1, 600])
def test_a_token_budget_ends_the_run_at_the_end_of_a_rollout(tmp_path, data, budget):
    method, seen = grpo(tmp_path, data, max_steps=8, max_policy_tokens=budget)
    method.train()
    used = seen.records[-1]["tokens/policy"]
    assert used >= budget and method.step == len(seen.records) == (2 if budget == 1 else 6)
    assert method.stopped == f"{used:.0f} policy tokens reach max_policy_tokens={budget}"


class Bad:
    def score(self, batch, needs=frozenset()):
        total = torch.zeros(len(batch.rollout))
        total[1] = math.nan
        return RewardOutput(total)


def test_a_reward_that_is_not_finite_ends_the_run(tmp_path, data):
    method, seen = grpo(tmp_path, data, source=Bad(), rollout={"truncated": Truncated.keep})
    with pytest.raises(RunError, match="a reward was not finite after step 0"):
        method.train()
    assert seen.records == []


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, data):
    cfg = runs.config(TRLDPOConfig(**PAIRS), data, max_steps=3)
    pairs = load_preferences(cfg.data, tiny.chat()).train
    context, seen = runs.context(tmp_path, cfg, pairs=pairs)
    with torch.no_grad():
        next(iter(context.roles.policy.trained_parameters().values()))[5:30] = math.nan
    with pytest.raises(RunError, match="TRL's loss was not finite at step 1"):
        TRLDPO(context).train()
    assert seen.records == []


def test_prompts_that_trl_would_render_otherwise_are_refused(tmp_path, data):
    short = tiny.prompts(3)
    cut = [*short[:2], type(short[2])(**{**vars(short[2]), "input_ids": short[2].input_ids[2:]})]
    with pytest.raises(InputError, match=r"data\.long_prompts: .* TRL renders prompt 16 to other tokens"):
        grpo(tmp_path, data, prompts=cut)


REFUSED = {
    "one response": (TRLGRPOConfig(group_size=1), {}, "method.group_size"),
    "a group that does not fill the rollout": (TRLRLOOConfig(group_size=3), {}, "method.group_size"),
    "updates that do not": (TRLGRPOConfig(group_size=4, minibatch_size=5), {}, "method.minibatch_size"),
    "micro-batches that do not": (TRLDPOConfig(batch_size=8, micro_batch_size=3), {}, "method.micro_batch_size"),
    "no beta": (TRLDPOConfig(beta=0), {}, "method.beta"),
    "smoothing without effect": (TRLDPOConfig(label_smoothing=0.1), {}, "method.label_smoothing"),
    "no smoothing where it is needed": (TRLDPOConfig(loss=TRLDPOLoss.exo_pair), {}, "method.label_smoothing"),
    "a KL from one prompt": (TRLKTOConfig(batch_size=1), {}, "method.batch_size"),
    "no weight": (TRLKTOConfig(desirable_weight=0), {}, "method.desirable_weight"),
    "resuming": (TRLDPOConfig(), {"resume": "somewhere"}, "resume"),
}


@pytest.mark.parametrize(("method", "settings", "key"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_refused(data, method, settings, key):
    with pytest.raises(InputError) as caught:
        runs.config(method, data, **settings)
    assert caught.value.key == key
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_cannot_be_resumed(finished):
    register_schemas()
    with pytest.raises(InputError, match=r"resume: .* keeps its final weights only, as TRL's checkpoints are pickles"):
        resumed_config(finished["trl_kto"][0], {})


@pytest.mark.parametrize("name", ["trl_grpo", "trl_rloo"])
def test_dense_credit_is_refused(data, name):
    cfg = runs.config(METHODS[name], data)
    cfg.reward.credit = AttentionCredit()
    with pytest.raises(InputError, match=r"reward/credit: given 'attention'; .* one scalar per completion"):
        cfg.method.check(cfg)
    cfg.method = METHODS["trl_dpo"]
    cfg.method.check(cfg)  # does not sample: the credit is only shown

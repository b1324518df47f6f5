"""Folders of many architectures under the whole command at its defaults, with nothing given but sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests import folders

Align = Callable[..., tuple[int, str, str]]
SIZES = (
    "max_steps=2",
    "rollout.max_new_tokens=16",
    "evaluation.num_prompts=4",
    "evaluation.num_pairs=4",
    "evaluation.num_texts=4",
    "evaluation.num_probes=2",
)
SAMPLED = ("rollout.batch_size=16", "method.minibatch_size=8")
METHODS: dict[str, tuple[str, ...]] = {
    "dpo": ("method=dpo", "method.batch_size=8"),
    "sft": ("method=sft", "method.batch_size=8"),
    "ppo, sparse": ("method=ppo", "reward=sparse", *SAMPLED),
    "ppo, dense": ("method=ppo", *SAMPLED),
    "grpo": ("method=grpo", "method.group_size=4", *SAMPLED),
    "best_of_n": ("method=best_of_n", "method.n=2"),
    "trl_dpo": ("method=trl_dpo", "method.batch_size=8"),
    "trl_kto": ("method=trl_kto", "method.batch_size=8"),
    "trl_grpo": ("method=trl_grpo", "method.group_size=4", *SAMPLED),
    "trl_rloo": ("method=trl_rloo", "method.group_size=4", *SAMPLED),
}
QUICK = ("llama", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "phi3", "bloom", "falcon_h1", "mixtral")
EVERY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in folders.FOLDERS]
PER_TOKEN = 1e-5  # nats


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def whole_command(align: Align, tmp_path: Path, name: str, *words: str) -> Path:
    """Run the command as a newcomer writes it; nothing goes wrong, and no library has anything to say."""
    run, data = tmp_path / "run", folders.write_pairs(tmp_path / "pairs.jsonl")
    own = ("model=local", f"model.path={folders.folder(name)}", "data=jsonl", f"data.path={data}")
    code, _, err = align(*words, *own, *SIZES, f"hydra.run.dir={run}")
    assert code == 0, err
    assert "Warning" not in err and "Traceback" not in err
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"].startswith("finished")
    assert all(verdict["level"] != "error" for verdict in facts["verdicts"])
    return run


def numbers(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [number for value in content.values() for number in numbers(value)]
    return [float(content)] if isinstance(content, (int, float)) else []


def check_evaluation(run: Path) -> None:
    content = json.loads((run / "evaluation.json").read_text())
    assert "nonfinite" not in content and all(map(math.isfinite, numbers(content)))
    for phase in ("before", "after"):
        assert content[phase]["perplexity"] > 1 and content[phase]["forgetting_perplexity"] > 1
    assert content["before"]["kl_per_response"] == 0


@torch.no_grad()
def plain_logprob(model: PreTrainedModel, prompt: list[int], response: list[int]) -> float:
    """Of one response, by a plain call of transformers on one row."""
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0].float()
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return float(logp.gather(1, torch.tensor(response).unsqueeze(1)).sum())


def tokens_of(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Prompt and answer, under the template that the run stored with its model."""
    turns = [{"role": "user", "content": prompt}]
    opening = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    first, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opening, whole))
    ends = {tokenizer.convert_tokens_to_ids(name) for name in ("<|end|>", "<|endoftext|>")}
    last = max(place for place, token in enumerate(both) if token in ends)
    return both[: len(first)], both[len(first) : last + 1]


def check_logprobs(run: Path, models: dict[str, PreTrainedModel]) -> None:
    """What the run says of held-out pairs is what transformers say of its start model, and of what it left."""
    rows = [json.loads(line) for line in (run.parent / "pairs.jsonl").read_text().splitlines()]
    tokenizer, compared = AutoTokenizer.from_pretrained(run / "model"), 0
    for line in (run / "evaluation_pairs.jsonl").read_text().splitlines():
        found = json.loads(line)
        row = rows[found["prompt_id"]]
        for side in ("chosen", "rejected"):
            prompt, response = tokens_of(tokenizer, row["prompt"], row[side])
            if len(response) == found[f"{side}_tokens"]:  # others are cut at a short context
                expected = plain_logprob(models[found["phase"]], prompt, response)
                assert found[f"{side}_logprob"] == pytest.approx(expected, abs=PER_TOKEN * len(response))
                compared += 1
    assert compared >= 12


@pytest.mark.parametrize("name", EVERY)
def test_dpo_at_the_first_attempt(name: str, align: Align, tmp_path: Path) -> None:
    run = whole_command(align, tmp_path, name, *METHODS["dpo"])
    check_evaluation(run)
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    moved = [float(weight.abs().max()) for key, weight in adapter.items() if "lora_B" in key]
    assert moved and min(moved) > 0  # every adapter that was put on is read, and trained
    start, after = (AutoModelForCausalLM.from_pretrained(folders.folder(name)) for _ in range(2))
    after = PeftModel.from_pretrained(after, run / "model")
    check_logprobs(run, {"before": start.eval(), "after": after.eval()})


@pytest.mark.parametrize("name", ["gpt2", pytest.param("mamba", marks=pytest.mark.slow)])
def test_all_weights(name: str, align: Align, tmp_path: Path) -> None:
    run = whole_command(align, tmp_path, name, *METHODS["dpo"], "adapter=none")
    check_evaluation(run)
    start, after = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (folders.folder(name), run / "model"))
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), after.parameters(), strict=True))
    check_logprobs(run, {"before": start, "after": after})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "adapter"),
    [("gpt2", "lora"), ("qwen3", "lora"), ("falcon_h1", "lora"), ("gemma3", "none"), ("opt", "none")],
)
def test_every_method(name: str, adapter: str, method: str, align: Align, tmp_path: Path) -> None:
    check_evaluation(whole_command(align, tmp_path, name, *METHODS[method], f"adapter={adapter}"))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("method", ["ppo, sparse", "grpo", "trl_grpo"])
def test_sampling_methods_of_a_model_without_attention(method: str, adapter: str, align: Align, tmp_path: Path) -> None:
    words = (*METHODS[method], "reward=sparse", f"adapter={adapter}")
    check_evaluation(whole_command(align, tmp_path, "mamba", *dict.fromkeys(words)))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "falcon_h1"])
def test_a_reward_model(name: str, adapter: str, align: Align, tmp_path: Path) -> None:
    words = ("method=reward_model", "reward.source.batch_size=8", f"adapter={adapter}")
    run = whole_command(align, tmp_path, name, *words)
    assert (run / "model" / "head.safetensors").is_file()


def test_credit_by_attention_of_a_model_without_is_refused_before_anything_is_trained(
    align: Align, tmp_path: Path
) -> None:
    own = ("model=local", f"model.path={folders.folder('mamba')}", "data=jsonl")
    data = folders.write_pairs(tmp_path / "pairs.jsonl")
    code, _, err = align("method=grpo", *own, f"data.path={data}", *SIZES)
    assert code == 2 and not (tmp_path / "home").exists()
    assert "error: reward/credit: given 'attention'; allowed: sparse" in err and "MambaForCausalLM" in err


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_evaluation_alone(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a chat model, and of a base model without a template."""
    from align.cli.evaluate import main

    data, model = folders.write_pairs(tmp_path / "pairs.jsonl"), str(folders.folder(name))
    small = [word for word in SIZES if word != "max_steps=2"]
    assert main([model, "data=jsonl", f"data.path={data}", *small, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["after"] is None and math.isfinite(content["before"]["perplexity"])
    assert main([model, *small, "--out", str(tmp_path / "none")]) == 2
    assert "error: data: given 'nothing'; allowed: data=jsonl data.path=FILE" in capsys.readouterr().err

"""What is shipped: loads with plain libraries, is as good as build.json says, and fits in the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from datasets import load_dataset
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from align.cli.groups import CONF
from align.config import RewardModelSource
from align.config.automatic import ModelFacts, settle
from align.config.io import build, register_schemas
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.evaluation.perturbations import perturbations_of
from align.evaluation.prompts_file import load_prompts
from align.models.load import load_chat_tokenizer
from align.store import find
from align.stored.keys import reward_model_key
from align.worlds import get, resolve
from align.worlds.pocket import lexicon, split

ROOT = Path(resolve("align://pocket/model")).parent
VARIANTS = {
    "default": [], "seed_1": ["reward.source.seed=1"], "seed_2": ["reward.source.seed=2"],
    "prefixes": ["reward.source.trained_on=prefixes"],
}  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "build.json").read_text())
    return content


def test_files_are_the_built_ones(record: dict[str, Any]) -> None:
    found = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in record["sha256"]}
    assert found == record["sha256"]
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file()) < 16e6
    assert not [p for p in ROOT.rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]


def test_tokenizer_ends_a_turn_with_a_token_that_is_also_an_input() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "model")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    chat = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3."}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|user|>\nAdd 1 and 2.<|end|>\n<|assistant|>\n3.<|end|>\n"
    opened = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(opened)
    assert tokenizer(text)["input_ids"].count(tokenizer.eos_token_id) == 2
    strange = "ünïcode 日本 \t x"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange


def test_pairs_load_as_one_table_and_their_gold_is_what_the_world_says() -> None:
    table = load_dataset("parquet", data_files=str(ROOT / "train.parquet"), split="train")
    measuring = load_dataset("parquet", data_files=str(ROOT / "evaluation.parquet"), split="train")
    assert len(table) >= 5000 and {"prompt", "chosen", "rejected", "family", "spec", "word_limit"} <= set(
        table.column_names
    )
    held_out = rows("held_out.jsonl")
    assert len(held_out) >= 1000 and len(measuring) >= 4000
    prompts = [set(table["prompt"]), set(measuring["prompt"]), {row["prompt"] for row in held_out}]
    assert sum(map(len, prompts)) == len(set().union(*prompts))  # no prompt in two files
    assert {row["split"] for row in held_out} == {"tune", "report"}
    for row in held_out:
        for side in ("chosen", "rejected"):
            assert get("pocket").gold(row, row[side], True).total == row[f"gold_{side}"]


def test_prompts_and_general_text() -> None:
    prompts = load_prompts("align://pocket/prompts.txt")
    held_out = {row["prompt"]: row for row in rows("held_out.jsonl")}
    assert len(prompts) == 50
    for prompt in prompts:
        assert held_out[prompt.text]["split"] == "report"
        assert prompt.perturbations == perturbations_of(prompt.text)
    texts = [row["text"] for row in rows("general.jsonl")]
    assert len(texts) >= 200 and all(len(text.split()) > 10 for text in texts)
    assert not {split(text) for text in texts} & {"train"}  # the side that the start model was trained on


def test_general_text_shares_no_sentence_with_the_tasks() -> None:
    said = {sentence for row in rows("general.jsonl") for sentence in row["text"].split(". ")}
    answers = " ".join(row[side] for row in rows("held_out.jsonl") for side in ("chosen", "rejected"))
    assert not [sentence for sentence in said if sentence in answers]
    assert not said & {aside.rstrip(".") for aside in lexicon.ASIDES}


@pytest.mark.slow
def test_default_runs_find_the_shipped_reward_models(record: dict[str, Any]) -> None:
    register_schemas()
    read: dict[str, Preferences] = {}  # by the data's configuration, which the variants share
    for variant in ("default", "seed_1", "seed_2", "prefixes"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = settle(build(compose("config", [*VARIANTS[variant]])), ModelFacts(world=True)).config
        if repr(config.data) not in read:
            read[repr(config.data)] = load_preferences(config.data, load_chat_tokenizer(config.model))
        data = read[repr(config.data)]
        assert isinstance(config.reward.source, RewardModelSource)
        key = reward_model_key(config, config.reward.source, data.reward_train, data.reward_held_out)
        found = find("reward_models", key)
        assert found is not None and found.name == record["figures"]["reward_models"][variant]["folder"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = build(compose("config", ["reward/source=ensemble"]))
    members = settle(composed, ModelFacts(world=True)).config.reward.source.models()
    singles = [reward_model_key(config, member, data.reward_train, data.reward_held_out) for member in members]
    shipped = [record["figures"]["reward_models"][name]["folder"] for name in ("default", "seed_1", "seed_2")]
    assert [path and path.name for path in (find("reward_models", one) for one in singles)] == shipped


@torch.no_grad()
def test_start_model_is_fluent_and_mediocre(record: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "model")
    model = AutoModelForCausalLM.from_pretrained(ROOT / "model").eval()
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    sample = [row for row in rows("held_out.jsonl") if row["length"] == "short"][:96]
    chats = [[{"role": "user", "content": row["prompt"]}] for row in sample]
    gold: dict[bool, float] = {}
    for greedy in (False, True):
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True,
            tokenizer_kwargs={"padding_side": "left"},
        )  # fmt: skip
        torch.manual_seed(0)
        mode: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
        out = model.generate(**inputs, **mode, max_new_tokens=48)[:, inputs["input_ids"].shape[1] :]
        ended = [tokenizer.eos_token_id in ids for ids in out.tolist()]
        assert fmean(ended) > 0.95
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        totals = [get("pocket").gold(*x).total for x in zip(sample, texts, ended, strict=True)]
        gold[greedy] = fmean(totals)
    figures = record["figures"]["start_model"]
    assert gold[False] == pytest.approx(figures["sampled"]["gold"]["short"], abs=0.2)
    assert gold[True] > gold[False] + 0.2


@pytest.mark.parametrize("variant", ["default", "prefixes", "seed_1", "seed_2", "evaluation"])
def test_reward_models_rank_pairs(record: dict[str, Any], variant: str) -> None:
    figures = record["figures"]["reward_models"][variant]
    folder = ROOT / "reward_models" / figures["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    head = load_file(folder / "head.safetensors")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert {name: (*tensor.shape, tensor.dtype) for name, tensor in head.items()} == {
        "weight": (1, 128, torch.float32),
        "bias": (1, torch.float32),
    }
    sample = rows("held_out.jsonl")[:200]
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}], tokenize=False
        ).removesuffix("\n")
        for row in sample
        for side in ("chosen", "rejected")
    ]
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        states, last = model(**inputs).last_hidden_state, inputs["attention_mask"].sum(1) - 1
        scores = (states[torch.arange(len(last)), last] @ head["weight"][0] + head["bias"]).view(-1, 2)
    accuracy = (scores[:, 0] > scores[:, 1]).float().mean().item()
    assert accuracy == pytest.approx(figures["held_out"]["all"]["accuracy"], abs=0.1)

"""Other programs stop where a run's sampling did: plain generation of transformers on the folder that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import folders

WORDS = ("method=sft", "adapter=none", "method.batch_size=4", "method.learning_rate=0.02", "max_steps=40",
         "rollout.max_new_tokens=24", "evaluation.num_prompts=4", "evaluation.num_pairs=4", "evaluation.num_texts=4",
         "evaluation.num_probes=0")  # fmt: skip


def test_generation_stops_at_the_end_that_was_learned(align: Callable[..., tuple], tmp_path: Path, monkeypatch) -> None:
    """The template closes turns by a token that neither tokenizer nor generation config name as an end."""
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    rows = [{"prompt": f"Name fruit {i}.", "chosen": "An apple.", "rejected": "No."} for i in range(8)]
    data, run = tmp_path / "pairs.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ("model=local", f"model.path={folders.folder('qwen3')}", "data=jsonl", f"data.path={data}")
    code, _, err = align(*WORDS, *own, f"hydra.run.dir={run}")
    assert code == 0, err
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in model.generation_config.eos_token_id and tokenizer.eos_token == "<|end|>"
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": rows[0]["prompt"]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**ids, max_new_tokens=60, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "An apple.<|end|>"


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_checkpoint_and_the_end_of_a_run_name_all_ends(align, tmp_path, monkeypatch, adapter):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    data, run = folders.write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "run"
    own = ("model=local", f"model.path={folders.folder('llama')}", "data=jsonl", f"data.path={data}")
    code, _, err = align(*WORDS, *own, "max_steps=1", f"adapter={adapter}", f"hydra.run.dir={run}")
    assert code == 0, err
    for folder in (run / "model", run / "sft_step_1" / "model"):
        ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.convert_tokens_to_ids("<|end|>") in ends and len(ends) > 1

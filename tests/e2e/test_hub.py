"""A run of a model and a data set that have options of their own, under their real names, from the tests' Hub."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from align.cli.groups import CONF
from align.config.io import build, register_schemas
from align.run.runner import run
from tests import tiny
from tests.hub import TOKEN

SMALL = (
    "max_steps=2 rollout.batch_size=4 rollout.max_new_tokens=8 evaluation.num_prompts=2 evaluation.num_pairs=2 "
    "evaluation.num_texts=2 adapter.r=4 data.max_prompt_tokens=64 data.max_response_tokens=32 threads=1 device=cpu"
)


def mib(tensors) -> float:
    return sum(t.nbytes for t in tensors) / 2**20


# share: of its four bytes that a weight of a quantized layer keeps
@pytest.mark.parametrize(
    ("method", "quantization", "share"), [("dpo", "none", 1), ("dpo", "nf4", 1 / 8), ("ppo", "int8", 1 / 4)]
)
def test_smollm2_on_orca_pairs(hub, tmp_path, monkeypatch, capfd, method, quantization, share):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = hub.add("HuggingFaceTB/smollm2-135M-SFT-Only", tiny.folder(), gated=True)
    rows = [{"system": "be kind", "question": f"say {a}", "chosen": a * 3, "rejected": "zz"} for a in tiny.LETTERS]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub.add("Intel/orca_dpo_pairs", {"orca_rlhf.jsonl": content}, kind="datasets", gated=True)
    hub.add("own/judge", tiny.reward_folder())
    register_schemas()
    words = ["model=smollm2_135m", "data=orca_dpo", f"method={method}", f"quantization={quantization}", *SMALL.split()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words.append("method.batch_size=4" if method == "dpo" else "method.minibatch_size=4")
        config = build(compose("config", [*words, "reward=sparse", "reward.source.path=own/judge"]))
    said: list[str] = []
    result = run(config, tmp_path / "run", say=said.append)
    assert result["step"] == 2
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["hub_commit"] == f"HuggingFaceTB/smollm2-135M-SFT-Only@{commit}"
    assert facts["data"]["train_prompts"] + facts["data"]["held_out_prompts"] == 26
    base, judge = tiny.causal(), AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder())
    layers = [m.weight for name, m in base.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    frozen = facts["weights_mib"]["all"] - facts["weights_mib"]["trained"]
    assert frozen == pytest.approx(mib([*base.parameters(), *judge.parameters()]) - (1 - share) * mib(layers), rel=0.02)
    assert facts["peak_memory_mib"] > frozen
    adapter = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "HuggingFaceTB/smollm2-135M-SFT-Only"
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    written = b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())
    heard = written + "".join([*said, *capfd.readouterr()]).encode()
    assert TOKEN.encode() not in heard

"""JSON files of older scripts: what each key becomes, what is refused, and that the result is a run of align's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from align.cli.conversion import _OPTIONS
from align.cli.convert import main
from align.cli.groups import CONF, options
from align.config import Config
from align.config.data_files import FORMATS
from align.config.io import build

COMMON = {
    "model_name_or_path": "HuggingFaceTB/smollm2-135M-SFT-Only",
    "dataset_name": "Intel/orca_dpo_pairs",
    "dataset_split": "train[:1000]",
    "prompt_column": "question",
    "chosen_column": "chosen",
    "rejected_column": "rejected",
    "max_prompt_length": 256,
    "max_response_length": 128,
    "output_dir": "outputs/an old run",
    "log_with": None,
    "load_in_8bit": True,
    "use_lora": True,
    "lora_r": 8,
    "lora_alpha": 24,
    "lora_dropout": 0.05,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "learning_rate": 2e-5,
    "num_train_epochs": 1,
    "verbosity_word_limit": 40,
    "seed": 3,
    "max_steps": 20,
}
PPO = COMMON | {
    "ppo_batch_size": 16,
    "target_kl": 0.1,
    "init_kl_coef": 0.2,
    "dense_rewards": True,
    "generation_samples": 64,
    "test_prompts_file": "prompts.txt",
    "reward_config": {"model_name_or_path": "", "learning_rate": 5e-6, "num_train_epochs": 2},
}


@pytest.fixture
def convert(tmp_path, capsys, monkeypatch):
    """Old keys -> (exit code, the words of the command, what was said)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("What is it?\n")

    def call(old, *flags):
        path = tmp_path / "old.json"
        path.write_text(old if isinstance(old, str) else json.dumps(old))
        code = main([str(path), *flags])
        said = capsys.readouterr()
        command = shlex.split(said.out)
        assert command[:1] == (["align"] if code == 0 else [])
        return code, command[1:], said.err

    return call


def composed(words: list[str]) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", [w for w in words if not w.startswith("hydra.")]))


def test_a_dpo_file(convert):
    code, words, said = convert(COMMON | {"beta": 0.3})
    assert code == 0
    config = composed(words)
    assert (config.method.name, config.method.beta, config.method.batch_size) == ("dpo", 0.3, 8)
    assert config.method.learning_rate == 2e-5
    assert config.model.path == COMMON["model_name_or_path"] and "model=smollm2_135m" in words
    data = config.data
    assert (data.path, data.train_split, data.prompt_column) == ("Intel/orca_dpo_pairs", "train[:1000]", "question")
    assert (data.max_prompt_tokens, data.max_response_tokens, data.long_prompts.value) == (256, 128, "truncate")
    assert data.system_column is None  # the old scripts did not read it
    assert (config.adapter.name, config.adapter.r, config.adapter.alpha) == ("lora", 8, 24)
    assert (config.quantization.name, config.tracking.name) == ("int8", "none")
    assert (config.evaluation.verbosity_word_limit, config.seed, config.max_steps) == (40, 3, 20)
    assert "hydra.run.dir='outputs/an old run'" in words
    lines = said.splitlines()
    assert {line.split()[0] for line in lines} == {*COMMON, "beta", "method"}  # every key is told of
    assert "method unset -> method=dpo (beta is given)" in lines
    assert "lora_r 8 -> adapter.r=8" in lines
    assert any(line.startswith("lora_dropout 0.05 -> left out: no model has dropout") for line in lines)


def test_a_ppo_file(convert):
    code, words, said = convert(PPO)
    assert code == 0
    config = composed(words)
    assert config.method.name == "ppo"
    assert (config.rollout.batch_size, config.method.minibatch_size, config.rollout.max_new_tokens) == (16, 8, 128)
    assert (config.method.target_kl, config.method.kl.coef) == (0.1, 0.2)
    assert config.reward.credit.name == "attention"
    assert (config.reward.source.learning_rate, config.reward.source.epochs) == (5e-6, 2)
    assert "dense_rewards true -> reward=dense" in said
    sparse = composed(convert(PPO | {"dense_rewards": False})[1])
    assert sparse.reward.credit.name == "sparse"


def test_a_grpo_file(convert):
    code, words, _ = convert(COMMON | {"group_size": 4, "beta": 0.05})
    assert code == 0
    config = composed(words)
    assert (config.method.name, config.method.group_size, config.method.kl.coef) == ("grpo", 4, 0.05)
    assert (config.rollout.batch_size, config.method.minibatch_size) == (8, 8)


def test_other_models_and_data(convert, tmp_path):
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\n")
    old = {"method": "dpo", "model_name_or_path": "me/mine", "dataset_name": f"{tmp_path}/pairs.csv"}
    _, words, _ = convert(old)
    assert {"model=local", "model.path=me/mine", "data=csv", f"data.path={tmp_path}/pairs.csv"} <= set(words)
    assert composed(words).adapter.name == "none"
    _, words, _ = convert(old | {"dataset_name": "me/pairs", "load_in_4bit": True})
    assert {"data=hub", "data.path=me/pairs", "quantization=nf4", "adapter=lora"} <= set(words)
    _, words, _ = convert(old | {"dataset_name": "Anthropic/hh-rlhf", "use_lora": False, "lora_r": 8})
    assert {"data=hh", "adapter=none"} <= set(words) and not any(w.startswith("adapter.r") for w in words)


@pytest.mark.parametrize(
    ("old", "flags", "told"),
    [
        (COMMON | {"beta": 0.1, "lr": 1}, (), "error: .*old.json: given 'lr'; allowed: keys that convert"),
        (COMMON | {"group_size": 4}, ("--method", "dpo"), "error: .*given 'group_size'"),
        (COMMON, (), "error: method: given None; allowed: --method, one of dpo, ppo, grpo"),
        (PPO | {"beta": 0.1}, (), "beta 0.1 -> unclear for PPO"),
        (PPO | {"load_in_4bit": True}, (), "error: load_in_4bit: given True; allowed: one of"),
        (PPO | {"load_in_8bit": "false"}, (), "error: load_in_8bit: given 'false'; allowed: true or false"),
        (PPO | {"dense_rewards": "no"}, (), "error: dense_rewards: given 'no'; allowed: true or false"),
        (PPO | {"use_lora": False}, (), "error: adapter: given 'none'; allowed: lora: int8"),
        (PPO | {"learning_rate": "fast"}, (), "error: method.learning_rate: given 'fast'; allowed: auto, or a number"),
        (PPO | {"seed": [1]}, (), r"error: seed: given \[1\]; allowed: text, a number"),
        (PPO | {"dataset_name": 3}, (), "error: dataset_name: given 3; allowed: text, a number"),
        (PPO | {"ppo_batch_size": "many"}, (), "error: .*batch_size: given 'many'"),
        (PPO | {"reward_config": {"model_name_or_path": "other/model"}}, (), "reward_config .*another base"),
        ("[]", (), "error: .*old.json: given 'list'; allowed: a JSON object"),
        ('{"a": 1,\n}', (), "error: .*old.json, line 2: .*well-formed JSON"),
    ],
)
def test_what_cannot_be_converted_is_said_and_exits_2(convert, old, flags, told):
    code, words, said = convert(old, *flags)
    assert (code, words) == (2, [])
    assert said.splitlines()[-1].startswith("error: ")
    assert any(re.match(told, line) for line in said.splitlines())


def test_unknown_keys_may_be_left_out(convert):
    code, words, said = convert(COMMON | {"beta": 0.1, "lr": 1, "foo": None}, "--allow-unknown")
    assert code == 0 and composed(words).method.beta == 0.1
    assert {"lr 1 -> unknown", "foo null -> unknown"} <= set(said.splitlines())


def test_no_torch_is_needed(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(PPO))
    (tmp_path / "prompts.txt").write_text("What is it?\n")
    script = (
        "import sys; from align.cli.convert import main; code = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "old.json"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.startswith("align method=ppo ")


def test_every_format_of_data_files_has_an_option_that_reads_it():
    assert set(_OPTIONS) == set(FORMATS.values())
    assert set(_OPTIONS.values()) <= set(options("data"))

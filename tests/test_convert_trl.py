"""Configurations of TRL's trainers: the commands that they become, what is refused, and the messages for its fields."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from align.cli.compose import composed
from align.cli.convert import main
from align.cli.launch import launch
from align.config import Truncated


@pytest.fixture
def convert(tmp_path, capsys):
    """Text of a file -> (exit code, the words of the command, what was said)."""

    def call(text, *flags, name="trl.yaml"):
        (tmp_path / name).write_text(text)
        code = main([str(tmp_path / name), *flags])
        said = capsys.readouterr()
        return code, shlex.split(said.out)[1:], said.err

    return call


DPO = """
model_name_or_path: me/mine
datasets: [{path: me/pairs, split: "train[:100]"}]
learning_rate: 5e-6
loss_type: [ipo]
beta: 0.2
max_length: 1024
warmup_ratio: 0.1
lr_scheduler_type: linear
max_steps: 1000
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
save_steps: 0.2
eval_strategy: steps
eval_steps: 50
use_peft: true
lora_r: 8
lora_target_modules: [q_proj, self_attn.v_proj]
bf16: true
report_to: none
logging_steps: 25
"""


def test_dpo_with_lora(convert):
    code, words, said = convert(DPO)
    assert code == 0
    config = composed(words)
    method = config.method
    assert (method.name, method.beta, method.loss.value, method.length_normalised) == ("dpo", 0.2, "ipo", True)
    assert (method.batch_size, method.learning_rate, method.warmup_steps, config.max_steps) == (16, 5e-6, 100, 1000)
    assert (method.lr_schedule.value, method.adam_eps) == ("linear", 1e-8)
    assert (config.checkpoint.every_steps, config.evaluation.every_steps) == (200, 50)
    assert (config.data.path, config.data.train_split) == ("me/pairs", "train[:100]")
    assert (config.adapter.name, config.adapter.r) == ("lora", 8)
    assert config.adapter.target_modules == "(.*[.])?(q_proj|self_attn[.]v_proj)"
    assert (config.precision.value, config.tracking.name) == ("bf16", "none")
    assert "method unset -> method=dpo (loss_type=ipo: of TRL's DPOConfig alone)" in said
    assert "logging_steps 25 -> left out: every update is recorded" in said
    assert "adam_epsilon unset -> method.adam_eps=1e-08" in said


def test_lengths_that_the_file_leaves_open_are_named(convert):
    """TRL's default is a limit of both together, which align's are not; a field's older name counts as given."""
    code, words, said = convert(DPO.replace("max_length: 1024\n", ""))
    assert code == 0 and not any("max_prompt_tokens" in word for word in words)
    assert "max_length unset -> left out: TRL's 1024 are of prompt and response together" in said
    code, words, said = convert(DPO.replace("max_length: 1024", "max_seq_length: 700"))
    assert code == 0 and "data.max_response_tokens=700" in words and "max_length unset" not in said


def test_arguments_of_the_chat_template(convert):
    code, words, _said = convert(
        DPO.replace("bf16: true", "bf16: true\nchat_template_kwargs: {enable_thinking: false, x: a b}")
    )
    assert code == 0 and composed(words).model.template_arguments == {"enable_thinking": False, "x": "a b"}


def test_grpo(convert):
    old = {
        "num_generations": 4, "max_completion_length": 64, "loss_type": "dr_grpo", "scale_rewards": False,
        "use_vllm": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 4,
        "epsilon_high": 0.28, "num_train_epochs": 1, "warmup_steps": 0.1,
    }  # fmt: skip
    code, words, _ = convert(json.dumps(old), "--rows", "100", name="trl.json")
    assert code == 0
    config = composed(words)
    method = config.method
    assert (method.group_size, method.minibatch_size, config.rollout.batch_size) == (4, 16, 32)
    assert (config.rollout.max_new_tokens, method.loss_length.value, method.scale_std) == (64, "constant", False)
    assert (method.clip_high, method.kl.coef, method.kl.estimator.value) == (0.28, 0.0, "k3_corrected")
    assert config.rollout.truncated is Truncated.keep
    assert (config.max_steps, method.warmup_steps) == (24, 3)  # 100 // 8 prompts, 2 updates each; ceil(2.4)
    trl = composed(convert(json.dumps(old), "--rows", "100", "--method", "trl_grpo", "--allow-unknown")[1])
    assert (trl.method.loss.value, trl.method.scale_rewards.value, trl.method.micro_batch_size) == (
        "dr_grpo",
        "none",
        8,
    )


def test_kto_rloo_sft_and_reward(convert):
    kto = composed(convert("undesirable_weight: 1.5\nper_device_train_batch_size: 16\nmax_steps: 9")[1]).method
    assert (kto.name, kto.batch_size, kto.undesirable_weight, kto.learning_rate) == ("trl_kto", 8, 1.5, 1e-6)
    rloo = composed(convert("normalize_advantages: true\nbeta: 0.03\nmax_steps: 9")[1]).method
    assert (rloo.name, rloo.group_size, rloo.beta, rloo.minibatch_size) == ("trl_rloo", 2, 0.03, 8)
    sft = composed(convert("num_train_epochs: 2", "--method", "sft", "--rows", "81")[1])
    assert (sft.method.learning_rate, sft.method.batch_size, sft.max_steps) == (2e-5, 8, 22)
    reward = composed(convert("num_train_epochs: 1\nbf16: false", "--method", "reward")[1])
    assert (reward.reward.source.epochs, reward.reward.source.center_coef, reward.precision.value) == (1, 0, "fp32")


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("top_p: 0.9", ("--method", "grpo"), "top_p 0.9 -> no counterpart: responses are sampled by temperature"),
        ("packing: true", (), "packing true -> no counterpart: a row is one pair"),
        ("learing_rate: 1", ("--method", "dpo"), "learing_rate 1 -> unknown"),
        ("loss_type: [sigmoid, sft]", (), "loss_type .* one loss at a time"),
        ("lr_scheduler_type: cosine", ("--method", "sft"), "lr_scheduler_type .* one of linear"),
        ("warmup_ratio: 0.1", ("--method", "sft"), "warmup_ratio 0.1 -> a share of an unknown number"),
        (
            "datasets: [{path: a/b}, {path: c/d}]",
            ("--method", "sft"),
            "datasets .* one data set.*several are data.mixture",
        ),
        ("num_generations: 4\nbeta: 0.1", (), "error: method: given .*no field.* allowed: --method, one of"),
        (
            "packing: false\nloss_type: kto",
            (),
            "error: method: given 'packing of SFTConfig, loss_type=kto of KTOConfig'",
        ),
        ("a: !!python/object/apply:os.getcwd []", (), "error: .*line 1: .*allowed: well-formed YAML of plain values"),
        ("a: [", (), "error: .*trl.yaml, line 1: .*well-formed YAML"),
        ("- a", (), "error: .*a YAML mapping"),
    ],
)
def test_what_cannot_be_converted_is_said_and_exits_2(convert, text, flags, said):
    code, words, lines = convert(text, *flags)
    assert (code, words) == (2, [])
    assert lines.splitlines()[-1].startswith("error: ")
    assert any(re.match(said, line.replace('"', "'")) for line in lines.splitlines()), lines


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["method=dpo", "method.per_device_train_batch_size=4"], "method.batch_size (pairs per update), TRL's "),
        (["method=dpo", "+method.per_device_train_batch_size=4"], "method.batch_size (pairs per update), TRL's "),
        (["max_completion_length=64"], "rollout.max_new_tokens, TRL's max_completion_length"),
        (["learning_rate=1e-5"], "method.learning_rate, reward.source.learning_rate"),
        (["method=grpo", "--num_generations", "4"], "KEY=VALUE without dashes: method.group_size"),
        (["use_vllm=true"], "nothing for TRL's use_vllm: align samples itself"),
    ],
)
def test_a_field_of_trls_on_the_command_line(words, allowed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert launch(words) == 2
    assert f"allowed: {allowed}" in capsys.readouterr().err

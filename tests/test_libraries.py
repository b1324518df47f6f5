"""What the libraries underneath say, and what of it reaches the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from align.libraries import reason

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from align.config import QuantizationConfig
from align.models.quantize import quantization_config
from align.data.sources import load_rows
from align.libraries import quiet
from transformers import AutoModelForCausalLM, LlamaConfig
quiet()
open(sys.argv[1] + "/a.jsonl", "w").write('{"a": 1}')
load_rows(sys.argv[1] + "/a.jsonl", key="data.path")
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
)
AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[1])
quantized = quantization_config(QuantizationConfig(name="int8"), torch.float32)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=quantized)
for _ in range(2):
    model(torch.tensor([[1, 2, 3]]))
"""
CAST = "MatMul8bitLt: inputs will be cast from torch.float32 to float16 during quantization\n"


def test_loading_says_nothing_and_int8_what_it_rounds_once(tmp_path):
    """No progress bar, no advice, and not a line per layer and call: there are seven layers and two calls."""
    noisy = [k for k in os.environ if k.startswith(("TRANSFORMERS_", "HF_")) and k not in ("HF_ENDPOINT", "HF_HOME")]
    environment = {k: v for k, v in os.environ.items() if k not in noisy}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", CAST)


class GatedRepoError(OSError):
    """Named as the Hub client's own."""


def test_the_most_telling_error_of_a_chain_is_reported():
    error = OSError("You are trying to access a gated repo.\nMake sure to ...")
    error.__cause__ = GatedRepoError("401 Client Error.\n\nmany lines")
    assert reason(error).startswith("access to it is restricted")


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError("first.\nsecond"), "first"), (ValueError(""), "ValueError"), (ConnectionError("x"), "not in the cache")],
)
def test_other_errors_give_their_first_line(error, told):
    assert reason(error).startswith(told)
    assert "\n" not in reason(error)

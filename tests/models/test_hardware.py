"""What `auto` chooses."""

from __future__ import annotations

import os

import pytest
import torch

from align.config import Config, Device, Precision
from align.errors import InputError
from align.models.hardware import (
    group_limits_mib,
    memory_left_mib,
    peak_memory_mib,
    precision_hint,
    resolve_device,
    resolve_precision,
    torch_dtype,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_fp32_on_the_cpu():
    assert resolve_precision(Precision.auto, CPU) == (Precision.fp32, "auto: fp32 on cpu")


@pytest.mark.parametrize(
    ("multiplies", "precision", "world", "device", "said"),
    [
        (True, Precision.auto, False, CPU, 1),
        (False, Precision.auto, False, CPU, 0),
        (True, Precision.fp32, False, CPU, 0),
        (True, Precision.auto, True, CPU, 0),
        (True, Precision.auto, False, CUDA, 0),
    ],
)
def test_a_faster_precision_is_named_where_the_processor_has_it(
    monkeypatch, multiplies, precision, world, device, said
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": multiplies})
    lines = precision_hint(Config(precision=precision), device, world=world)
    assert len(lines) == said and all("precision=bf16" in line for line in lines)


@pytest.mark.parametrize("asked", [Precision.fp32, Precision.bf16, Precision.fp16])
def test_what_is_asked_for_is_used(asked):
    assert resolve_precision(asked, CPU)[0] is asked
    assert resolve_precision(asked, CUDA)[0] is asked


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, Precision.bf16), (False, Precision.fp16)])
def test_auto_on_cuda_follows_the_card(monkeypatch, has_bf16, expected):
    """No card is at hand in tests: the two questions put to it are answered here. A T4 emulates bf16, slowly."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bf16
    )
    precision, why = resolve_precision(Precision.auto, CUDA)
    assert precision is expected
    assert "card" in why


def test_types():
    assert [torch_dtype(p) for p in (Precision.fp32, Precision.bf16, Precision.fp16)] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


def test_device():
    assert resolve_device(Config(device=Device.cpu)) == CPU
    assert resolve_device(Config(device=Device.auto)).type in ("cpu", "cuda", "mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_device_that_is_not_there():
    with pytest.raises(InputError, match=r"^device: given 'cuda'; allowed: .*auto.*cpu"):
        resolve_device(Config(device=Device.cuda))


def test_memory_that_is_left_holds_what_the_process_has():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    left = memory_left_mib(CPU)
    assert left is not None and 0.5 * peak_memory_mib(CPU) < left <= whole


@pytest.mark.parametrize(
    ("name", "text", "limits"),
    [
        ("memory.max", "max\n", []),
        ("memory.max", f"{3 * 2**30}\n", [3072.0]),
        ("memory/memory.limit_in_bytes", f"{2**29}\n", [512.0]),
    ],
)
def test_limits_of_a_control_group(tmp_path, name, text, limits):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert list(group_limits_mib(tmp_path)) == limits

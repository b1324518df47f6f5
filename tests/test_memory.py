"""Memory that a run frees stays with it until it ends."""

import json
import os
import subprocess
import sys

import pytest
import torch

from align import memory

# MiB resident of a tensor of 30 MiB, the process's first large one: held, freed inside, and afterwards.
FREED = """
import json, resource, sys, torch
from align.memory import pages_kept

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

with pages_kept(torch.device(sys.argv[1])):
    torch.ones(1)
    before = resident()
    tensor = torch.ones(8_000_000)
    held = resident() - before
    del tensor
    inside = resident() - before
print(json.dumps({"held": held, "inside": inside, "afterwards": resident() - before}))
"""
glibc = pytest.mark.skipif(sys.platform != "linux" or memory._glibc() is None, reason="not glibc")


def freed(device: str = "cpu", **environment: str) -> dict[str, float]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FREED, device]
    done = subprocess.run(command, env=plain | environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["held"] > 25
    return found


@glibc
def test_freed_memory_stays_inside_and_goes_back_at_the_end():
    found = freed()
    assert found["inside"] > 25 and found["afterwards"] < 10


@glibc
@pytest.mark.parametrize(
    ("device", "environment"),
    [("cpu", {"MALLOC_ARENA_MAX": "2"}), ("cpu", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}), ("meta", {})],
)
def test_left_alone(device, environment):
    """Where the environment says how to allocate, and where the memory in question is another device's."""
    assert freed(device, **environment)["inside"] < 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    with memory.pages_kept(torch.device("cpu")):
        assert memory._glibc() is None

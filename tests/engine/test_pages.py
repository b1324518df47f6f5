"""Memory that a run frees stays with it until it ends."""

import json
import os
import subprocess
import sys

import pytest
import torch

from align.engine.fast import pages

# MiB that stay resident of eight pieces of 24 MiB, freed the last one first: inside, once it is over, and of
# eight more then. Before them, of a tensor of 30 MiB, the process's first large one, which glibc maps by itself.
FREED = """
import ctypes, json, resource, sys, torch
from align.engine.fast.pages import pages_kept

libc, size = ctypes.CDLL(None), 24 * 2**20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20 - before

def pieces():
    taken = [libc.malloc(size) for _ in range(8)]
    for piece in taken:
        libc.memset(piece, 1, size)
    for piece in reversed(taken):
        libc.free(piece)

found, before = {}, 0
try:
    with pages_kept(torch.device(sys.argv[1])):
        torch.ones(1)
        before = resident()
        tensor = torch.ones(8_000_000)
        found["held"] = resident()
        del tensor
        found["tensor"] = resident()
        pieces()
        found["inside"] = resident()
        if len(sys.argv) > 2:
            raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
found["afterwards"] = resident()
pieces()
found["later"] = resident()
print(json.dumps(found))
"""
glibc = pytest.mark.skipif(sys.platform != "linux" or pages._glibc() is None, reason="not glibc")


def freed(device: str = "cpu", *more: str, **environment: str) -> dict[str, float]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FREED, device, *more]
    done = subprocess.run(command, env=plain | environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["held"] > 25
    return found


@glibc
@pytest.mark.parametrize("ends", [(), ("interrupted",)])
def test_freed_memory_stays_inside_and_goes_back_at_the_end(ends):
    found = freed("cpu", *ends)
    assert found["tensor"] > 25 and found["inside"] > 180 and found["afterwards"] < 10
    assert found["later"] < 100  # of 192: the heap's end goes back by itself again


@glibc
@pytest.mark.parametrize(
    ("device", "environment"),
    [("cpu", {"MALLOC_ARENA_MAX": "2"}), ("cpu", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}), ("meta", {})],
)
def test_left_alone(device, environment):
    """Where the environment says how to allocate, and where the memory in question is another device's."""
    assert freed(device, **environment)["tensor"] < 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda name: object())
    with pages.pages_kept(torch.device("cpu")):
        assert pages._glibc() is None

"""A device beside the CPU, in Python: its tensors refuse to meet the CPU's, as a GPU's do. The CPU computes for it.

    python -m tests.second_device FOLDER NAME...    # runs of tests/test_second_device.py, on a CPU and on this

Where there is no GPU it shows what one would refuse: tensors left on the CPU and, in a decoding step that a GPU
captures, all that asks a tensor for its numbers or brings some from outside. It does not show what kernels do there,
half precision, a GPU's own optimizer kernels or random numbers (what draws without a generator draws as on a CPU), and
`parameter.data = other` is lost on it. It changes this process for good, and so has one of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tag, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "second"
CPU = torch.device("cpu")
BETWEEN = {"copy_", "_to_copy"}  # operations that may meet tensors of both
BY_INDEX = {"index", "index_put", "index_put_"}  # these take their indices from either
ASKING = {Tag.data_dependent_output, Tag.dynamic_output_shape}  # what these say, a GPU must be waited for


class RefusedError(RuntimeError):
    """What a GPU would refuse."""


class SecondTensor(Tensor):
    """A tensor of that device around one that a CPU holds."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SecondTensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        device = torch.device(NAME, 0)
        made = Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=device, **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = SecondTensor(self.inner.detach().clone())
            parameter = isinstance(self, nn.Parameter)
            grad = self.requires_grad
            memo[id(self)] = nn.Parameter(copy, grad) if parameter else copy.requires_grad_(grad)
        return memo[id(self)]

    # What torch answers for such tensors by itself: that they have no memory, or that it cannot.
    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def storage(self) -> torch.TypedStorage:
        return self.inner.storage()

    def tolist(self) -> list[Any]:
        return self.to(CPU).tolist()


class Watch(TorchDispatchMode):
    """Sees every operation, those that make tensors as well."""

    captured = False  # whether a step runs that a GPU would capture
    seen: ClassVar[Counter[str]] = Counter()  # operations on the device, such steps, a GPU's own ways
    library: torch.library.Library  # kept, or torch forgets it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(func, args, kwargs or {})


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)  # torch.random.fork_rng asks; nothing draws from it

    def set_rng_state(self, state: Tensor, device: object = None) -> None: ...


def perform(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, on the CPU's tensors inside of the device's."""
    target = kwargs.get("device")
    there = target is not None and torch.device(target).type == NAME
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not there and not any(isinstance(tensor, SecondTensor) for tensor in given):
        return func(*args, **kwargs)
    Watch.seen["operations"] += 1
    _refuse(func, args, kwargs, given)
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs | ({} if target is None else {"device": CPU})))
    if target is not None and not there:
        return out
    if func is torch.ops.aten.copy_.default and not isinstance(args[0], SecondTensor):
        return args[0]
    wrapped = tree_map(lambda leaf: SecondTensor(leaf) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _refuse(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Sequence[Tensor]) -> None:
    """Raises RefusedError."""
    name = func._schema.name.partition("::")[2]
    if kwargs.get("generator") is not None:
        raise RefusedError(f"{name}: a generator of the CPU's")
    of_cpu = [tensor for tensor in given if not isinstance(tensor, SecondTensor)]
    indices = [index for index in args[1] if index is not None] if name in BY_INDEX else []
    if Watch.captured:
        leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]).type != NAME
        crosses = (
            leaves or (name in BETWEEN and of_cpu) or any(not isinstance(index, SecondTensor) for index in indices)
        )
        asks = any(index.dtype is torch.bool for index in indices) if name in BY_INDEX else ASKING & {*func.tags}
        if crosses or asks:
            raise RefusedError(f"{name}: in a captured step")
    if name in BETWEEN or name.startswith("new_") or name.endswith("_like"):
        return
    numbers = Tag.pointwise in func.tags or name in BY_INDEX  # these read single numbers from anywhere
    written = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    for tensor in of_cpu:
        index = any(tensor is index for index in indices)
        number = numbers and tensor.dim() == 0 and all(tensor is not value for value in written)
        if not index and not number:
            raise RefusedError(f"{name}: a tensor {tuple(tensor.shape)} on the CPU among others")


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, SecondTensor) else leaf


def install() -> torch.device:
    """Make the device known to torch."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    Watch.library = torch.library.Library("aten", "IMPL")

    # torch.tensor(..., device=...) and indices given as lists come here past the mode.
    def empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Any:
        return SecondTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        if Watch.captured:
            raise RefusedError("_copy_from: in a captured step")
        _inner(target).copy_(_inner(source))
        return target

    Watch.library.impl("empty_strided", empty_strided, "PrivateUse1")
    Watch.library.impl("_copy_from", copy_from, "PrivateUse1")
    torch.autograd.set_multithreading_enabled(False)  # a thread of the device's would not see the mode
    Watch().__enter__()
    return torch.device(NAME, 0)


@contextmanager
def in_use(device: torch.device) -> Iterator[None]:
    """What asks for a device gets this one, and sampling takes a GPU's way, each step watched."""
    import accelerate
    import transformers

    from align.engine.fast import captured, shared_prompts
    from align.run import runner

    call, keep, found_shared = captured.Replayed.__call__, captured.FixedDecoder.keep, shared_prompts.shared_prompts
    of_training = property(lambda self: (self._setup_devices, device)[1])

    def watched(self: captured.Replayed) -> None:
        Watch.captured = True
        Watch.seen["captured steps"] += 1
        try:
            call(self)
        finally:
            Watch.captured = False

    def kept(self: captured.FixedDecoder, index: Tensor) -> None:
        Watch.seen["times rows left"] += 1
        keep(self, index)

    def shared(*given: Any) -> Any:
        found = found_shared(*given)
        Watch.seen["times prompts were shared"] += found is not None
        return found

    with (
        mock.patch.object(runner, "resolve_device", return_value=device),
        mock.patch.object(accelerate.Accelerator, "device", device),
        mock.patch.object(transformers.TrainingArguments, "device", of_training),
        mock.patch.object(captured, "why_not", captured.varying),
        mock.patch.object(captured.Replayed, "__call__", watched),
        mock.patch.object(captured.FixedDecoder, "keep", kept),
        mock.patch.object(shared_prompts, "shared_prompts", shared),
    ):
        yield


def main(folder: Path, names: Sequence[str]) -> None:
    """Runs by these names, in FOLDER/cpu and FOLDER/second; NAME.json there is what the device saw, and what failed."""
    from align.engine.engine import Engine
    from align.engine.fast.limits import Limits
    from align.run.runner import run
    from tests.test_second_device import THERE, config_of

    engine_of = Engine.of

    def start(name: str, place: Path) -> None:
        os.environ["ALIGN_HOME"] = str(place / "home")
        run(config_of(name, folder / "data"), place / name, say=lambda line: None)

    for name in names:
        start(name, folder / "cpu")
    device = install()
    for name in names:
        Watch.seen.clear()
        told: dict[str, Any] = {"failed": None}
        limits = Limits(**THERE.get(name, {}))
        lower = mock.patch.object(Engine, "of", lambda config, low=limits: replace(engine_of(config), limits=low))
        with in_use(device), lower:
            try:
                start(name, folder / NAME)
            except Exception:
                told["failed"] = traceback.format_exc()
        (folder / NAME / f"{name}.json").write_text(json.dumps(told | Watch.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

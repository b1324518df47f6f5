"""A device beside the CPU, in Python: its tensors refuse to meet the CPU's, as a GPU's do. The CPU computes for it.

    python -m tests.second_device FOLDER NAME...    # the runs of RUNS by these names, each in FOLDER/NAME

Where there is no GPU it shows what one would refuse: tensors left on the CPU and, in a decoding step that a GPU
captures, all that asks a tensor for its numbers or brings some from outside. Speed, half precision, and what kernels do
there, it does not show. It changes this process for good, and so has one of its own.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "second"
CPU = torch.device("cpu")
BETWEEN = {"copy_", "_to_copy"}  # operations that may meet both kinds of tensors
BY_INDEX = {"index", "index_put", "index_put_"}  # these take their indices from either
ASKING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique2", "_unique2", "masked_select"}


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
            copy: Tensor = SecondTensor(self.inner.detach().clone())
            parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if parameter else copy
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


class _Mode(TorchDispatchMode):
    """Sees what makes tensors on the device, too."""

    captured = False  # whether a step runs that a GPU would capture

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(func, args, kwargs or {})


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)  # nothing draws from a generator of its own

    def set_rng_state(self, state: Tensor, device: object = None) -> None: ...


def perform(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, on the CPU's tensors inside of the device's."""
    target = kwargs.get("device")
    there = target is not None and torch.device(target).type == NAME
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not there and not any(isinstance(tensor, SecondTensor) for tensor in given):
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    _refuse(name, args, given, target)
    if target is not None:
        kwargs = kwargs | {"device": CPU}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if (target is not None and not there) or (name == "copy_" and not isinstance(args[0], SecondTensor)):
        return args[0] if name == "copy_" else out
    wrapped = tree_map(lambda leaf: SecondTensor(leaf) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _refuse(name: str, args: tuple[Any, ...], given: Sequence[Tensor], target: object) -> None:
    of_cpu = [tensor for tensor in given if not isinstance(tensor, SecondTensor) and tensor.dim() > 0]
    if _Mode.captured:
        asked = name in ASKING or (name in BY_INDEX and any(t is not None and t.dtype is torch.bool for t in args[1]))
        crossing = name in BETWEEN and (len(of_cpu) > 0 or (target is not None and torch.device(target).type != NAME))
        if asked or crossing:
            raise RefusedError(f"{name}: in a captured step")
    if name in BETWEEN:
        return
    if name in BY_INDEX:
        of_cpu = [tensor for tensor in of_cpu if all(tensor is not index for index in args[1])]
    if of_cpu:
        raise RefusedError(f"{name}: a tensor {tuple(of_cpu[0].shape)} on the CPU among others")


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, SecondTensor) else leaf


def install() -> torch.device:
    """Make the device known to torch."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")

    # torch.tensor(..., device=...) and indices given as lists come here past the mode.
    def empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Any:
        return SecondTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        if _Mode.captured:
            raise RefusedError("_copy_from: in a captured step")
        _inner(target).copy_(_inner(source))
        return target

    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    torch.autograd.set_multithreading_enabled(False)  # a thread of the device's would not see the mode
    _Mode.library = library  # kept, or torch forgets it
    _Mode().__enter__()
    return torch.device(NAME, 0)


@contextmanager
def in_use(device: torch.device) -> Iterator[None]:
    """What asks for a device gets this one, and sampling takes a GPU's way, each step watched."""
    import accelerate
    import transformers

    from align import runner
    from align.evaluation import reward_run
    from align.models import captured
    from align.rollout import sampling

    call = captured.Replayed.__call__
    of_training = property(lambda self: (self._setup_devices, device)[1])

    def watched(self: captured.Replayed) -> None:
        _Mode.captured = True
        try:
            call(self)
        finally:
            _Mode.captured = False

    with (
        mock.patch.object(runner, "resolve_device", return_value=device),
        mock.patch.object(reward_run, "resolve_device", return_value=device),
        mock.patch.object(accelerate.Accelerator, "device", device),
        mock.patch.object(transformers.TrainingArguments, "device", of_training),
        mock.patch.object(sampling, "can_capture", captured.has_fixed_steps),
        mock.patch.object(captured.Replayed, "__call__", watched),
    ):
        yield


def main(folder: Path, names: Sequence[str]) -> None:
    device = install()
    from align.runner import run
    from tests.test_second_device import config_of

    with in_use(device):
        for name in names:
            try:
                run(config_of(name, folder / "data"), folder / name, say=lambda line: None)
            except Exception:
                (folder / f"{name}.failed").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

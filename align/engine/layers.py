"""Reports of the layer that a pass on a CPU has come to: one pass of a large model takes longer than people wait."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from align.activity import Activity


class LayerReports:
    """Hooks that count a pass through a model's layers, forward and backward; they change no number.

    A GPU's layers are launched long before they are done, so that a count of them would not be true: there it has none.
    """

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._watched: set[int] = set()  # by identity: roles share layers

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copy of a watched model reports to the same listener

    def watch(self, modules: Iterable[nn.Module | None]) -> None:
        """Report the passes through these modules' layers; nothing where nobody listens, or on another device."""
        if not self._activity.heard:
            return
        for module in modules:
            layers = [] if module is None else list(layers_of(module))
            for i, layer in enumerate(layers, start=1):
                on_cpu = all(parameter.device.type == "cpu" for parameter in layer.parameters())
                if on_cpu and id(layer) not in self._watched:
                    self._watched.add(id(layer))
                    layer.register_forward_hook(partial(self._forward, i, len(layers)))

    def _forward(self, i: int, n: int, _layer: nn.Module, _inputs: object, output: object) -> None:
        self._activity.inside(f"layer {i} of {n}", i / n)
        states = output[0] if isinstance(output, tuple) else output
        if isinstance(states, Tensor) and states.requires_grad:
            states.register_hook(partial(self._backward, i, n))

    def _backward(self, i: int, n: int, _gradient: Tensor) -> None:
        self._activity.inside(f"layer {i} of {n}, backward", (n - i) / n)


def attention_layers(module: nn.Module) -> list[nn.Module]:
    """Return a transformer's attention layers in their order; none of a model that is made of state spaces alone."""
    return [part for part in module.modules() if type(part).__name__.endswith("Attention")]


def layers_of(module: nn.Module) -> Iterable[nn.Module]:
    """Return a transformer's layers: the outermost list of two modules or more."""
    lists = (part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) > 1)
    return next(lists, ())

"""Several LoRA adapters on one frozen base, one per role, and a switch between them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.config import AdapterConfig
from align.errors import InputError, first_line
from align.files import read_object
from align.streams import drawn_from

POLICY = "default"  # PEFT saves this one at the top of its folder, where plain PEFT looks for it
CRITIC = "critic"
REWARD = "reward"
DPO = "dpo"


ALL_LINEAR = "all-linear"
_STATE_SPACE = ("A_log", "D")  # parameters that a state-space mixer has, and no attention
_READ_BARE = ("x_proj", "dt_proj", "out_proj")  # its layers whose weights the scan's code reads without calling them


def lora_config(config: AdapterConfig, task: TaskType, without: Sequence[str] = ()) -> LoraConfig:
    """Dropout is 0: PPO's ratio must be 1 on the first update (N+ implementation details, dropout).

    Args:
        without: Modules that get no adapter though their kind is targeted (`not_adapted`).
    """
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        target_modules=config.target_modules,
        exclude_modules=list(without) or None,
        lora_dropout=0.0,
        task_type=task,
    )


def not_adapted(base: nn.Module, target_modules: str = ALL_LINEAR) -> list[str]:
    """Name the linear layers of `base` that an adapter would not reach, or would break, where all are targeted.

    These are a state-space mixer's products whose weights are read past the layer, where an adapter would change
    merged weights alone, and routers: linear layers of transformers' own that return more than a product.
    """
    if target_modules != ALL_LINEAR:
        return []
    found = []
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear) and type(module).__module__.startswith("transformers.models."):
            found.append(name)
        if all(isinstance(getattr(module, parameter, None), nn.Parameter) for parameter in _STATE_SPACE):
            found += [f"{name}.{child}" for child in _READ_BARE if isinstance(getattr(module, child, None), nn.Linear)]
    return found


def adapted(base: PreTrainedModel, settings: LoraConfig, **options: Any) -> PeftModel:
    """Put an adapter on a model, with `options` of PEFT's; InputError where its target modules do not fit."""
    try:
        return get_peft_model(base, settings, **options)
    except ValueError as error:  # names that no module has, or that PEFT knows not to work
        allowed = f"layers of {type(base).__name__} ({first_line(error)})"
        raise InputError("adapter.target_modules", settings.target_modules, allowed) from error


class SharedBase:
    """One PEFT model whose adapters take turns. The policy's is active outside of `use`."""

    def __init__(
        self,
        base: PreTrainedModel,
        config: AdapterConfig,
        seed: int = 0,
        prepare: Callable[[LoraConfig], None] = lambda settings: None,
    ) -> None:
        """Fresh A matrices are drawn from `seed` and the adapter's name, whatever the process drew before.

        `prepare` changes PEFT's settings before it makes its layers; by default they are PEFT's own.
        """
        self._config, self._seed = config, seed
        self._without = not_adapted(base, config.target_modules)
        settings = lora_config(config, TaskType.CAUSAL_LM, self._without)
        prepare(settings)
        with drawn_from(seed, "adapter", POLICY):
            self.model = adapted(base, settings, adapter_name=POLICY)
        self._active: str | None = POLICY
        self._trained: set[nn.Parameter] = set()
        self._survey()

    def add(self, name: str) -> None:
        """A fresh adapter; its B matrices are zero, so the role starts as the base itself."""
        with drawn_from(self._seed, "adapter", name):
            self.model.add_adapter(name, lora_config(self._config, TaskType.CAUSAL_LM, self._without))
        self._survey()
        self._switch(self._active)

    def load(self, name: str, folder: Path) -> Tensor | None:
        """Add an adapter from a PEFT folder; InputError where it does not fit this base and LoRA settings.

        Returns the (1, d) weight of the scalar head stored with it, or None where there is none.
        """
        self._check_settings(folder)
        self.add(name)
        weights = load_file(folder / "adapter_model.safetensors")
        # A PEFT model of another task type drops the head's weights silently: they are taken out by hand.
        heads = [weights.pop(key) for key in list(weights) if ".score." in key]
        own = set(self.parameters(name))
        given = {k.replace(".weight", f".{name}.weight") for k in weights}
        if own != given:
            odd = sorted(own ^ given)[0]
            raise InputError("adapter", str(folder), f"an adapter of the same base and LoRA settings ({odd} differs)")
        set_peft_model_state_dict(self.model, weights, adapter_name=name)
        return heads[0] if heads else None

    def _check_settings(self, folder: Path) -> None:
        """The scale of the updates (alpha / r) is in no weight: with another alpha the scores would be others."""
        stored = read_object(folder / "adapter_config.json", "as PEFT writes it")
        own = {"r": self._config.r, "lora_alpha": self._config.alpha, "use_rslora": False}
        for key, value in own.items():
            if stored.get(key) != value:
                allowed = f"an adapter of the same base and LoRA settings ({key}={value} as in this run)"
                raise InputError("adapter", f"{folder} ({key}={stored.get(key)})", allowed)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's parameters by their name in the model."""
        return {key: p for key, p in self.model.named_parameters() if f".{name}." in key}

    def save(self, folder: Path) -> None:
        """The policy's adapter alone, as PEFT loads it."""
        self.model.save_pretrained(folder, selected_adapters=[POLICY])

    def restore(self, folder: Path) -> None:
        """The policy's adapter from what `save` wrote."""
        set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"), adapter_name=POLICY)

    def train(self, *names: str) -> None:
        """Mark these adapters as trained, for good: PEFT's switching would freeze all but the active one."""
        self._trained = {p for name in names for p in self.parameters(name).values()}
        self.model.requires_grad_(False)
        self._switch(self._active)

    def merged(self, name: str) -> PreTrainedModel | None:
        """A copy of the base with adapter `name` added to its weights, which shares what no adapter touches.

        None for a quantized base, whose weights cannot be added to. The base itself is never merged into: rounding the
        way there and back changed 19% of the weights in bf16.
        """
        base = self.model.get_base_model()
        if getattr(base, "is_quantized", False):
            return None
        touched = {id(p) for layer in self._layers for p in layer.get_base_layer().parameters()}
        tensors = (*base.parameters(), *base.buffers())
        copy = deepcopy(base, {id(t): t for t in tensors if id(t) not in touched})
        for parent in list(copy.modules()):
            for child, module in list(parent.named_children()):
                if isinstance(module, BaseTunerLayer):
                    module.merge(adapter_names=[name])
                    setattr(parent, child, module.get_base_layer())
        return copy

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Run with adapter `name`, or with the bare base for None."""
        before, layers = self._active, self._layers
        casting = [layer.cast_input_dtype_enabled for layer in layers]
        self._switch(name)
        try:
            # What adapters read would go to fp32, and be brought back by the autocast that a role runs in: the same
            # bits without. Others (TRL's trainers) run the model without autocast and need it.
            for layer in layers:
                layer.cast_input_dtype_enabled = False
            yield
        finally:
            for layer, cast in zip(layers, casting, strict=True):
                layer.cast_input_dtype_enabled = cast
            self._switch(before)

    def _survey(self) -> None:
        """Note where the adapters are: walking through all modules at every switch takes longer than the switch."""
        self._layers = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        parts = [getattr(layer, name) for layer in self._layers for name in layer.adapter_layer_names]
        self._adapted = [parameter for part in parts for parameter in part.parameters()]

    def _switch(self, name: str | None) -> None:
        for layer in self._layers:  # as they are, whoever has switched them
            if name is not None and layer.active_adapters != [name]:
                layer.set_adapter([name])
            if layer.disable_adapters != (name is None):
                layer.enable_adapters(name is not None)
        self._active = name
        for parameter in self._adapted:  # the base's are frozen for good, in `train`
            parameter.requires_grad_(parameter in self._trained)


def active(shared: SharedBase | None, name: str | None) -> AbstractContextManager[None]:
    """`shared.use(name)`, or nothing where the role has a model of its own."""
    return nullcontext() if shared is None else shared.use(name)

"""The seam between a run and its engine: which classes read the models, and which fast paths are on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from align.config import AdapterConfig, Config, EngineKind
from align.engine.fast import cpu_attention, fused_lora
from align.engine.fast.casting import cast_products
from align.engine.fast.limits import Limits
from align.engine.fast.pages import pages_kept
from align.engine.fast.paths import PATHS, Setting
from align.engine.fast.policy import FastPolicy
from align.engine.fast.value_head import FastValueHead
from align.engine.reference import Policy, ValueHead
from align.models.adapters import SharedBase


@dataclass(frozen=True)
class Engine:
    """Makes a run's roles from loaded models: of the reference's classes, or of those that take fast paths."""

    kind: EngineKind = EngineKind.auto
    attention: str | None = None  # that the user chose for the models; None = the engine chooses
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, config: Config) -> Engine:
        """The engine of a run's configuration."""
        return cls(config.engine, config.model.attn_implementation)

    @property
    def fast(self) -> bool:
        return self.kind is EngineKind.auto

    def policy(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
    ) -> Policy:
        """A policy on a loaded model, whose attention is switched in place."""
        if not self.fast:
            return Policy(model, dtype, shared, adapter)
        cpu_attention.use(model, self.attention)
        return FastPolicy(model, dtype, shared, adapter, limits=self.limits)

    def value_head(
        self,
        body: PreTrainedModel,
        head: nn.Linear,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
    ) -> ValueHead:
        """A value head on a loaded body, whose attention is switched in place."""
        if not self.fast:
            return ValueHead(body, head, dtype, shared, adapter)
        cpu_attention.use(body, self.attention)
        return FastValueHead(body, head, dtype, shared, adapter)

    def shared_base(self, base: PreTrainedModel, config: AdapterConfig, seed: int = 0) -> SharedBase:
        """Adapters for several roles on one base."""
        if not self.fast:
            return SharedBase(base, config, seed)
        return SharedBase(base, config, seed, prepare=lambda settings: fused_lora.use(base, settings))

    def freeze(self, role: nn.Module, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Stop gradients to a role, and round once the weights that autocast would round in every pass."""
        role.requires_grad_(False)
        if self.fast:
            cast_products(model, dtype)

    def memory(self, device: torch.device) -> AbstractContextManager[None]:
        """What a run allocates memory under."""
        return pages_kept(device) if self.fast else nullcontext()

    def report(self, policy: Policy, *, cuda_graphs: bool) -> dict[str, Any]:
        """{"kind", "paths": {name: {"on", "why" it is off, or None}}} of a run with this policy, for run.json."""
        setting = Setting(policy.model, policy.dtype, policy.shared, policy.adapter, self.attention, cuda_graphs)
        reasons = {name: why_not(setting) if self.fast else "engine=reference" for name, why_not in PATHS.items()}
        paths = {name: {"on": reason is None, "why": reason} for name, reason in reasons.items()}
        return {"kind": self.kind.value, "paths": paths}

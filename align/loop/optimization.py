"""One AdamW for all trained roles, clipped role by role, and a guard that applies no non-finite update."""

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from align.config import LRSchedule, OptimizedConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def lr_factor(config: OptimizedConfig, step: int, max_steps: int) -> float:
    """The learning rate's multiplier for the update after `step` of them: linear warm-up, then constant or to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.lr_schedule is LRSchedule.constant:
        return 1.0
    return (max_steps - step) / max(1, max_steps - config.warmup_steps)


class Optimization:
    """The optimizer of a run. A role is a name (policy, critic) with its parameters and base learning rate."""

    overflows: int = 0  # updates in a row that a gradient scaler skipped; the first few are how it finds its scale

    def __init__(
        self,
        roles: Mapping[str, tuple[Mapping[str, nn.Parameter], float]],
        config: OptimizedConfig,
        max_steps: int,
        accelerator: Accelerator,
    ) -> None:
        self._config = config
        self._max_steps = max_steps
        self._accelerator = accelerator
        self._parameters = {role: dict(parameters) for role, (parameters, _) in roles.items()}
        self._rates = {role: rate for role, (_, rate) in roles.items()}
        groups = [{"params": list(p.values()), "lr": self._rates[role]} for role, p in self._parameters.items()]
        beta1, beta2 = config.adam_betas
        self._fused = accelerator.device.type in ("cpu", "cuda")
        adamw = torch.optim.AdamW(
            groups,
            betas=(beta1, beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=self._fused,
        )
        self.optimizer = accelerator.prepare(adamw)

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate by role for the update after `step` of them."""
        factor = lr_factor(self._config, step, self._max_steps)
        return {role: rate * factor for role, rate in self._rates.items()}

    def apply(self, step: int) -> dict[str, float] | None:
        """Clip each role's gradient to max_grad_norm and update.

        Returns:
            Gradient norms before clipping, by role; None where one was not finite and nothing was applied.
        """
        self._accelerator.unscale_gradients(self.optimizer)
        norms = {
            role: float(nn.utils.clip_grad_norm_(list(parameters.values()), self._config.max_grad_norm))
            for role, parameters in self._parameters.items()
        }
        finite = all(math.isfinite(norm) for norm in norms.values())
        scaled = self._accelerator.scaler is not None
        self.overflows = 0 if finite or not scaled else self.overflows + 1
        if finite or scaled:  # a gradient scaler skips an overflow itself, and must see it to lower its scale
            rates = self.rates(step)
            for group, role in zip(self.optimizer.param_groups, self._parameters, strict=True):
                group["lr"] = rates[role]
            self.optimizer.step()
        self.discard()
        return norms if finite else None

    def discard(self) -> None:
        """Forget gradients that must not be applied."""
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments by `role.parameter.moment`, for safetensors."""
        state = self.optimizer.state
        return {
            f"{role}.{name}.{moment}": state[parameter][moment]
            for role, parameters in self._parameters.items()
            for name, parameter in parameters.items()
            if parameter in state
            for moment in MOMENTS
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave. A parameter that had no moments yet gets none."""
        for role, parameters in self._parameters.items():
            for name, parameter in parameters.items():
                if f"{role}.{name}.step" not in tensors:
                    continue
                moments = {m: tensors[f"{role}.{name}.{m}"].clone() for m in MOMENTS}
                self.optimizer.state[parameter] = {
                    m: v.to(parameter.device) if self._fused or m != "step" else v for m, v in moments.items()
                }

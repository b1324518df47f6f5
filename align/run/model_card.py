"""The README of a trained model: how it was made and what the training changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align import __version__
from align.config import Config
from align.files import write_atomic
from align.metrics import headline
from align.models.locate import HEAD

_LOADING = """
A transformer without a language-model head, or an adapter for one, and a scalar head in `head.safetensors`. Another run
takes the folder as `reward.source.path`; in Python, with the score of every prefix of the tokens `ids` (B, S):

```python
from align.models.reward_folder import load_reward_model

body, head = load_reward_model("this folder", dtype=torch.float32, device=torch.device("cpu"), key="path")
scores = head(body(ids).last_hidden_state).squeeze(-1)
```
"""


def write_model_card(
    folder: Path, config: Config, before: Mapping[str, Any], after: Mapping[str, Any], stopped: str | None
) -> None:
    """Write README.md into the model's folder; before and after are evaluation summaries."""
    rows = "\n".join(
        f"| {label} | {_number(old)} | {_number(new)} |" for _, label, old, new, _ in headline(before, after)
    )
    reward = f"{config.reward.source.name}, credit {config.reward.credit.name}"
    ended = f"\nTraining ended early: {stopped}.\n" if stopped else ""
    write_atomic(
        folder / "README.md",
        f"""---
library_name: transformers
tags: [align, {config.method.name}]
---
# {config.model.path} after {config.method.name}

Trained with align {__version__}: method {config.method.name}, reward {reward}, data {config.data.named()}, adapter
{config.adapter.name}, seed {config.seed}. The configuration stands beside this folder in `config.yaml`.
{ended}
| held-out prompts, temperature {config.rollout.temperature:g} | before | after |
| --- | --- | --- |
{rows}
{_LOADING if (folder / HEAD).is_file() else ""}""",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

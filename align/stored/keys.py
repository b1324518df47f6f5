"""What names a stored model: everything that its weights depend on.

Precision and device are left out on purpose, so that a model trained on one machine serves the others; its card says
which precision it was. Tokens stand for the data: they hold texts, template and cuts.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from align.config import Config, ImplicitCredit, RewardModelSource
from align.data.prepared import digest
from align.models.locate import fingerprint
from align.types import Pair

# Raised when what an older version stored must not be reused: it lies under another key then, and is trained again.
REWARD_MODEL_FORMAT = 3
DPO_POLICY_FORMAT = 2
DPO_SETTINGS = ("learning_rate", "epochs", "batch_size", "beta", "seed")


def reward_model_key(
    config: Config, source: RewardModelSource, train: Sequence[Pair], held_out: Sequence[Pair]
) -> dict[str, Any]:
    """Key of a reward model trained on `train` and measured on `held_out`."""
    return {"format": REWARD_MODEL_FORMAT, **_pairs_and_base(config, train, held_out), "settings": source.training()}


def dpo_policy_key(
    config: Config, credit: ImplicitCredit, train: Sequence[Pair], held_out: Sequence[Pair]
) -> dict[str, Any]:
    """Key of the DPO policy of implicit credit."""
    settings = {name: getattr(credit, name) for name in DPO_SETTINGS}
    return {"format": DPO_POLICY_FORMAT, **_pairs_and_base(config, train, held_out), "settings": settings}


def _pairs_and_base(config: Config, train: Sequence[Pair], held_out: Sequence[Pair]) -> dict[str, Any]:
    return {
        "base": fingerprint(config.model.path, config.model.revision),
        "pairs": digest(train),
        "held_out": digest(held_out),
        "adapter": {"name": "none"} if config.adapter.name == "none" else asdict(config.adapter),
        "quantization": config.quantization.name,
    }

"""The name under which a model of transformers takes and returns its cache."""

import inspect

from transformers import PreTrainedModel

NAMES = ("cache", "past_key_values")  # of a model's argument and output: transformers 5.24 renamed it


def cache_name(model: PreTrainedModel) -> str | None:
    """The name of the model's argument for a cache; None where it takes none."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in taken), None)

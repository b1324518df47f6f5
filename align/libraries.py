"""Libraries kept quiet, and their failures reduced to one line. Imports none of them by itself."""

import logging
import os
import sys
import textwrap
import warnings

from align.errors import chain

_QUIET_ENVIRONMENT = {  # read by a library when it is imported
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "BITSANDBYTES_NOWELCOME": "1",
}
_RESTRICTED = "access to it is restricted: accept its terms on the Hub, then set HF_TOKEN"
# By class name, so that this module needs none of the libraries; the most telling first.
_REASONS = {
    "GatedRepoError": _RESTRICTED,
    "RepositoryNotFoundError": "the Hub has no such repository, or it is private",
    "RevisionNotFoundError": "the repository has no such revision",
    "DatasetNotFoundError": "the Hub has no such data set, or it is private: check its name, HF_TOKEN opens your own",
    "HFValidationError": "neither an existing folder nor a Hub id of the form owner/name",
}
_UNREACHED = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectionError")
_PEFTS_ADVICE = (  # on what it sets right itself
    "`is_gradient_checkpointing` is deprecated",
    "fan_in_fan_out is set to",
    "The following (rank|alpha)_pattern keys did not match",
)
_FORBIDDEN = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_EMPTY = "An error occurred while generating the dataset"  # how `datasets` wraps the reader's own message


def quiet() -> None:
    """Turn off progress bars and advice of the model and data libraries; errors still show. Call it before a run."""
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    for name in ("huggingface_hub", "datasets", "transformers", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for line in _PEFTS_ADVICE:
        warnings.filterwarnings("ignore", message=line)


def reason(error: BaseException) -> str:
    """Return why a load failed, in one line: the most telling error of the chain, else the last and the first.

    Of each the first line, at most 160 characters; the first cause only where the last does not quote it.
    """
    names = {base.__name__ for link in chain(error, hidden=True) for base in type(link).__mro__}
    if any("is a gated dataset" in str(link) for link in chain(error)):  # `datasets` cuts the chain at its own error
        return _RESTRICTED
    for name, text in _REASONS.items():
        if name in names:
            return text
    if names & {*_UNREACHED}:
        forbidden = next((f"{name} forbids to look further" for name in _FORBIDDEN if os.environ.get(name)), None)
        return f"not in the cache, and {forbidden or 'the Hub cannot be reached'}"
    said = list(dict.fromkeys(line for link in chain(error) if (line := _said(link))))
    if not said:
        return type(error).__name__
    last, first = said[0], said[-1]
    return last if first in last else f"{last}; first cause: {first}"


def _said(error: BaseException) -> str:
    """Return the first line of an error's message, shortened; empty where it says nothing of its own."""
    lines = str(error).strip().splitlines()
    if not lines or lines[0].startswith(_EMPTY):
        return ""
    return textwrap.shorten(lines[0], 160, placeholder=" …").rstrip(".:")

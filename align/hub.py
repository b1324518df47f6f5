"""Reachability of the Hub, checked once: libraries would retry every file of a cached model for minutes."""

import sys
import time

from huggingface_hub import constants
from huggingface_hub.utils import get_session

TRUST_SECONDS = 60.0  # how long an answer is valid
TIMEOUT_SECONDS = 10.0
_asked: float | None = None
_cut_off = False  # by us, not by the user's HF_HUB_OFFLINE


def cached_where_unreachable() -> None:
    """Set the libraries to their caches where the Hub cannot be reached; call it before the Hub is used.

    Any answer counts as reached, even a refusal. HF_HUB_OFFLINE is left as it is.
    """
    global _asked, _cut_off
    if constants.is_offline_mode() and not _cut_off:
        return
    now = time.monotonic()
    if _asked is not None and now - _asked < TRUST_SECONDS:
        return
    _asked = now
    if _cut_off:  # otherwise the request itself would be refused
        _set_offline(False)
    before, _cut_off = _cut_off, not _answers()
    if _cut_off:
        _set_offline(True)
    if _cut_off and not before:
        print(f"{constants.ENDPOINT} cannot be reached: looking into the cache only", file=sys.stderr, flush=True)


def _answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception:  # of whichever HTTP library huggingface_hub uses
        return False
    return True


def _set_offline(value: bool) -> None:
    constants.HF_HUB_OFFLINE = value
    if "datasets" in sys.modules:
        import datasets

        datasets.config.HF_HUB_OFFLINE = value

"""One line of an error keeps its last and its first cause."""

from __future__ import annotations

import pytest

from align.errors import InputError, RunError, chain, with_cause
from align.libraries import reason


def raised(make: list[Exception], *, implicit: bool = False) -> BaseException:
    """Raise errors, each from the one before, and return the last."""
    found: BaseException | None = None
    for error in make:
        try:
            if implicit and found is not None:
                try:
                    raise found
                except Exception:
                    raise error  # noqa: B904  (its context is what is tested)
            raise error from found
        except Exception as caught:
            found = caught
    assert found is not None
    return found


@pytest.mark.parametrize("implicit", [False, True])
def test_the_last_and_the_first_cause_are_named(implicit):
    error = raised([OSError("disk\nfull"), KeyError("between"), RunError("no checkpoint")], implicit=implicit)
    assert with_cause(error) == "RunError: no checkpoint (first cause: OSError: disk full)"
    assert [type(link) for link in chain(error)] == [RunError, KeyError, OSError]


def test_an_error_raised_from_none_stands_alone():
    error = raised([OSError("handled"), RunError("alone")], implicit=True)
    error.__suppress_context__ = True
    assert with_cause(error) == "RunError: alone"


def test_a_cause_that_is_quoted_is_not_repeated():
    assert with_cause(raised([OSError("disk full"), RunError("no checkpoint (disk full)")])).count("disk") == 1
    assert with_cause(InputError("seed", -1, "0")) == "seed: given -1; allowed: 0"


def test_the_reason_of_a_failed_load_has_both():
    error = raised([ValueError("invalid JSON at byte 7\nmore"), OSError("could not read config.json\nadvice")])
    assert reason(error) == "could not read config.json; first cause: invalid JSON at byte 7"


def test_a_hidden_cause_is_found_where_it_is_asked_for():
    error = raised([OSError("hidden"), RunError("alone")], implicit=True)
    error.__suppress_context__ = True
    assert [type(link) for link in chain(error)] == [RunError]
    assert [type(link) for link in chain(error, hidden=True)] == [RunError, OSError]

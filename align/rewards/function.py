"""Scores from the user's own Python function, `reward.source.path=FILE.py:NAME`.

The function is called with the following arguments, as far as its parameters name them (all with **kwargs), each a list
with one entry for each response:

- `prompts`: the last user message; `responses`: the text, special tokens left out.
- `offsets`: for each token of the response its characters [start, end); a token without text (the end token) has none.
- `rows`: the data row of the prompt, as a dictionary.

The function returns a list (or array) with one entry for each response, of the kind `reward.source.returns`: a number;
a number for each token; or labelled spans, (start, end, score) or (start, end, score, label), in characters of the
response, each paid at the token that holds its last character. The sums of spans by label are logged as parts.

Any other result stops the run with one line that names the sample.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.config import Returns
from align.errors import InputError, RunError
from align.functional.credit import prefix_sums
from align.functional.credit import spans as span_rewards
from align.rewards.base import Source
from align.types import RewardInput, RewardOutput

GIVEN = ("prompts", "responses", "offsets", "rows")
Span = tuple[int, int, float, str]  # start and end character, score, label (empty where there is none)


def load_function(path: str, key: str) -> Callable[..., Any]:
    """Execute the file of FILE.py:NAME and return the function that NAME names.

    Raises InputError where the file cannot be imported or the function has parameters beyond the arguments above.
    """
    file, _, name = path.rpartition(":")
    place = Path(file).resolve()
    module_name = f"align_reward_{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, place)
    if spec is None or spec.loader is None:
        raise InputError(key, path, "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(key, path, f"a file that can be imported ({_brief(error)})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(key, path, f"a function ({name} is {type(function).__name__})")
    for parameter in inspect.signature(function).parameters.values():
        given = parameter.name in GIVEN and parameter.kind is not parameter.POSITIONAL_ONLY
        rest = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not (given or rest) and parameter.default is parameter.empty:
            allowed = f"a function whose parameters are among {', '.join(GIVEN)}"
            raise InputError(key, f"{path} with a parameter {parameter.name}", allowed)
    return function


class FunctionScorer(Source):
    """Scorer by the user's function; RunError where it raises or returns an invalid result names the first sample."""

    def __init__(self, function: Callable[..., Any], returns: Returns, path: str) -> None:
        self._function, self._returns, self._path = function, returns, path
        parameters = inspect.signature(function).parameters
        everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = [name for name in GIVEN if everything or name in parameters]

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        read, rows = _Returned(self._path, batch), range(len(batch.responses))
        found = list(enumerate(read.entries(self._call(batch, rows, read), rows)))
        mask = batch.rollout.response_mask
        match self._returns:
            case Returns.response:
                total = torch.tensor([read.number(x, i) for i, x in found], device=mask.device)
                return RewardOutput(total=total, parts={"function": total})
            case Returns.tokens:
                tokens = torch.zeros(mask.shape)
                for i, x in found:
                    values = read.tokens(x, i)
                    tokens[i, : len(values)] = torch.tensor(values)
                return _dense(tokens.to(mask.device))
            case Returns.spans:
                labelled = [read.spans(x, i) for i, x in found]
                spans = [[(start, end, score) for start, end, score, _ in row] for row in labelled]
                out = _dense(span_rewards(spans, batch.offsets, mask), spans)
                return RewardOutput(**vars(out) | {"parts": _by_label(labelled, mask.device) or out.parts})

    def _call(self, batch: RewardInput, rows: Sequence[int], read: _Returned) -> Any:
        """Call the function on these rows; an error names the first row on which it raises alone."""
        try:
            return self._function(**self._arguments(batch, rows))
        except Exception as error:
            if len(rows) == 1:
                raise RunError(f"{self._path}: raised {_brief(error)} at {read.sample(rows[0])}") from error
            for i in rows:
                self._call(batch, [i], read)
            where = f"samples 0 to {len(rows) - 1} together, and at none alone"
            raise RunError(f"{self._path}: raised {_brief(error)} at {where}") from error

    def _arguments(self, batch: RewardInput, rows: Sequence[int]) -> dict[str, list[Any]]:
        lengths = batch.rollout.lengths.tolist()
        every: dict[str, Callable[[int], Any]] = {
            "prompts": lambda i: batch.prompts[i],
            "responses": lambda i: batch.responses[i],
            "offsets": lambda i: [(start, end) for start, end in batch.offsets[i, : lengths[i]].tolist()],
            "rows": lambda i: dict(batch.rows[i]),
        }
        return {name: [every[name](i) for i in rows] for name in self._takes}


def _dense(tokens: Tensor, spans: Sequence[Sequence[tuple[int, int, float]]] | None = None) -> RewardOutput:
    """Build the output of token scores (B, T): their sum is the score, their sums so far are those of the prefixes."""
    total = tokens.sum(1)
    prefixes = prefix_sums(tokens)
    return RewardOutput(total, {"function": total}, token_scores=tokens, prefix_scores=prefixes, spans=spans)


def _by_label(rows: Sequence[Sequence[Span]], device: torch.device) -> dict[str, Tensor]:
    """Sum the spans of each label: (B,) by label; empty where no span of the batch has a label."""
    labels = sorted({label for row in rows for *_, label in row})
    if not any(labels):
        return {}
    sums = {name: [math.fsum(s for _, _, s, label in row if label == name) for row in rows] for name in labels}
    return {name or "unlabelled": torch.tensor(values, device=device) for name, values in sums.items()}


def _brief(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:120]}" if message else type(error).__name__


class _Returned:
    """Reader of a function's entries for the responses of `batch`; an error is one line, nothing is repaired.

    Arrays and tensors count as lists, and their numbers as numbers.
    """

    def __init__(self, function: str, batch: RewardInput) -> None:
        self._function, self._batch = function, batch

    def sample(self, i: int) -> str:
        return f"sample {i} (prompt {int(self._batch.rollout.prompt_index[i])})"

    def entries(self, value: Any, rows: Sequence[int]) -> list[Any]:
        """Return the value as a list with one entry for each of these rows."""
        value = self._list(value, f"a list with an entry for each of {len(rows)} responses", rows[0])
        if len(value) != len(rows):
            first = rows[min(len(value), len(rows) - 1)]
            raise self._bad(f"{len(value)} entries", f"{len(rows)}, one for each response", first)
        return value

    def number(self, value: Any, i: int, of: str = "") -> float:
        """Return a finite number of response i."""
        value = _plain(value)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._bad(value, f"a finite number{of}", i)
        return float(value)

    def tokens(self, value: Any, i: int) -> list[float]:
        """Return one number for each token of response i."""
        n = int(self._batch.rollout.lengths[i])
        value = self._list(value, f"a list of {n} numbers, one for each token", i)
        if len(value) != n:
            raise self._bad(f"{len(value)} numbers", f"{n}, one for each token", i)
        return [self.number(x, i, f" for token {t}") for t, x in enumerate(value)]

    def spans(self, value: Any, i: int) -> list[Span]:
        """Return the labelled spans of response i."""
        return [self._span(span, i) for span in self._list(value, "a list of spans", i)]

    def _span(self, span: Any, i: int) -> Span:
        if not isinstance(span, (list, tuple)) or len(span) not in (3, 4):
            raise self._bad(span, "(start, end, score) or (start, end, score, label)", i)
        start, end = _plain(span[0]), _plain(span[1])
        size = len(self._batch.responses[i])
        whole = all(isinstance(x, int) and not isinstance(x, bool) for x in (start, end))
        if not whole or not 0 <= start <= end <= size:
            raise self._bad((start, end), f"characters of the response, 0 <= start <= end <= {size}", i)
        label = span[3] if len(span) == 4 else ""
        if not isinstance(label, str):
            raise self._bad(label, "a label that is text", i)
        return start, end, self.number(span[2], i, " for a span"), label

    def _list(self, value: Any, allowed: str, i: int) -> list[Any]:
        value = _plain(value)
        if not isinstance(value, (list, tuple)):
            raise self._bad(value, allowed, i)
        return list(value)

    def _bad(self, given: Any, allowed: str, i: int) -> RunError:
        text = given if isinstance(given, str) and given[:1].isdigit() else repr(given)
        shown = text if len(text) <= 60 else text[:60] + "..."
        return RunError(f"{self._function}: returned {shown} at {self.sample(i)}; allowed: {allowed}")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value

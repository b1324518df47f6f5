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
from align.rewards.returned import Returned, Span
from align.types import RewardInput, RewardOutput

GIVEN = ("prompts", "responses", "offsets", "rows")


def load_function(path: str, key: str) -> Callable[..., Any]:
    """Load the function that FILE.py:NAME names; the file is executed.

    Raises:
        InputError: The file cannot be imported, or the function has parameters beyond the arguments above.
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


class FunctionScorer:
    """Scorer by the user's function."""

    def __init__(self, function: Callable[..., Any], returns: Returns, path: str) -> None:
        self._function = function
        self._returns = returns
        self._path = path
        parameters = inspect.signature(function).parameters
        everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = [name for name in GIVEN if everything or name in parameters]

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        """Score the batch.

        Raises:
            RunError: The function raised, or returned an invalid result; names the first such sample.
        """
        read = Returned(self._path, batch)
        rows = range(len(batch.responses))
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

    def _call(self, batch: RewardInput, rows: Sequence[int], read: Returned) -> Any:
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

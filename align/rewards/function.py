"""Scores from the user's own function, `reward.source.path=FILE.py:NAME`, or from whatever else can be called there.

NAME may be a function, plain, async or decorated, a partial or a lambda, an object or a class with `__call__` (it is
instantiated once), defined there or imported. It is called with keywords, as far as its parameters name them (all with
**kwargs), each a list with one entry for each response:

- `prompts`: the last user message; `responses`: the text, special tokens left out.
- `offsets`: for each token of the response its characters [start, end); a token without text (the end token) has none.
- `rows`: the data row of the prompt, as a dictionary; and every column of the data by its name, None where a row
  lacks it.

With a parameter `completions` or `completion_ids` it is a reward function of TRL's, and gets what TRL's trainers give:

- `prompts` and `completions`: strings where the data's prompt is a string, lists of messages where it is one.
- `completion_ids`: token ids, end token included; and every column of the data but `prompt` and `completion`.

In both dialects these are not lists:

- `trainer_state`: `global_step` and `max_steps` alone. Outside of a training both are `max_steps`, so that a reward
  with a schedule measures before and after alike, as it is at the end.
- `log_extra(column, values)`: a column of completions.jsonl; `log_metric(name, value)`: `reward/logged_NAME`.

It returns a list (or array) with one entry for each response, of the kind `reward.source.returns`: a number;
a number for each token; or labelled spans, (start, end, score) or (start, end, score, label), in characters of the
response, each paid at the token that holds its last character. The sums of spans by label are logged as parts. None in
place of a number, in TRL's dialect: the function does not apply to this response.

One object of a run scores all rollouts of its training, each with one call, in order; evaluations, scales and probes
leave what it remembers alone, and a checkpoint keeps it (align/rewards/function_state.py).

Any other result stops the run with one line that names the sample. So does an exception; to name the sample a plain
function is called again with each response alone. An object, which may remember calls, and an async function, whose
calls may cost something, are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.config import Returns
from align.errors import RunError
from align.functional.credit import prefix_sums
from align.functional.credit import spans as span_rewards
from align.rewards.base import Source
from align.rewards.function_call import Caller, Log, Signature
from align.rewards.function_result import Returned, Span
from align.rewards.function_state import Function, memory_of
from align.types import RewardInput, RewardOutput, TrainerState
from align.user_files import brief


class FunctionScorer(Source):
    """Scorer by the user's function; RunError where it raises or returns an invalid result names the first sample.

    Args:
        path: FILE.py:NAME, which errors name; its one part is logged as NAME.
        key: The configuration key of `path`.
        max_steps: Updates of the run's training.
    """

    def __init__(
        self,
        function: Function,
        returns: Returns,
        path: str,
        key: str = "reward.source.path",
        max_steps: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._returns, self._path, self._name = returns, path, path.rpartition(":")[2]
        self._signature, self._caller = Signature(function), Caller()
        self._memory = memory_of(function, path, key, say)
        self._end = TrainerState(max_steps, max_steps)

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        lent = self._memory.apart() if batch.training is None else self._memory.trained()
        with lent as function:
            return self._scored(function, batch)

    def state(self) -> dict[str, Any]:
        return self._memory.state()

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self._memory.load_state(saved)

    def _scored(self, function: Function, batch: RewardInput) -> RewardOutput:
        read, rows, log = Returned(self._path, batch), range(len(batch.responses)), Log(len(batch.responses))
        entries = read.entries(self._call(function, batch, rows, read, log), rows)
        return replace(self._output(read, entries, batch), extra=log.extra, logged=log.metrics)

    def _output(self, read: Returned, entries: Sequence[Any], batch: RewardInput) -> RewardOutput:
        found, mask = list(enumerate(entries)), batch.rollout.response_mask
        match self._returns:
            case Returns.response:
                optional = self._signature.trl
                total = torch.tensor([read.number(x, i, optional=optional) for i, x in found], device=mask.device)
                return RewardOutput(total, {self._name: total}, applies=_applies(total))
            case Returns.tokens:
                tokens = torch.zeros(mask.shape)
                for i, x in found:
                    values = read.tokens(x, i)
                    tokens[i, : len(values)] = torch.tensor(values)
                return self._dense(tokens.to(mask.device))
            case Returns.spans:
                labelled = [read.spans(x, i) for i, x in found]
                spans = [[(start, end, score) for start, end, score, _ in row] for row in labelled]
                out = replace(self._dense(span_rewards(spans, batch.offsets, mask)), spans=spans)
                return replace(out, parts=_by_label(labelled, mask.device) or out.parts)

    def _dense(self, tokens: Tensor) -> RewardOutput:
        """Build the output of token scores (B, T): their sum is the score, sums so far are those of the prefixes."""
        total = tokens.sum(1)
        return RewardOutput(total, {self._name: total}, token_scores=tokens, prefix_scores=prefix_sums(tokens))

    def _call(self, function: Function, batch: RewardInput, rows: Sequence[int], read: Returned, log: Log) -> Any:
        """Call the function on these rows; an error names the row on which it raises, where calls may be repeated."""
        state = batch.training or self._end
        try:
            return self._caller(function, self._signature.arguments(batch, rows, log, state))
        except (Exception, SystemExit) as error:
            said = f"{self._path}: raised {brief(error)}"
            if len(rows) == 1:
                raise RunError(f"{said}, at {read.sample(rows[0])}") from error
            where = f"samples 0 to {len(rows) - 1} together"
            if self._memory.empty and not self._caller.waits:
                for i in rows:
                    self._call(function, batch, [i], read, Log(1))
                where += ", and at none alone"
            raise RunError(f"{said}, at {where}") from error


def _applies(total: Tensor) -> Tensor | None:
    """Mark the responses with a score: (B,) bool; None where all have one."""
    return ~total.isnan() if bool(total.isnan().any()) else None


def _by_label(rows: Sequence[Sequence[Span]], device: torch.device) -> dict[str, Tensor]:
    """Sum the spans of each label: (B,) by label; empty where no span of the batch has a label."""
    labels = sorted({label for row in rows for *_, label in row})
    if not any(labels):
        return {}
    sums = {name: [math.fsum(s for _, _, s, label in row if label == name) for row in rows] for name in labels}
    return {name or "unlabelled": torch.tensor(values, device=device) for name, values in sums.items()}

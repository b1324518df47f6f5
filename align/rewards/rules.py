"""Scores by rules about the text: a weighted sum with every rule as a part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from align.config import RulesSource
from align.config.rules import (
    ExactRule,
    ForbiddenRule,
    Format,
    FormatRule,
    LengthWindowRule,
    NumericRule,
    RegexRule,
    RepetitionRule,
    RuleConfig,
    WordLimitRule,
)
from align.errors import InputError
from align.numbers import cell_number
from align.rewards import text_rules
from align.rewards.base import Source
from align.types import Prompt, RewardInput, RewardOutput

Row = Mapping[str, Any]
_FORMATS: dict[Format, Callable[[str], float]] = {
    Format.gsm8k: text_rules.gsm8k,
    Format.boxed: text_rules.boxed,
    Format.think: text_rules.think,
    Format.json: text_rules.is_json,
}


class RulesScorer(Source):
    """Scorer by a weighted sum of rules."""

    def __init__(self, config: RulesSource) -> None:
        self._rules = config.rules()

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        device = batch.rollout.response_mask.device
        pairs = list(zip(batch.responses, batch.rows, strict=True))
        raw = {
            name: torch.tensor([rule_score(rule, text, row) for text, row in pairs], device=device)
            for name, rule in self._rules.items()
        }
        parts = {name: self._rules[name].share * scores for name, scores in raw.items()}
        total = torch.stack(list(parts.values())).sum(0)
        return RewardOutput(total=total, parts=parts, raw_parts=raw)


def rule_score(rule: RuleConfig, text: str, row: Row) -> float:
    """Compute how far a response to the prompt of a data row keeps a rule, from 0 to 1."""
    match rule:
        case WordLimitRule():
            own = cell_number(row.get(rule.column))  # before the configured one
            return text_rules.word_limit(text, rule.limit if own is None else int(own))
        case LengthWindowRule():
            return text_rules.length_window(text, rule.low, rule.high, rule.margin)
        case RegexRule():
            return text_rules.regex(text, rule.pattern, rule.full)
        case FormatRule():
            return _FORMATS[rule.kind](text)
        case RepetitionRule():
            return text_rules.repetition(text, rule.size)
        case ForbiddenRule():
            return text_rules.forbidden(text, rule.phrases)
        case ExactRule():
            return text_rules.exact(text, row[rule.column])
        case NumericRule():
            return text_rules.numeric(text, row[rule.column], rule.marker, rule.tolerance)
    raise TypeError(f"no rule for {type(rule).__name__}")


def check_rows(config: RulesSource, prompts: Sequence[Prompt], key: str) -> None:
    """Raise InputError where a row lacks what a rule reads: a column, a limit above 0, a number."""
    for name, rule in config.rules().items():
        for field, column in rule.columns().items():
            lacking = next((p for p in prompts if column not in p.row), None)
            if lacking is not None:
                raise InputError(f"{key}.{name}.{field}", column, f"a column of the data: {', '.join(lacking.row)}")
        for prompt in prompts:
            _check_row(rule, prompt, f"{key}.{name}")


def _check_row(rule: RuleConfig, prompt: Prompt, key: str) -> None:
    where = f"prompt {prompt.id} ({prompt.text[:40]!r})"
    if isinstance(rule, NumericRule):
        answer = prompt.row[rule.column]
        if text_rules.reference_number(answer, rule.marker) is None:
            raise InputError(f"{key}.column", rule.column, f"a column of numbers: {where} has {str(answer)[:40]!r}")
    if isinstance(rule, ExactRule) and not str(prompt.row[rule.column] or "").strip():
        raise InputError(f"{key}.column", rule.column, f"a column of answers: {where} has none")
    if isinstance(rule, WordLimitRule):
        cell = prompt.row.get(rule.column)
        try:
            own = cell_number(cell)
        except ValueError:
            own = 0
        if own is not None and own < 1:
            raise InputError(f"{key}.column", rule.column, f"a column of numbers of words: {where} has {cell!r}")

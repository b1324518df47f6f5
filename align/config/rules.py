"""Define the options of the rules of `reward/source=rules`; rewards/text_rules.py computes them. Imports no torch."""

import re
from dataclasses import dataclass, field
from enum import Enum

from align.config.base import Section
from align.config.checks import finite, not_negative, positive
from align.errors import InputError


class Format(Enum):
    """Named shapes of an answer; any other shape is a RegexRule."""

    gsm8k = "gsm8k"  # ends in the only line `#### NUMBER`
    boxed = "boxed"  # one \\boxed{...}
    think = "think"  # <think>...</think>, then an answer
    json = "json"  # parses as JSON


@dataclass
class RuleConfig(Section):
    """Base of the rules. Each gives a number from 0 (broken) to 1 (kept)."""

    weight: float | None = None  # in the sum; 0 = the rule does not count; null = 1 where `given`, else 0

    @property
    def given(self) -> bool:
        """Whether the rule's own limit is set; a rule without one counts by its weight alone."""
        return False

    @property
    def share(self) -> float:
        """Weight in the sum."""
        return float(self.given) if self.weight is None else self.weight

    def columns(self) -> dict[str, str]:
        """Columns of the data that the rule needs, by the field that names them."""
        return {}

    def check(self, key: str) -> None:
        """Raise InputError on values that cannot run."""
        finite(f"{key}.weight", self.share)


@dataclass
class WordLimitRule(RuleConfig):
    """1 up to the limit, falling to 0 at twice the limit; 1 for a row without limit."""

    limit: int | None = None  # words; null = the row's own alone, where the rule has a weight
    column: str = "word_limit"  # where a row has a limit of its own, which takes precedence

    @property
    def given(self) -> bool:
        return self.limit is not None

    def columns(self) -> dict[str, str]:
        return {"column": self.column} if self.limit is None else {}

    def check(self, key: str) -> None:
        super().check(key)
        positive(self, key, "limit")


@dataclass
class LengthWindowRule(RuleConfig):
    """1 from low to high words, falling to 0 over `margin` words outside."""

    low: int = 1
    high: int = 100
    margin: int = 10  # words; 0 = at once

    def check(self, key: str) -> None:
        super().check(key)
        not_negative(self, key, "low", "margin")
        if self.high < max(1, self.low):
            raise InputError(f"{key}.high", self.high, f"at least 1 and {key}.low={self.low}")


@dataclass
class RegexRule(RuleConfig):
    """1 where the pattern is found, else 0."""

    pattern: str = ""  # Python's; flags inside: (?is)...
    full: bool = False  # true = the pattern must match the whole response

    @property
    def given(self) -> bool:
        return bool(self.pattern)

    def check(self, key: str) -> None:
        super().check(key)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"{key}.pattern", self.pattern, f"a regular expression ({error})") from error
        if not self.pattern:
            raise InputError(f"{key}.pattern", self.pattern, "a regular expression")


@dataclass
class FormatRule(RuleConfig):
    """1 where the response has the shape, else 0."""

    kind: Format = Format.gsm8k


@dataclass
class RepetitionRule(RuleConfig):
    """Share of the n-grams of words that are not repeats of an earlier one; 1 where there is none."""

    size: int = 3  # n, in words

    def check(self, key: str) -> None:
        super().check(key)
        positive(self, key, "size")


@dataclass
class ForbiddenRule(RuleConfig):
    """1 where none of the phrases occurs as whole words, whatever the case, else 0."""

    phrases: list[str] = field(default_factory=list)

    @property
    def given(self) -> bool:
        return bool(self.phrases)

    def check(self, key: str) -> None:
        super().check(key)
        if not self.phrases or not all(phrase.strip() for phrase in self.phrases):
            raise InputError(f"{key}.phrases", list(self.phrases), "phrases, none of them empty")


@dataclass
class ExactRule(RuleConfig):
    """1 where the response is the row's answer, but for case, blanks and a full stop at the end, else 0."""

    column: str = "answer"

    def columns(self) -> dict[str, str]:
        return {"column": self.column}


@dataclass
class NumericRule(RuleConfig):
    """1 where the number in the response is that in the row's answer, else 0."""

    column: str = "answer"  # a number, or text whose number counts (behind the marker, where there is one)
    marker: str | None = "####"  # before the answer, as in GSM8K; null = the last number counts
    tolerance: float = 0.0  # largest difference that still counts as equal

    def columns(self) -> dict[str, str]:
        return {"column": self.column}

    def check(self, key: str) -> None:
        super().check(key)
        not_negative(self, key, "tolerance")

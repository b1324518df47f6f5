"""Rules of `reward/source=rules`: pure functions of the text, from 0 (broken) to 1 (kept).

Words are separated by white space. An empty response keeps every limit; `length_window` sets a minimum.
"""

import json
import re
from collections.abc import Sequence
from decimal import Decimal

_SIGN = r"[-−+]"
_CURRENCY = r"[$€£¥₹]"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)]){_SIGN})?\s?{_CURRENCY}?\s?(?P<inner>(?<![\w)]){_SIGN})?"
    r"(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)"
)
_BOXED = re.compile(r"\\boxed\{\s*[^\s{}](?:[^{}]|\{[^{}]*\})*\}")
_ANSWER_LINE = re.compile(rf"####\s*{_SIGN}?\s?{_CURRENCY}?\s?{_SIGN}?(?:\d[\d,]*(?:\.\d+)?|\.\d+)\s*%?\.?")


def word_limit(text: str, limit: int | None) -> float:
    """Return 1 up to `limit` words, falling linearly to 0 at twice the limit; 1 without a limit."""
    if limit is None:
        return 1.0
    return min(1.0, max(0.0, 2.0 - len(text.split()) / limit))


def length_window(text: str, low: int, high: int, margin: int) -> float:
    """Return 1 from `low` to `high` words, falling linearly to 0 where `margin` + 1 words are missing or too many."""
    n = len(text.split())
    return max(0.0, 1.0 - max(low - n, n - high, 0) / (margin + 1))


def regex(text: str, pattern: str, full: bool) -> float:
    """Return 1 where `pattern` is found anywhere, or with `full` matches the whole text, else 0."""
    found = re.fullmatch(pattern, text) if full else re.search(pattern, text)
    return float(found is not None)


def gsm8k(text: str) -> float:
    """Return 1 where the last line is `#### NUMBER` and no other line has the marker, else 0."""
    last = text.rstrip().rpartition("\n")[2].strip()
    return float(text.count("####") == 1 and _ANSWER_LINE.fullmatch(last) is not None)


def boxed(text: str) -> float:
    r"""Return 1 where the text holds exactly one `\boxed{...}`, closed and not empty, else 0."""
    return float(text.count(r"\boxed{") == 1 and _BOXED.search(text) is not None)


def think(text: str) -> float:
    """Return 1 for `<think>...</think>` at the start, once each, and an answer behind it, else 0."""
    once = text.count("<think>") == text.count("</think>") == 1
    return float(once and re.fullmatch(r"(?s)\s*<think>.*</think>\s*\S.*", text) is not None)


def is_json(text: str) -> float:
    """Return 1 where the text is a JSON object or list, else 0."""
    try:
        return float(isinstance(json.loads(text), (dict, list)))
    except (ValueError, RecursionError):
        return 0.0


def repetition(text: str, n: int) -> float:
    """Compute distinct n-grams of words / all n-grams, in (0, 1]; 1 where the text has fewer than n words."""
    words = text.casefold().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def forbidden(text: str, phrases: Sequence[str]) -> float:
    """Return 0 where one of `phrases` occurs as whole words, in any case and with any blanks, else 1."""
    folded = " ".join(text.casefold().split())
    spelt = (re.escape(" ".join(phrase.casefold().split())) for phrase in phrases)
    return float(not any(re.search(rf"(?<!\w){phrase}(?!\w)", folded) for phrase in spelt))


def exact(text: str, answer: object) -> float:
    """Return 1 where both are equal but for case, blanks and full stops at the end, else 0."""
    return float(_plain(text) == _plain(str(answer)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".").rstrip()


def numeric(text: str, answer: object, marker: str | None, tolerance: float = 0.0) -> float:
    """Return 1 where the answer's number is in its place in the text, else 0 (GSM8K, arXiv 2110.14168: `#### 18`).

    The place is behind the last `marker`: 0 for a text without it. Without a marker the last number of the text counts.
    """
    given, wanted = number_of(text, marker), reference_number(answer, marker)
    if given is None or wanted is None:
        return 0.0
    return float(abs(given - wanted) <= Decimal(str(tolerance)))


def number_of(text: str, marker: str | None) -> Decimal | None:
    """Return the first number behind the last `marker`, on its line; without a marker the last number of the text."""
    if marker is None:
        found = [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]
        return found[-1] if found else None
    _, there, behind = text.rpartition(marker)
    match = _NUMBER.search(behind.strip().partition("\n")[0]) if there else None
    return None if match is None else _value(match)


def reference_number(answer: object, marker: str | None) -> Decimal | None:
    """Return the number of a data row's answer: a number, a text with `marker`, or a text's last number."""
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return Decimal(str(answer))
    text = str(answer)
    return number_of(text, marker if marker is not None and marker in text else None)


def _value(match: re.Match[str]) -> Decimal | None:
    """Convert a match, `-$1,234.50` -> -1234.50; None where the commas are not those of thousands."""
    whole, dot, rest = match["digits"].rstrip(",").partition(".")
    if "," in whole:
        if not re.fullmatch(r"\d{1,3}(?:,\d{3})+", whole):
            return None
        whole = whole.replace(",", "")
    value = Decimal(f"{whole or 0}{dot}{rest}")
    signs = [sign for sign in (match["sign"], match["inner"]) if sign is not None]
    return -value if len(signs) == 1 and signs[0] != "+" else value

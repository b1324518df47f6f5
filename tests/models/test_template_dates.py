"""A template that writes the date writes the same one in all of a run, as it would have on that day."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import trl

from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer, with_pad
from align.models.templates import pinned
from tests import tiny

MESSAGES = [{"role": "user", "content": "ab"}]
DAY = date(2024, 2, 9)  # one digit each, so that padding shows
DATED = [
    file
    for file in sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))
    if "strftime_now" in file.read_text()
]
CODES = ("%d %b %Y", "%Y-%m-%d", "%B %-d, %Y", "%A|%a", "%j %U %w %y", "%F", "%x", "100%% on %d", "%H:%M")


def tokenizer(template: str):
    made = tiny.tokenizer()
    made.chat_template = template
    return made


def written(template: str, today: date) -> str:
    chat = make_chat_tokenizer(tokenizer(template), today=today)
    return chat._template.render(MESSAGES, generation_prompt=True)


@pytest.mark.parametrize("file", DATED, ids=lambda file: file.stem)
def test_a_released_template_writes_what_it_writes_on_that_day(file):
    template = file.read_text()
    plain = tokenizer(template).apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert written(template, date.today()) == plain
    assert written(template, DAY) != plain


@pytest.mark.parametrize("format", CODES)
def test_every_format_is_written_as_python_writes_it(format):
    template = "\n  {% if true %}{{ strftime_now('" + format + "') }}\n{% endif %}{{ messages[-1]['content'] }}e"
    assert written(template, DAY) == f"\n{DAY.strftime(format)}\nabe"


def test_a_template_without_a_date_is_left_alone_and_says_none():
    template = "  {{ messages[-1]['content'] }}e"
    assert pinned(template, DAY) == template
    chat = make_chat_tokenizer(tokenizer(template), today=DAY)
    assert chat.written_date is None and not any("date" in note for note in chat.notes())


def test_the_date_is_noted_and_other_renderings_have_it_too():
    chat = make_chat_tokenizer(tokenizer("{{ strftime_now('%Y') }}{{ messages[-1]['content'] }}e"), today=DAY)
    assert chat.written_date == DAY
    assert any("2024-02-09" in note and "model.template_date" in note for note in chat.notes())
    copied = with_pad(chat).apply_chat_template(MESSAGES, tokenize=False)
    assert copied == "2024abe"
    assert "macro" not in chat.tokenizer.chat_template  # what is saved is the model's own


def test_an_error_names_the_line_of_the_user_s_template():
    with pytest.raises(InputError, match="line 2"):
        make_chat_tokenizer(tokenizer("{{ strftime_now('%Y') }}\n{% if %}"), today=DAY)

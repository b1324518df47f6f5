import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import InputError
from align.evaluation.perturbations import perturbations_of
from align.evaluation.prompts_file import ProbePrompt, format_prompts, load_prompts, made_perturbations, parse_prompts

CONTENT = """\
# A comment.
What is the capital of France?
  length: What is the capital of France? Write as much as you can.
\tshouting: WHAT IS THE CAPITAL OF FRANCE?

\\# of legs of a dog:\\n4 or 5?
"""


def test_what_a_person_writes():
    first, second = parse_prompts(CONTENT, "prompts.txt", seed=3)
    assert first.text == "What is the capital of France?"
    assert dict(first.perturbations) == {
        "length": "What is the capital of France? Write as much as you can.",
        "shouting": "WHAT IS THE CAPITAL OF FRANCE?",
    }
    assert second.text == "# of legs of a dog:\n4 or 5?"
    assert second.perturbations == perturbations_of(second.text, 3)  # none given: made


@pytest.mark.parametrize(
    ("content", "line", "allowed"),
    [
        ("  length: a b\n", "line 1", "a prompt first"),
        ("a\n  just text\n", "line 2", "`kind: text`"),
        ("a\n  Length: b\n", "line 2", "lower case"),
        ("a\n  x: b\n\n  x: c\n", "line 4", "each kind once"),
        ("a\n  x: a\n", "line 2", "differs from its prompt"),
        ("a\n  x:\n", "line 2", "differs from its prompt"),
        ("a\nb\na\n", "line 3", "does not stand above"),
        ("a\\tb\n", "line 1", "for a line break"),
        ("a\\", "line 1", "for a line break"),
        ("# nothing\n\n", "evaluation.prompts_file", "at least one prompt"),
    ],
)
def test_errors_name_the_line(content, line, allowed):
    with pytest.raises(InputError) as error:
        parse_prompts(content, "mine.txt")
    assert line in error.value.key and allowed in error.value.allowed
    assert "\n" not in str(error.value)


def test_files(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfSay hello there.\r\n  length: Say hello there, at length.\r\n")
    assert load_prompts(str(path)) == [ProbePrompt("Say hello there.", {"length": "Say hello there, at length."})]
    path.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="byte 2 is not"):
        load_prompts(str(path))
    with pytest.raises(InputError, match=r"prompts_file: given .*; allowed: a text file"):
        load_prompts(str(tmp_path))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab :#\\n\n\t\r\u2028é"), min_size=1), min_size=1, unique_by=str.strip))
def test_what_is_written_is_read_back(texts):
    kept = [text.strip() for text in texts if text.strip()]
    if not kept:
        return
    prompts = [ProbePrompt(text, {"longer": f"{text} x"}) for text in kept]
    assert parse_prompts(format_prompts(prompts), "f") == prompts
    assert parse_prompts("".join(format_prompts([ProbePrompt(t, {}) for t in kept])), "f", 5) == made_perturbations(
        kept, 5
    )

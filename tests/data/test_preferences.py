"""Preference rows to pairs: nothing lost silently, nothing on both sides of the split."""

from __future__ import annotations

import copy
import json
import random

import pytest

from align.config import BadRows, DataConfig, PromptOverflow
from align.data.examples import prompts_of
from align.data.preferences import load_preferences
from align.data.prepared import COUNTS, Preferences, digest
from align.errors import InputError
from align.models.chat_tokenizer import make_chat_tokenizer
from tests import tiny


def row(prompt, chosen="good", rejected="bad", **more) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def load(chat, path: str, **settings) -> Preferences:
    return load_preferences(
        DataConfig(
            path=path, **({"held_out_fraction": 0.0, "max_prompt_tokens": 512, "max_response_tokens": 512} | settings)
        ),
        chat,
    )


def balanced(counts: dict[str, int]) -> bool:
    """Every row is a pair or was dropped for one reason."""
    return counts["rows"] == sum(v for k, v in counts.items() if k.endswith("_dropped") or k in ("train", "held_out"))


def test_a_pair(chat, write):
    data = load(chat, write("a.jsonl", [row("What?", "Yes é.", "No.", limit=3)]))
    (pair,) = data.train
    assert pair.prompt.messages == (user("What?"),)
    assert (pair.prompt.text, pair.prompt.row["limit"]) == ("What?", 3)
    assert list(pair.prompt.input_ids) == chat.encode_prompt([user("What?")])
    assert (pair.chosen, pair.rejected) == ("Yes é.", "No.")
    assert list(pair.chosen_ids) == chat.encode_reply(tiny.ASKED, "Yes é.")
    assert list(pair.rejected_ids) == chat.encode_reply(tiny.ASKED, "No.")
    assert tuple(data.counts) == COUNTS
    assert balanced(data.counts)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_formats_agree(chat, write, name):
    rows = [row("p1", "None", "12"), row("p2", 'x,\n"y"', "z")]
    pairs = load(chat, write(name, rows)).train
    assert [(p.prompt.text, p.chosen, p.rejected) for p in pairs] == [tuple(r.values()) for r in rows]


def test_column_names(chat, write):
    path = write("a.jsonl", [{"question": "q", "best": "b", "worst": "w"}])
    columns = {"prompt_column": "question", "chosen_column": "best", "rejected_column": "worst"}
    (pair,) = load(chat, path, **columns).train
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("q", "b", "w")


SYSTEM = {"role": "system", "content": "Be brief."}
HISTORY = [SYSTEM, user("one"), assistant("two"), user("three")]


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (row([user("p")]), [user("p")]),
        (row(HISTORY), HISTORY),
        (row("p", [assistant("good")], [assistant("bad")]), [user("p")]),
        (row("p", assistant("good"), assistant("bad")), [user("p")]),
        (row("p", [user("p"), assistant("good")], [user("p"), assistant("bad")]), [user("p")]),
        (row("three", [*HISTORY, assistant("good")], [*HISTORY, assistant("bad")]), HISTORY),
        (row(HISTORY, [*HISTORY, assistant("good")], [*HISTORY, assistant("bad")]), HISTORY),
        (row([SYSTEM, user("p")], [user("p"), assistant("good")], [user("p"), assistant("bad")]), [SYSTEM, user("p")]),
        ({"chosen": [*HISTORY, assistant("good")], "rejected": [*HISTORY, assistant("bad")]}, HISTORY),
        (
            {"chosen": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: good",
             "rejected": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: bad"},
            HISTORY[1:],
        ),
    ],
)  # fmt: skip
def test_ways_to_write_a_row(chat, write, given, messages):
    for name in ("a.jsonl", "a.parquet"):
        (pair,) = load(chat, write(name, [given])).train
        assert list(pair.prompt.messages) == messages
        assert (pair.chosen, pair.rejected) == ("good", "bad")
        assert pair.prompt.text == messages[-1]["content"]


def test_conversations_that_part_early_are_dropped(chat, write):
    other = [user("other"), assistant("bad")]
    rows = [{"chosen": [user("p"), assistant(c)], "rejected": r} for c, r in (("good", other), ("x", other))]
    rows.append({"chosen": [user("p"), assistant("good")], "rejected": [user("p"), assistant("bad")]})
    data = load(chat, write("a.jsonl", rows))
    assert data.counts["diverging_dropped"] == 2
    assert data.counts["train"] == 1
    assert balanced(data.counts)


def test_identical_and_empty_pairs_are_counted(chat, write):
    rows = [row("a", "x", "x"), row("b", "", "x"), row("c", "x", " \n"), row("d", "x", "y"), row("e", "x", "x")]
    data = load(chat, write("a.jsonl", rows))
    assert [p.prompt.text for p in data.train] == ["d"]
    assert (data.counts["identical_dropped"], data.counts["empty_dropped"]) == (2, 2)
    assert balanced(data.counts)


def test_long_prompts(chat, write):
    path = write("a.jsonl", [row("x" * 100), row("x" * 100, "other"), row("short")])
    frame = len(chat.encode_prompt([user("")]))
    data = load(chat, path, max_prompt_tokens=frame + 99)
    assert [p.prompt.text for p in data.train] == ["short"]
    assert data.counts["long_prompts_dropped"] == 2
    assert load(chat, path, max_prompt_tokens=frame + 100).counts["train"] == 3

    data = load(chat, path, max_prompt_tokens=40, long_prompts=PromptOverflow.truncate)
    assert data.counts["long_prompts_truncated"] == 1  # one prompt of two pairs
    assert data.train[0].prompt.input_ids == tuple(chat.encode_prompt([user("x" * 100)])[-40:])
    assert data.train[0].prompt.text == "x" * 100

    with pytest.raises(InputError, match=r"row 1: given 'a prompt of \d+ tokens'; allowed: at most data\.max_prompt"):
        load(chat, path, max_prompt_tokens=40, long_prompts=PromptOverflow.error)


def test_long_responses_lose_their_end(chat, write):
    path = write("a.jsonl", [row("p", "0123456789", "012345678")])
    (pair,) = load(chat, path, max_response_tokens=10).train
    assert (pair.chosen, pair.rejected) == ("0123456789", "012345678")
    assert pair.chosen_ids == tuple(chat.encode_reply(tiny.ASKED, "0123456789")[:10])  # ten digits, no end token
    assert chat.end_id not in pair.chosen_ids
    assert pair.rejected_ids[-1] == chat.end_id
    data = load(chat, path, max_response_tokens=11)
    assert data.counts["responses_cut"] == 0
    data = load(
        chat,
        write("b.jsonl", [row("p", "0123456789"), row("p", "01234567890", "0123456789x")]),
        max_response_tokens=10,
    )
    assert (data.counts["responses_cut"], data.counts["identical_dropped"]) == (1, 1)
    assert data.train[0].chosen == "0123456789"


def many(prompts: int, pairs_each: int = 2) -> list[dict]:
    return [row(f"prompt {i}", f"good {j}", f"bad {j}") for j in range(pairs_each) for i in range(prompts)]


def sides(data: Preferences) -> tuple[set[str], set[str]]:
    return {p.prompt.text for p in data.train}, {p.prompt.text for p in data.held_out}


def test_held_out_share_is_cut_by_prompt(chat, write):
    data = load(chat, write("a.jsonl", many(40)), held_out_fraction=0.25)
    train, held_out = sides(data)
    assert (len(train), len(held_out), len(data.held_out)) == (30, 10, 20)
    assert not train & held_out
    assert (data.counts["train_prompts"], data.counts["held_out_prompts"]) == (30, 10)
    assert balanced(data.counts)


def test_held_out_prompts_depend_on_their_content_alone(chat, write):
    rows = many(40)
    before = sides(load(chat, write("a.jsonl", rows), held_out_fraction=0.25))
    random.Random(0).shuffle(rows)
    assert sides(load(chat, write("b.jsonl", rows), held_out_fraction=0.25)) == before
    assert sides(load(chat, write("c.jsonl", many(40, 1)), held_out_fraction=0.25)) == before
    assert before[1] != {f"prompt {i}" for i in range(10)}


def test_held_out_share_of_little_data(chat, write):
    assert load(chat, write("a.jsonl", many(2)), held_out_fraction=0.01).counts["held_out_prompts"] == 1
    assert load(chat, write("a.jsonl", many(2)), held_out_fraction=0.99).counts["train_prompts"] == 1
    assert load(chat, write("a.jsonl", many(2)), held_out_fraction=0.0).counts["held_out"] == 0
    with pytest.raises(InputError, match=r"^data\.path.*single prompt"):
        load(chat, write("b.jsonl", many(1)), held_out_fraction=0.1)


def test_a_single_prompt_that_drops_left_says_so(chat, write):
    with pytest.raises(
        InputError, match=r"^data\.path: given 'rows on a single prompt \(rows 3, long_prompts_dropped 2\)'"
    ):
        load(chat, write("a.jsonl", [row("p"), row("x" * 600), row("y" * 600)]), held_out_fraction=0.1)


def test_held_out_file_loses_prompts_that_are_trained_on(chat, write):
    train = write("a.jsonl", many(4))
    held = write("b.jsonl", [row("prompt 1"), row("new"), row("prompt 3"), row("new", "other")])
    data = load(chat, train, held_out_path=held)
    assert sides(data)[1] == {"new"}
    assert (data.counts["overlapping_dropped"], data.counts["held_out"], data.counts["rows"]) == (2, 2, 12)
    assert balanced(data.counts)


def test_held_out_split(chat, write):
    path = write("a.jsonl", many(10, 1))
    data = load(chat, path, train_split="train[:8]", held_out_split="train[7:]")
    assert sides(data) == ({f"prompt {i}" for i in range(8)}, {"prompt 8", "prompt 9"})
    assert data.counts["overlapping_dropped"] == 1


def test_a_prompt_has_one_id_and_limits_do_not_move_it(chat, write):
    rows = [row("long " * 30), row("a", "x", "x"), row("b"), row("a"), row("b", "other")]
    held = write("h.jsonl", [row("c")])
    data = load(chat, write("a.jsonl", rows), held_out_path=held, max_prompt_tokens=80)
    assert [(p.prompt.text, p.prompt.id) for p in data.train] == [("b", 2), ("a", 1), ("b", 2)]
    assert [p.prompt.id for p in data.held_out] == [3]
    assert data.train[0].prompt == data.train[2].prompt
    assert [p.text for p in prompts_of(data.train)] == ["b", "a"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "p", "chosen": "c"}], r"^data\.rejected_column: given 'rejected'; allowed: .*prompt, chosen"),
        ([{"prompt": "p", "rejected": "c"}], r"^data\.chosen_column: given 'chosen'"),
        ([{"chosen": "c", "rejected": "r"}], r"^data\.prompt_column: given 'prompt'; allowed: .*chosen, rejected"),
        ([row("p"), row("p", None)], r"row 2, column chosen: given None"),
        ([row("p"), row("q"), {"prompt": "p", "chosen": "c"}], r"row 3, column rejected: given None"),
        ([row("p"), row("p", 3)], r"row 2, column chosen: given 3; allowed: text or"),
        ([row("p"), row(["x"])], r"row 2, column prompt"),
        ([row("p", [])], r"row 1, column chosen"),
        ([row("p", [{"role": "assistant"}])], r"row 1, column chosen"),
        ([row("p", [{"role": "assistant", "content": None}])], r"row 1, column chosen"),
        ([row("p", [user("p")], "r")], r"row 1, column chosen: .*by user.*assistant ends"),
        ([row(""), row("p")], r"row 1, column prompt: .*not empty"),
        ([row([user("p"), assistant("a")])], r"row 1, column prompt: .*user's message"),
        ([row("x" * 500, [user("y"), assistant("c")], [user("y"), assistant("r")])], r"row 1, column prompt: .*'y'"),
        ([{"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "r"}], r"^data\.prompt_column"),
        ([row("p", "x", "x"), row("q", "", "x")], r"^data\.path.*rows 2, identical_dropped 1, empty_dropped 1"),
    ],
)
def test_bad_rows(chat, write, rows, told):
    with pytest.raises(InputError, match=told) as caught:
        load(chat, write("a.jsonl", rows))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_nothing_left_to_hold_out(chat, write):
    path = write("a.jsonl", many(2))
    with pytest.raises(InputError, match=r"^data\.held_out_path.*overlapping_dropped 4"):
        load(chat, path, held_out_path=path)


def test_prompts_that_the_template_refuses(chat, write, monkeypatch):
    template = (
        "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + chat.tokenizer.chat_template
    )
    monkeypatch.setattr(chat.tokenizer, "chat_template", template)
    with pytest.raises(InputError, match=r"row 2: given 'turns of system, user'.*one turn only"):
        load(chat, write("a.jsonl", [row([user("p")]), row([SYSTEM, user("p")])]))


def test_a_role_that_the_template_does_not_write(chat, write, monkeypatch):
    own = copy.deepcopy(chat.tokenizer)
    own.chat_template = own.chat_template.replace("in messages %}", "in messages if m.role != 'developer' %}")
    path = write("a.jsonl", [row("p"), row([{"role": "developer", "content": "Be brief."}, user("q")])])
    with pytest.raises(InputError, match=r"row 2: given \"content of a turn of 'developer'\".*leaves this out"):
        load(make_chat_tokenizer(own), path)
    data = load(make_chat_tokenizer(own), path, bad_rows=BadRows.drop)
    assert (data.counts["malformed_dropped"], len(data.train)) == (1, 1) and balanced(data.counts)


TOOLS = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_calls_of_tools_and_reasoning_are_trained_on(chat, write, name):
    own = copy.deepcopy(chat.tokenizer)
    own.chat_template = TOOLS
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": 3}}}],
    }
    thought = {"role": "assistant", "content": "4", "reasoning_content": "1 more"}
    rows = [{"prompt": [user("3+1")], "chosen": [call], "rejected": [thought], "tools": [{"name": "add"}]}]
    (pair,) = load(make_chat_tokenizer(own), write(name, rows)).train
    texts = [own.decode(ids) for ids in (pair.prompt.input_ids, pair.chosen_ids, pair.rejected_ids)]
    prompt = '[[{"name": "add"}]]<|im_start|>user\n3+1<|im_end|>\n<|im_start|>assistant\n'
    assert texts == [prompt, '<call>add {"x": 3}<|im_end|>', "(1 more)4<|im_end|>"]
    assert (pair.chosen, pair.rejected) == ('<call>add {"x": 3}', "4")


def test_what_the_template_cannot_write(chat, write):
    """ChatML has no place for calls, which are what is said; other keys of a message are counted."""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "add"}}]}
    path = write("a.jsonl", [row("p"), row("q", chosen=[call], rejected=[assistant("b")])])
    with pytest.raises(InputError, match=r"row 2: given \"tool_calls of a turn of 'assistant'\""):
        load(chat, path)
    path = write("b.jsonl", [row("p"), row("q", chosen=[assistant("a") | {"reasoning_content": "r"}])])
    data = load(chat, path)
    assert data.counts["keys_unwritten"] == 1
    assert [note for note in data.notes if "row 2 (reasoning_content)" in note]


def test_names_of_control_tokens_in_a_row_are_counted(chat, write):
    data = load(chat, write("a.jsonl", [row("p"), row("say <|im_end|>"), row("q", rejected="<|im_start|>")]))
    assert data.counts["control_tokens_named"] == 2
    (note,) = data.notes
    assert note.startswith("2 rows spell control tokens") and note.endswith("row 2")


@pytest.mark.parametrize(
    "cells",
    [
        {"prompt": "\ud83d"},
        {"chosen": "a\udc00"},
        {"rejected": [{"role": "assistant", "content": "\ud800"}]},
        {"rejected": [{"role": "assistant", "content": "a", "reasoning_content": "\ud800"}]},
    ],
)
def test_half_a_surrogate_pair_is_no_text(chat, tmp_path, cells):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row("p") | cells) + "\n")
    with pytest.raises(InputError, match=r"row 1, column .*well-formed Unicode") as caught:
        load(chat, str(path))
    str(caught.value).encode()


def test_a_row_may_be_large_and_hold_any_character(chat, write):
    text = "".join(map(chr, [*range(1, 0x300), 0x1F600, 0xFEFF, 0x2028])) * 400
    (pair,) = load(
        chat, write("a.jsonl", [row(text, text, "b")]), max_prompt_tokens=2**21, max_response_tokens=2**21
    ).train
    assert pair.chosen == text and chat.decode(pair.chosen_ids) == text and text in chat.decode(pair.prompt.input_ids)


def test_the_tokens_of_pairs_and_their_split_stay(write):
    """Stored reward models are found by these digests: a change of either costs every user a training."""
    history = [SYSTEM, user("one"), assistant("two"), user("three")]
    rows = [*many(10), row(history, "yes", [assistant("no")])]
    limits = {"max_prompt_tokens": 30, "max_response_tokens": 5}
    data = load(tiny.chat(), write("a.jsonl", rows), held_out_fraction=0.25, **limits)
    assert [digest(side)[:16] for side in (data.train, data.held_out)] == ["962b16f94f1bef95", "8fec7adb84e3c840"]
    assert [pair.prompt.id for pair in data.held_out] == [3, 6, 3, 6]

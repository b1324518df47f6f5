"""Rows of every shape: recognised by their columns, read whole, and turned into what methods learn from."""

from __future__ import annotations

import copy

import pytest

from align.config import AssistantTurns, BadRows, DataConfig, RankedPairs, Shape
from align.data.preferences import load_preferences
from align.data.prepared import LOST, Preferences
from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer
from tests.data.test_preferences import SYSTEM, TOOLS, assistant, balanced, user


def load(chat, path: str, **settings) -> Preferences:
    fixed = {"held_out_fraction": 0.0, "max_prompt_tokens": 512, "max_response_tokens": 512}
    data = load_preferences(DataConfig(path=path, **(fixed | settings)), chat)
    assert balanced(data.counts)
    return data


def texts(pairs) -> list[tuple[str, str, str]]:
    return [(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs]


def given(completions) -> list[tuple[str, str, bool]]:
    return [(one.prompt.text, one.text, one.label) for one in completions]


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
TALK = [user("p"), assistant("a")]


@pytest.mark.parametrize(
    ("row", "shape", "columns"),
    [
        ({"prompt": "p"}, Shape.prompt_only, "prompt"),
        ({"prompt": "p", "other": 3}, Shape.prompt_only, "prompt"),
        (PAIR, Shape.preference, "prompt, chosen, rejected"),
        ({"chosen": TALK, "rejected": [user("p"), assistant("b")]}, Shape.preference, "chosen, rejected"),
        ({"prompt": "p", "completion": "a"}, Shape.demonstration, "prompt, completion"),
        ({"messages": TALK}, Shape.demonstration, "messages"),
        ({"prompt": "p", "completion": "a", "label": True}, Shape.unpaired_preference, "prompt, completion, label"),
        ({"messages": TALK, "label": 0}, Shape.unpaired_preference, "messages, label"),
        ({"prompt": "p", "responses": ["a", "b"]}, Shape.ranked, "prompt, responses"),
        (
            {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "ranks": [2, 1]},
            Shape.ranked,
            "prompt, responses, scores",
        ),
        # The fixed order where the columns of several shapes are there.
        (PAIR | {"label": 1, "completion": "a", "messages": TALK, "responses": ["a"]}, Shape.preference, None),
        ({"prompt": "p", "responses": ["a", "b"], "completion": "a", "label": 1}, Shape.ranked, None),
        ({"prompt": "p", "completion": "x", "messages": TALK}, Shape.demonstration, "messages"),
        ({"prompt": "p", "label": "sport"}, Shape.prompt_only, "prompt"),
    ],
)
def test_a_shape_is_recognised_by_its_columns(chat, write, row, shape, columns):
    data = load(chat, write("a.jsonl", [row]))
    assert data.shape is shape
    assert columns is None or data.rows == f"{shape.words} rows ({columns})"
    assert [prompt.text for prompt in data.trained.prompts] == ["p"]


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        (
            {"prompt": "p", "chosen": "a", "completion": "a"},
            {},
            r"^data\.shape: given 'auto'; allowed: preference, dem",
        ),
        ({"prompt": "p", "completion": "a"}, {"shape": Shape.ranked}, r"^data\.responses_column: given 'responses'"),
        (PAIR, {"completion_column": "answer"}, r"^data\.completion_column: given 'answer'; allowed: a column of"),
        (
            {"q": "p", "a": "b"},
            {},
            r"^data\.chosen_column: .*: q, a; or one of another shape \(data\.completion_column",
        ),
        ({"completion": "a"}, {}, r"^data\.prompt_column: given 'prompt'; .*rows of shape demonstration"),
        (
            {"prompt": "p", "completion": "a", "label": "good"},
            {},
            r"row 1, column label: given 'good'; allowed: true or",
        ),
        ({"prompt": "p", "completion": "a", "label": 2}, {}, r"row 1, column label: given 2"),
        ({"prompt": "p", "completion": 3}, {}, r"row 1, column completion: given 3"),
        ({"messages": [user("p")]}, {}, r"row 1, column messages: .*by user.*assistant ends"),
        ({"messages": [assistant("a")]}, {}, r"row 1, column messages: .*user's message"),
        ({"messages": "p"}, {}, r"row 1, column messages"),
        ({"prompt": TALK}, {}, r"row 1, column prompt: .*user's message"),
        ({"prompt": " "}, {}, r"row 1, column prompt: .*not empty"),
        ({"prompt": "p", "responses": ["a"]}, {}, r"row 1, column responses: .*two responses or more"),
        ({"prompt": "p", "responses": "a"}, {}, r"row 1, column responses: given 'a'"),
        ({"prompt": "p", "responses": ["a", 3]}, {}, r"row 1, column responses: given 3"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1]}, {}, r"row 1, column scores: .*each of 2 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1, None]}, {}, r"row 1, column scores"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1, True]}, {}, r"row 1, column ranks"),
    ],
)
def test_what_is_no_row_of_a_shape(chat, write, row, settings, told):
    with pytest.raises(InputError, match=told) as caught:
        load(chat, write("a.jsonl", [row]), **settings)
    assert "\n" not in str(caught.value)


def test_malformed_rows_are_counted_where_they_are_dropped(chat, write):
    rows = [{"prompt": f"p{i}", "completion": "a", "label": label} for i, label in enumerate((True, "no idea", 0))]
    data = load(chat, write("a.jsonl", rows), bad_rows=BadRows.drop)
    assert data.counts["malformed_dropped"] == 1
    assert given(data.trained.labelled) == [("p0", "a", True), ("p2", "a", False)]


def test_a_shape_can_be_named(chat, write):
    path = write("a.jsonl", [PAIR | {"completion": "c", "label": 1}])
    data = load(chat, path, shape=Shape.demonstration)
    assert given(data.trained.demonstrations) == [("p", "c", True)] and data.train == []
    assert load(chat, path, shape=Shape.prompt_only).rows == "prompt-only rows (prompt)"


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_columns_have_names(chat, write, name):
    rows = [{"q": "p", "a": "x", "good": "true"}, {"q": "p", "a": "y", "good": "0"}]
    columns = {"prompt_column": "q", "completion_column": "a", "label_column": "good"}
    data = load(chat, write(name, rows), **columns)
    assert given(data.trained.labelled) == [("p", "x", True), ("p", "y", False)]
    assert texts(data.train) == [("p", "x", "y")]


def test_lists_in_a_csv_file_are_json(chat, write):
    rows = [{"prompt": "p", "responses": '["x", "y"]', "scores": "[1, 2.5]"}]
    assert texts(load(chat, write("a.csv", rows)).train) == [("p", "y", "x")]


def test_demonstrations_of_pairs_are_their_chosen_responses(chat, write):
    data = load(chat, write("a.jsonl", [PAIR, PAIR | {"prompt": "q", "chosen": "c"}, PAIR | {"rejected": "d"}]))
    assert given(data.trained.demonstrations) == [("p", "a", True), ("q", "c", True), ("p", "a", True)]
    assert [one.ids for one in data.trained.demonstrations] == [pair.chosen_ids for pair in data.train]
    assert data.trained.labelled == []


def test_prompts_alone(chat, write):
    call = {"role": "tool", "content": "4"}
    rows = [
        {"prompt": "p"},
        {"prompt": [SYSTEM, user("q")]},
        {"prompt": [user("r"), assistant("a"), call]},
        {"prompt": "p"},
    ]
    data = load(chat, write("a.jsonl", rows))
    assert [prompt.text for prompt in data.trained.prompts] == ["p", "q", "r"]
    assert [prompt.id for prompt in data.trained.prompts] == [0, 1, 2]
    assert list(data.trained.prompts[1].input_ids) == chat.encode_prompt([SYSTEM, user("q")])
    assert data.train == data.trained.demonstrations == data.trained.labelled == []
    assert (data.counts["train"], data.counts["train_prompts"], data.counts["duplicate_rows"]) == (4, 3, 1)


HISTORY = [SYSTEM, user("one"), assistant("two"), user("three"), assistant("four")]


def test_every_turn_of_a_conversation_is_a_demonstration(chat, write):
    path = write("a.jsonl", [{"messages": HISTORY}, {"messages": TALK}])
    data = load(chat, path)
    assert given(data.trained.demonstrations) == [("one", "two", True), ("three", "four", True), ("p", "a", True)]
    for one, end in zip(data.trained.demonstrations, (2, 4), strict=False):
        assert one.prompt.messages == tuple(HISTORY[:end])
        assert list(one.ids) == chat.encode_reply(HISTORY[:end], HISTORY[end])
    assert [prompt.text for prompt in data.trained.prompts] == ["three", "p"]  # of rows, which are sampled from
    last = load(chat, path, turns=AssistantTurns.last)
    assert given(last.trained.demonstrations) == [("three", "four", True), ("p", "a", True)]


def test_no_turn_of_a_trained_conversation_has_a_held_out_prompt(chat, write):
    held = write("h.jsonl", [{"messages": [user("One? "), assistant("x")]}, {"messages": HISTORY[1:]}])
    rows = [{"messages": [user("one"), assistant("two"), user("more"), assistant("three")]}]
    data = load(chat, write("a.jsonl", rows), held_out_path=held)
    assert given(data.trained.demonstrations) == [("more", "three", True)]
    assert data.counts["overlapping_turns"] == 1
    assert given(data.measured.demonstrations) == [("One? ", "x", True), ("three", "four", True)]  # last turns alone


@pytest.mark.parametrize(
    ("talk", "count", "kept"),
    [
        ([assistant("hi"), *HISTORY[1:]], {"turns_without_prompt": 1}, ["two", "four"]),
        ([SYSTEM, assistant("hi"), *TALK], {"turns_without_prompt": 1}, ["a"]),
        ([user("one"), assistant(" "), *TALK], {"empty_turns": 1}, ["a"]),
        ([*TALK, assistant("more"), assistant(""), *TALK], {"turns_after_assistant": 2}, ["a", "a"]),
        ([user("x" * 600), assistant("b"), *TALK], {"long_prompts_dropped": 1, "turns_of_dropped_rows": 1}, []),
        ([*TALK, user("x" * 600), assistant("b")], {"long_prompts_dropped": 1, "turns_of_dropped_rows": 1}, []),
        ([*TALK, user("q"), assistant(" ")], {"empty_dropped": 1, "turns_of_dropped_rows": 1}, []),
    ],
)
def test_turns_that_are_no_demonstrations_are_counted_by_row(chat, write, talk, count, kept):
    path = write("a.jsonl", [{"messages": [user("first"), assistant("fine")]}, {"messages": talk}])
    data = load(chat, path)
    assert [one.text for one in data.trained.demonstrations] == ["fine", *kept]
    assert {name: n for name, n in data.counts.items() if n and name in LOST} == count
    assert {name: [row.where for row in rows] for name, rows in data.dropped.items()} == {
        name: [f"{path}, row 2"] for name in count
    }
    last = load(chat, path, turns=AssistantTurns.last)
    assert not [name for name, n in last.counts.items() if n and "turns" in name]


THOUGHTS = (
    "{% set asked = namespace(at=0) %}{% for m in messages if m.role == 'user' %}"
    "{% set asked.at = messages.index(m) %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.index0 > asked.at %}{{ m.reasoning_content }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_turn_whose_own_prompt_is_too_long_is_counted(chat, write):
    """Templates that write thoughts behind the last question alone make the last prompt a shorter one."""
    own = copy.deepcopy(chat.tokenizer)
    own.chat_template = THOUGHTS
    thought = assistant("call") | {"reasoning_content": "x" * 600}
    rows = [
        {"messages": [user("p"), thought, {"role": "tool", "content": "4"}, assistant("b"), user("q"), assistant("a")]}
    ]
    data = load(make_chat_tokenizer(own), write("a.jsonl", rows), max_response_tokens=700)
    assert [one.prompt.text for one in data.trained.demonstrations] == ["p", "q"]
    assert data.counts["turns_of_long_prompts"] == 1 and data.counts["train"] == 1


def test_tools_in_conversations(chat, write):
    own = copy.deepcopy(chat.tokenizer)
    own.chat_template = TOOLS
    call = assistant("") | {"tool_calls": [{"function": {"name": "add", "arguments": {"x": 3}}}]}
    rows = [
        {
            "messages": [user("3+1"), call, {"role": "tool", "content": "4"}, assistant("It is 4.")],
            "tools": [{"name": "add"}],
        }
    ]
    first, second = load(make_chat_tokenizer(own), write("a.jsonl", rows)).trained.demonstrations
    assert own.decode(first.ids) == '<call>add {"x": 3}<|im_end|>'
    assert own.decode(second.prompt.input_ids).startswith('[[{"name": "add"}]]<|im_start|>user\n3+1<|im_end|>\n')
    assert own.decode(second.ids) == "It is 4.<|im_end|>"


@pytest.mark.parametrize("completion", ["a", assistant("a"), [assistant("a")], [user("q"), assistant("a")]])
def test_ways_to_write_a_completion(chat, write, completion):
    prompt = [SYSTEM, user("q")]
    for more in ({}, {"label": False}):
        data = load(chat, write("a.jsonl", [{"prompt": prompt, "completion": completion, **more}]))
        (one,) = data.trained.labelled if more else data.trained.demonstrations
        assert (one.prompt.messages, one.text, one.label) == (tuple(prompt), "a", not more)


def test_a_system_column_stands_before_every_shape(chat, write):
    for row in (
        {"prompt": "p"},
        {"prompt": "p", "completion": "a"},
        {"messages": TALK},
        PAIR,
        {"prompt": "p", "responses": ["a", "b"]},
    ):
        data = load(chat, write("a.jsonl", [row | {"s": "Be brief."}]), system_column="s")
        assert data.trained.prompts[0].messages == (SYSTEM, user("p"))


def labelled(*rows: tuple[str, str, bool]) -> list[dict]:
    return [{"prompt": p, "completion": c, "label": label} for p, c, label in rows]


def test_labelled_completions_are_paired_up(chat, write):
    rows = labelled(
        ("p", "g1", True), ("q", "g", True), ("p", "b1", False), ("p", "b2", False), ("p", "g2", True),
        ("p", "b3", False), ("r", "b", False), ("r", "b", False),
    )  # fmt: skip
    data = load(chat, write("a.jsonl", rows))
    assert texts(data.train) == [("p", "g1", "b1"), ("p", "g2", "b2"), ("p", "g1", "b3")]
    assert data.counts["unpartnered"] == 3 and data.counts["duplicate_rows"] == 1
    assert given(data.trained.demonstrations) == [("p", "g1", True), ("q", "g", True), ("p", "g2", True)]
    assert given(data.trained.labelled) == [tuple(row.values()) for row in rows]


def test_a_completion_is_no_partner_of_itself(chat, write):
    data = load(
        chat, write("a.jsonl", labelled(("p", "x", True), ("p", "x", False), ("p", "y", False), ("p", "z", True)))
    )
    assert texts(data.train) == [("p", "x", "y"), ("p", "z", "y")] and data.counts["identical_pairs"] == 0
    data = load(
        chat, write("b.jsonl", labelled(("p", "x", True), ("p", "x", False), ("q", "x", True), ("q", "y", False)))
    )
    assert texts(data.train) == [("q", "x", "y")] and data.counts["identical_pairs"] == 1


def test_ranked_responses(chat, write):
    rows = [{"prompt": "p", "responses": ["a", "b", "c", "d"], "scores": [1, 3, 3, 0.5]}]
    best = load(chat, write("a.jsonl", rows))
    assert texts(best.train) == [("p", "b", "a"), ("p", "b", "d")] and best.counts["tied_pairs"] == 1
    every = load(chat, write("a.jsonl", rows), ranked=RankedPairs.all)
    assert texts(every.train) == [("p", *two) for two in ("ba", "bd", "ca", "cd", "ad")]
    assert (every.counts["tied_pairs"], every.counts["train"], every.counts["train_pairs"]) == (1, 1, 5)
    assert given(every.trained.demonstrations) == [("p", "b", True)]


@pytest.mark.parametrize(
    ("more", "pairs"),
    [({}, ["ab", "ac"]), ({"ranks": [3, 1, 2]}, ["bc", "ba"]), ({"scores": [-3, -1, -2]}, ["bc", "ba"])],
)
def test_ranks_scores_or_the_order(chat, write, more, pairs):
    data = load(chat, write("a.jsonl", [{"prompt": "p", "responses": ["a", "b", "c"], **more}]))
    assert texts(data.train) == [("p", *two) for two in pairs]


def test_ranked_conversations_share_their_prompt(chat, write):
    talks = [[user("p"), assistant(text)] for text in "ab"]
    other = [[user("p"), assistant("a")], [user("q"), assistant("b")]]
    data = load(chat, write("a.jsonl", [{"responses": talks}, {"responses": other}]))
    assert texts(data.train) == [("p", "a", "b")] and data.counts["diverging_dropped"] == 1


def test_equal_and_empty_ranked_responses(chat, write):
    rows = [{"prompt": "p", "responses": ["a", "a", "b"]}, {"prompt": "q", "responses": ["a", " "]}]
    data = load(chat, write("a.jsonl", rows))
    assert texts(data.train) == [("p", "a", "b")]
    assert (data.counts["identical_pairs"], data.counts["empty_dropped"]) == (1, 1)


@pytest.mark.parametrize(
    "shape", [Shape.preference, Shape.demonstration, Shape.unpaired_preference, Shape.ranked, Shape.prompt_only]
)
def test_the_split_is_of_prompts_and_the_same_for_every_shape(chat, write, shape):
    more = {
        Shape.preference: {"chosen": "a", "rejected": "b"},
        Shape.demonstration: {"completion": "a"},
        Shape.unpaired_preference: {"completion": "a", "label": 1},
        Shape.ranked: {"responses": ["a", "b"]},
        Shape.prompt_only: {},
    }[shape]
    data = load(chat, write("a.jsonl", [{"prompt": f"prompt {i}", **more} for i in range(20)]), held_out_fraction=0.2)
    assert data.shape is shape
    assert {prompt.text for prompt in data.measured.prompts} == {f"prompt {i}" for i in HELD}


HELD = (3, 6, 11, 15)  # whose contents hash lowest, as they did when pairs were the only shape


def test_prompts_are_told_apart_by_their_tokens_and_by_nothing_that_the_template_leaves_out(chat, write):
    """Twenty rows on one prompt, each message with an id of its own: they stay on one side of the split."""
    asked = [{"prompt": [{"role": "user", "content": "ab", "id": str(n)}], "chosen": "a" * (n + 1), "rejected": "b"}
             for n in range(20)]  # fmt: skip
    other = [{"prompt": "ba", "chosen": "a", "rejected": "b"}]
    config = DataConfig(path=write("ids.jsonl", [*asked, *other]), max_prompt_tokens=64, max_response_tokens=64)
    data = load_preferences(config, chat)
    assert data.counts["train_prompts"] == data.counts["held_out_prompts"] == 1
    assert {len(data.train), len(data.held_out)} == {1, 20}


def test_scores_and_ranks_that_contradict_each_other_are_refused(chat, write):
    row = {"prompt": "p", "responses": ["worst", "best"], "scores": [9, 1], "ranks": [2, 1]}
    with pytest.raises(InputError, match=r"row 1, columns scores and ranks: given 'other orders'"):
        load(chat, write("a.jsonl", [row]))
    agreed = [row | {"scores": [1, 9]}, {"prompt": "q", "responses": ["x", "y"], "ranks": [2, 1]}]
    assert [pair.chosen for pair in load(chat, write("b.jsonl", agreed)).train] == ["best", "y"]


def test_a_malformed_row_that_is_dropped_says_why(chat, write):
    data = load(chat, write("a.jsonl", [PAIR, PAIR | {"chosen": 5}]), bad_rows=BadRows.drop)
    (left_out,) = data.dropped["malformed_dropped"]
    assert left_out.where.endswith("a.jsonl, row 2") and left_out.why.startswith("column chosen: given 5; allowed: ")

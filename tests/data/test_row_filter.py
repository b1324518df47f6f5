"""Rows chosen by their columns: the two sides stay parted, and what serves the reward keeps every row."""

from __future__ import annotations

import pytest

from align.config import DataConfig
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError

LENGTHS = {"max_prompt_tokens": 512, "max_response_tokens": 512}
COLUMNS = {"length": ("short", "long"), "split": ("tune", "report"), "limit": (None, 3, 5)}


def rows(n: int, tag: str) -> list[dict]:
    chosen = [{name: values[i % len(values)] for name, values in COLUMNS.items()} for i in range(n)]
    return [{"prompt": f"{tag} {i}", "chosen": "good", "rejected": "bad", **row} for i, row in enumerate(chosen)]


@pytest.fixture
def load(chat, write):
    train, held = write("train.jsonl", rows(12, "t")), write("held.jsonl", rows(6, "h"))

    def with_(**settings) -> Preferences:
        return load_preferences(DataConfig(**({"path": train, "held_out_path": held} | LENGTHS | settings)), chat)

    return with_


def texts(pairs) -> list[str]:
    return [pair.prompt.text for pair in pairs]


def test_without_conditions_every_row_takes_part(load):
    data = load()
    assert (texts(data.train), texts(data.held_out)) == (texts(data.reward_train), texts(data.reward_held_out))
    assert (len(data.train), len(data.held_out), data.counts["unasked_dropped"]) == (12, 6, 0)


def test_either_side_is_chosen_by_itself_and_the_reward_keeps_all(load):
    data = load(train_where={"length": "long", "limit": [3, 5]}, held_out_where={"split": "report"})
    expected = [i for i in range(12) if i % 2 == 1 and i % 3]
    assert texts(data.train) == [f"t {i}" for i in expected]
    assert texts(data.held_out) == ["h 1", "h 3", "h 5"]
    assert (len(data.reward_train), len(data.reward_held_out)) == (12, 6)
    counts = data.counts
    assert counts["unasked_dropped"] == 12 - len(expected) + 3
    assert counts["rows"] == counts["unasked_dropped"] + counts["train"] + counts["held_out"] == 18
    whole = {pair.prompt.text: pair.prompt.id for pair in load().train}
    assert all(pair.prompt.id == whole[pair.prompt.text] for pair in data.train)


def test_none_is_a_value(load):
    assert texts(load(held_out_where={"limit": None}).held_out) == ["h 0", "h 3"]
    assert texts(load(held_out_where={"limit": [None, 5]}).held_out) == ["h 0", "h 2", "h 3", "h 5"]


def test_what_serves_the_reward_is_restricted_only_by_its_own_condition(load):
    data = load(reward_where={"length": "short"})
    assert texts(data.reward_train) == [f"t {i}" for i in range(0, 12, 2)]
    assert (len(data.train), len(data.reward_held_out)) == (12, 6)


def test_conditions_move_no_prompt_to_the_other_side(load):
    """The share that is held out is cut from all rows first."""
    whole = load(held_out_path=None, held_out_fraction=0.5)
    held = set(texts(whole.held_out))
    part = load(held_out_path=None, held_out_fraction=0.5, train_where={"length": "long"})
    assert set(texts(part.held_out)) == held
    assert set(texts(part.train)) == {t for t in texts(whole.train) if int(t[2:]) % 2}


def test_a_pair_is_judged_by_its_own_row(chat, write):
    path = write("twice.jsonl", [row | {"length": length} for row in rows(3, "t") for length in ("short", "long")])
    data = load_preferences(
        DataConfig(path=path, held_out_fraction=0.0, train_where={"length": "long"}, **LENGTHS), chat
    )
    assert texts(data.train) == ["t 0", "t 1", "t 2"]


@pytest.mark.parametrize("cells", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_true_and_false_match_the_text_of_a_csv_file_in_either_case(chat, write, cells):
    path = write("a.csv", [row | {"flag": cells[i % 3 > 0]} for i, row in enumerate(rows(6, "t"))])
    for value, kept in ((True, ["t 0", "t 3"]), (False, ["t 1", "t 2", "t 4", "t 5"])):
        config = DataConfig(path=path, held_out_fraction=0.0, train_where={"flag": value}, **LENGTHS)
        assert texts(load_preferences(config, chat).train) == kept


def test_a_value_of_the_other_side_alone_is_told_from_a_value_of_no_row(chat, write):
    given = [row | {"tag": str(i)} for i, row in enumerate(rows(4, "t"))]
    path = write("a.jsonl", given)
    whole = DataConfig(path=path, held_out_fraction=0.25, **LENGTHS)
    (held,) = texts(load_preferences(whole, chat).held_out)
    other = next(row["tag"] for row in given if row["prompt"] != held)
    for value, told in (
        (other, rf"on this side of the split: '{held[2:]}'$"),
        ("x", r"that column: '\d', '\d', '\d', '\d'$"),
    ):
        with pytest.raises(InputError, match=rf"^data\.held_out_where\.tag: given '{value}'; allowed: .*{told}"):
            load_preferences(
                DataConfig(path=path, held_out_fraction=0.25, held_out_where={"tag": value}, **LENGTHS), chat
            )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train_where": {"lenght": "long"}}, r"^data\.train_where\.lenght: given 'lenght'; allowed: .*length, split"),
        ({"train_where": {"limit": "3"}}, r"^data\.train_where\.limit: given '3'; allowed: .*None, 3, 5$"),
        ({"held_out_where": {"split": ["tune", "x"]}}, r"^data\.held_out_where\.split: given 'x'; .*'tune', 'report'"),
        ({"reward_where": {"prompt": "t 99"}}, r"^data\.reward_where\.prompt: given 't 99'; .* and 4 more$"),
        ({"train_where": {"length": "long", "split": "tune"}}, r"^data\.train_where: given .*some row of .*together"),
        (
            {"held_out_path": None, "held_out_fraction": 0.0, "held_out_where": {"split": "tune"}},
            r"^data\.held_out_where: given .*allowed: {}",
        ),
    ],
)
def test_what_occurs_nowhere_is_refused_in_one_line(load, settings, told):
    with pytest.raises(InputError, match=told) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)

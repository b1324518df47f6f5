"""Mixtures of data sets: shares by weight, columns of their own, one held-out split, counts by source."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from align.cli.compose import composed
from align.config import DataConfig, MixtureSource, Shape
from align.config.io import load, plain, save
from align.data.mixture import lowest, shares
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError
from align.run.verdicts import untrained_sources

LENGTHS = {"max_prompt_tokens": 512, "max_response_tokens": 512}


def rows(name: str, count: int, column: str = "prompt") -> list[dict]:
    return [{column: f"{name} {i}", "chosen": "good", "rejected": "bad"} for i in range(count)]


@pytest.fixture
def paths(write) -> dict[str, str]:
    files = {"big": rows("big", 40), "small": rows("small", 10, "question")}
    return {name: write(f"{name}.jsonl", own) for name, own in files.items()}


def sources(paths, big: dict | None = None, small: dict | None = None) -> dict[str, MixtureSource]:
    return {
        "big": MixtureSource(path=paths["big"], **({"weight": 1.0} | (big or {}))),
        "small": MixtureSource(path=paths["small"], **({"weight": 1.0, "prompt_column": "question"} | (small or {}))),
    }


def mixed(chat, mixture: dict[str, MixtureSource], **settings) -> Preferences:
    return load_preferences(DataConfig(path=None, mixture=mixture, **(LENGTHS | settings)), chat)


def by_source(pairs) -> Counter[str]:
    return Counter(pair.prompt.text.split()[0] for pair in pairs)


@pytest.mark.parametrize(
    ("weights", "repeats", "expected"),
    [
        ((1, 1), (1, 1), (10, 10)),  # the smaller whole, of the larger as many
        ((3, 1), (1, 1), (30, 10)),
        ((0.75, 0.25), (1, 1), (30, 10)),  # weights are relative
        ((8, 1), (1, 1), (40, 5)),  # the larger is the scarcer one
        ((1, 1), (1, 3), (30, 30)),
        ((1, 1), (1, 9), (40, 40)),  # no more than is needed
        ((1000, 1), (1, 1), (40, 1)),  # each has a row at least
        ((None, None), (1, 1), (40, 10)),
        ((None, None), (1, 2), (40, 20)),
    ],
)
def test_shares(weights, repeats, expected):
    both = zip(("big", "small"), weights, repeats, strict=True)
    mixture = {name: MixtureSource(path=name, weight=weight, repeat=repeat) for name, weight, repeat in both}
    taken = shares({"big": 40, "small": 10}, DataConfig(path=None, mixture=mixture))
    assert tuple(taken.values()) == expected


def test_a_part_of_the_larger_source_is_taken_each_row_once(chat, paths):
    data = mixed(chat, sources(paths))
    found = [pair.prompt.text for pair in data.train + data.held_out]
    assert by_source(data.train + data.held_out) == {"big": 10, "small": 10}
    assert len(set(found)) == 20
    assert data.counts["rows"] == 20 and data.counts["train"] == 18
    assert data.sources == {
        name: {"rows": given, "taken": 10, "train": train, "repeated": 0, "held_out": 10 - train, "dropped": 0}
        for name, given, train in (
            ("big", 40, by_source(data.train)["big"]),
            ("small", 10, by_source(data.train)["small"]),
        )
    }
    (note,) = data.notes
    big, small = (
        f"{name} {n / 18:.1%}, {n} rows (10 of {given} taken, {10 - n} held out, 0 dropped: {paths[name]})"
        for name, given, n in (("big", 40, by_source(data.train)["big"]), ("small", 10, by_source(data.train)["small"]))
    )
    assert note == f"mixture of 18 training rows: {big}; {small}"


def test_shares_are_those_of_what_is_trained(chat, write):
    """Eight of ten rows of a source are too long, and one more is not among the rows asked for."""
    kept = [{"prompt": f"fine {i}", "chosen": "good", "rejected": "bad", "k": "x" if i else "y"} for i in range(10)]
    long = [
        {"prompt": f"long {i}" + "x" * 600 * (i > 1), "chosen": "good", "rejected": "bad", "k": "x"} for i in range(10)
    ]
    files = {"big": write("a.jsonl", kept), "small": write("b.jsonl", long)}
    mixture = {name: MixtureSource(path=path, weight=1.0) for name, path in files.items()}
    data = mixed(chat, mixture, held_out_fraction=0.0, train_where={"k": "x"})
    assert by_source(data.train) == {"fine": 9, "long": 2}
    assert [(own["train"], own["dropped"]) for own in data.sources.values()] == [(9, 1), (2, 8)]
    assert data.notes[0].startswith(
        "mixture of 11 training rows: big 81.8%, 9 rows (10 of 10 taken, 0 held out, 1 dropped"
    )
    assert list(untrained_sources(data.sources)) == []


def test_a_source_of_which_nothing_is_left_is_warned_about(chat, write, paths):
    long = write("b.jsonl", [row | {"prompt": "x" * 600} for row in rows("long", 10)])
    data = mixed(chat, {"big": MixtureSource(path=paths["big"]), "long": MixtureSource(path=long)})
    (verdict,) = untrained_sources(data.sources)
    assert (verdict.level, verdict.key) == ("warning", "data.mixture.long")
    assert verdict.what.endswith("is trained on: of the 10 rows taken, 10 dropped, 0 held out")
    assert "long 0.0%, 0 rows" in data.notes[0]


def test_what_is_taken_depends_on_no_order(chat, write, paths):
    first = mixed(chat, sources(paths))
    turned = write("turned.jsonl", rows("big", 40)[::-1])
    second = mixed(chat, sources(paths | {"big": turned}))
    assert {pair.prompt.text for pair in first.train} == {pair.prompt.text for pair in second.train}
    assert {pair.prompt.text for pair in first.held_out} == {pair.prompt.text for pair in second.held_out}
    chosen = lowest(rows("big", 40), 10)
    assert chosen != list(range(10)) and chosen == sorted(chosen)


def test_a_smaller_share_is_a_part_of_a_larger_one(chat, paths):
    few, many = (mixed(chat, sources(paths, {"weight": weight})) for weight in (1.0, 2.0))
    prompts = [{pair.prompt.text for pair in data.train + data.held_out} for data in (few, many)]
    assert prompts[0] < prompts[1]


def test_repeats_are_training_pairs_alone(chat, paths):
    data = mixed(chat, sources(paths, small={"repeat": 3}))
    assert by_source(data.held_out).total() == len({pair.prompt.id for pair in data.held_out}) == 4
    small = Counter(pair.prompt.text for pair in data.train if pair.prompt.text.startswith("small"))
    assert set(small.values()) == {3}
    n = len(small)
    counted = {"rows": 10, "taken": 10, "train": n, "repeated": 2 * n, "held_out": 10 - n, "dropped": 0}
    assert data.sources["small"] == counted
    assert data.counts["train"] == data.sources["big"]["train"] + 3 * len(small)
    assert f"{3 * n} rows, {2 * n} of them repeats (10 of 10 taken" in data.notes[0]


def test_a_repeat_in_part(chat, paths):
    """15 rows of 10: half of them twice, the same half every time."""
    settings = {"big": {"weight": 40.0}, "small": {"weight": 15.0, "repeat": 2}}
    data, again = (mixed(chat, sources(paths, **settings)) for _ in range(2))
    small = Counter(pair.prompt.text for pair in data.train if pair.prompt.text.startswith("small"))
    assert data.sources["small"]["repeated"] == round(len(small) * 1.5) - len(small)
    assert set(small.values()) == {1, 2}
    assert [pair.prompt.text for pair in data.train] == [pair.prompt.text for pair in again.train]


def test_no_prompt_is_on_both_sides(chat, write):
    """Prompts that both sources have are one prompt."""
    shared = [{"prompt": f"shared {i}", "chosen": "good", "rejected": "bad"} for i in range(20)]
    other = [{"question": row["prompt"], "chosen": "fine", "rejected": "poor"} for row in shared]
    data = mixed(
        chat, sources({"big": write("a.jsonl", shared), "small": write("b.jsonl", other)}), held_out_fraction=0.3
    )
    train, held_out = ({pair.prompt.id for pair in side} for side in (data.train, data.held_out))
    assert not train & held_out and len(train | held_out) == 20
    assert (len(data.train), len(data.held_out)) == (28, 12)


def test_held_out_pairs_of_their_own(chat, write, paths):
    held = write("held.jsonl", [*rows("big", 2), *rows("new", 3)])
    data = mixed(chat, sources(paths, {"weight": 4.0}), held_out_path=held)
    assert {pair.prompt.text for pair in data.held_out} == {"new 0", "new 1", "new 2"}
    assert data.counts["overlapping_dropped"] == 2
    assert [own["held_out"] for own in data.sources.values()] == [0, 0]


def test_a_source_reads_by_columns_and_templates_of_its_own(chat, write):
    first = write("first.csv", [{"a": f"A{i}", "b": "x", "good": "g", "bad": "b"} for i in range(4)])
    second = write("second.jsonl", rows("q", 4))
    mixture = {
        "first": MixtureSource(
            path=first, prompt="{a}-{b}", chosen_column="good", rejected="no {bad}", system_column="b"
        ),
        "second": MixtureSource(path=second),
    }
    data = mixed(chat, mixture, prompt="Q: {prompt}", system="Be brief.")
    found = {pair.prompt.text: pair for pair in data.train + data.held_out}
    assert set(found) == {f"A{i}-x" for i in range(4)} | {f"Q: q {i}" for i in range(4)}
    assert (found["A1-x"].chosen, found["A1-x"].rejected) == ("g", "no b")
    systems = [found[text].prompt.messages[0]["content"] for text in ("A1-x", "Q: q 1")]
    assert systems == ["x", "Be brief."]


def test_a_source_that_lacks_a_column_is_named(chat, paths):
    with pytest.raises(InputError, match=r"^data\.prompt_column: given 'nope'; allowed: a column of .*small\.jsonl"):
        mixed(chat, sources(paths, small={"prompt_column": "nope"}))


def test_slices_and_splits_of_a_source(chat, paths):
    data = mixed(chat, sources(paths, {"train_split": "train[:4]"}))
    assert [own["rows"] for own in data.sources.values()] == [4, 10]
    with pytest.raises(InputError, match=r"^data\.mixture\.big\.train_split: given 'dev'"):
        mixed(chat, sources(paths, {"train_split": "dev"}))


TALK = [{"role": "user", "content": "t"}, {"role": "assistant", "content": "one"}]
SHAPES = {
    Shape.preference: [{"prompt": "p", "chosen": "a", "rejected": "b"}],
    Shape.ranked: [{"prompt": "r", "responses": ["x", "y", "z"]}],
    Shape.demonstration: [
        {"messages": [*TALK, {"role": "user", "content": "m"}, {"role": "assistant", "content": "two"}]}
    ],
    Shape.unpaired_preference: [
        {"prompt": "l", "completion": text, "label": text == "good"} for text in ("good", "bad")
    ],
    Shape.prompt_only: [{"prompt": "o"}],
}
PAIRS = {Shape.preference: ["ab"], Shape.ranked: ["xy", "xz"], Shape.unpaired_preference: ["good bad"]}
IMITATED = {
    Shape.preference: ["a"],
    Shape.ranked: ["x"],
    Shape.demonstration: ["one", "two"],
    Shape.unpaired_preference: ["good"],
}


@pytest.mark.parametrize("shapes", combinations(SHAPES, 2), ids=lambda both: "+".join(shape.value for shape in both))
def test_each_source_has_a_shape_of_its_own(chat, write, shapes):
    """A side of two shapes is what each of them gives by itself; what is counted of it, each response once."""
    files = {shape.value: write(f"{shape.value}.jsonl", SHAPES[shape]) for shape in shapes}
    data = mixed(chat, {name: MixtureSource(path=path) for name, path in files.items()}, held_out_fraction=0.0)
    assert data.shape is Shape.mixed
    pairs = [pair for shape in shapes for pair in PAIRS.get(shape, [])]
    found = [f"{pair.chosen}{' ' * (len(pair.chosen) > 1)}{pair.rejected}" for pair in data.train]
    assert sorted(found) == sorted(pairs)
    imitated = [text for shape in shapes for text in IMITATED.get(shape, [])]
    assert sorted(one.text for one in data.trained.demonstrations) == sorted(imitated)
    assert [one.label for one in data.trained.labelled] == [True, False] * (Shape.unpaired_preference in shapes)
    given = [ids for _, every in data.trained.given() for ids in every]
    responses = {Shape.preference: 2, Shape.ranked: 4, Shape.demonstration: 2, Shape.unpaired_preference: 2}
    assert len(given) == data.counts["responses"] == sum(responses.get(shape, 0) for shape in shapes)
    for shape in shapes:
        assert f"{shape.value} {shape.words} rows (" in data.rows


def test_held_out_rows_of_a_mixture_of_shapes_have_a_shape_of_their_own(chat, write, paths):
    held, talks = write("h.jsonl", SHAPES[Shape.ranked]), write("t.jsonl", SHAPES[Shape.demonstration])
    mixture = {"big": MixtureSource(path=paths["big"]), "talks": MixtureSource(path=talks)}
    data = mixed(chat, mixture, held_out_path=held)
    assert [(pair.chosen, pair.rejected) for pair in data.held_out] == [("x", "y"), ("x", "z")]
    assert len(data.train) == 40 and len(data.trained.demonstrations) == 42


def test_a_shape_can_be_named_for_one_source(chat, write, paths):
    both = write("b.jsonl", [row | {"messages": TALK} for row in rows("both", 5)])
    mixture = {"big": MixtureSource(path=paths["big"]), "both": MixtureSource(path=both, shape=Shape.demonstration)}
    data = mixed(chat, mixture, held_out_fraction=0.0)
    assert (len(data.train), len(data.trained.demonstrations)) == (40, 45)


def option(paths, *words: str):
    given = [f"data.mixture.{name}.path={paths[own]}" for name, own in (("first", "big"), ("second", "small"))]
    return composed(["method=dpo", "data=mixture", *given, *words])


def test_from_the_command_line_to_a_file_and_back(paths, tmp_path):
    more = [
        f"data.mixture.more.path={paths['big']}",
        "data.mixture.more.weight=2",
        "data.mixture.more.prompt={a} it's, ${b}",
    ]
    config = option(paths, *more, "data.mixture.second.prompt_column=question")
    assert list(config.data.mixture) == ["first", "second", "more"]
    assert config.data.mixture["more"] == MixtureSource(path=paths["big"], weight=2.0, prompt="{a} it's, ${b}")
    assert config.data.mixture["more"].frozen
    save(config, tmp_path / "config.yaml", "align")
    assert load(tmp_path / "config.yaml") == config
    assert plain(config)["data"]["mixture"]["more"]["prompt"] == "{a} it's, ${b}"
    assert list(option(paths, "~data.mixture.second").data.mixture) == ["first"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.mixture.first.paht=x"], r"^data\.mixture\.first\.paht: given 'x'; allowed: path$"),
        (["data.shape=mixed"], r"^data\.shape: given 'mixed'; allowed: auto, or a shape"),
        (["data.mixture.second.shape=mixed"], r"^data\.mixture\.second\.shape: given 'mixed'"),
        (["data.mixture.first.weight=abc"], r"^data\.mixture\.first\.weight: given 'abc'"),
        (["data.mixture.first.weight=0"], r"^data\.mixture\.first\.weight: given 0\.0; allowed: a number above 0"),
        (["data.mixture.first.repeat=0"], r"^data\.mixture\.first\.repeat: given 0"),
        (["data.mixture.first.weight=null"], r"^data\.mixture\.first\.weight: given None; .*as second has one"),
        (["data.mixture.third.weight=1"], r"^data\.mixture\.third\.path: given 'nothing'"),
        (["data.mixture.first=x"], r"^data\.mixture\.first: given 'x'; allowed: its keys one by one"),
        (["data.mixture.first.path=no.jsonl"], r"^data\.mixture\.first\.path: given 'no\.jsonl'.*no such file"),
        (["data.path=a.jsonl"], r"^data\.path: given 'a\.jsonl'; allowed: null beside data\.mixture"),
        (["data.held_out_split=test"], r"^data\.held_out_split: .*null beside data\.mixture"),
        (["data.mixture.first.prompt={a!r}"], r"^data\.mixture\.first\.prompt: "),
        (["data.mixture.first.revision=v1"], r"^data\.mixture\.first\.revision: "),
        (["data.mixture.first.chosen_column=rejected"], r"^data\.mixture\.first\.chosen_column: "),
        (["~data.mixture.first", "~data.mixture.second"], r"^data\.path: given None; allowed: a path, or data=mixture"),
    ],
)
def test_mixtures_that_are_refused(paths, words, told):
    with pytest.raises(InputError, match=told) as caught:
        option(paths, *words)
    assert "\n" not in str(caught.value)

"""Texts written from columns: what the template says, what the cells hold, and from the command line to the row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from align.cli.compose import composed
from align.cli.groups import CONF
from align.config import BadRows, DataConfig
from align.config.io import build, load, plain, register_schemas, save
from align.config.text_templates import read_template
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError

ROWS = [{"instruction": f"Add {i}", "input": "", "n": i, "good": "yes", "bad": "no"} for i in range(4)]
ROWS[1]["input"] = "to {x} and\n[y]"
COLUMNS = {"chosen_column": "good", "rejected_column": "bad"}
LENGTHS = {"held_out_fraction": 0.0, "max_prompt_tokens": 512, "max_response_tokens": 512}


def load_rows(chat, path: str, **settings) -> Preferences:
    return load_preferences(DataConfig(path=path, **(COLUMNS | LENGTHS | settings)), chat)


def option(path: str, *words: str) -> DataConfig:
    own = ["method=dpo", "data=jsonl", f"data.path={path}", "data.chosen_column=good", "data.rejected_column=bad"]
    return composed([*own, *words]).data


@pytest.fixture
def file(write) -> str:
    return write("rows.jsonl", ROWS)


def test_prompts_are_what_the_template_says(chat, file):
    data = load_rows(chat, file, prompt="{{{n}}} {instruction}\n{input}")
    assert [pair.prompt.text for pair in data.train[:2]] == ["{0} Add 0\n", "{1} Add 1\nto {x} and\n[y]"]
    assert [pair.prompt.row for pair in data.train] == ROWS  # a reward sees the columns of the file
    assert (data.counts["template_cells_missing"], data.notes) == (0, ())


def test_each_text_has_a_template(chat, file):
    data = load_rows(chat, file, prompt="{instruction}", chosen="{good}, {n}", rejected="{bad}!", system="Be brief.",
                     **{name: getattr(DataConfig, name) for name in COLUMNS})  # fmt: skip
    assert (data.train[3].chosen, data.train[3].rejected) == ("yes, 3", "no!")
    assert data.train[0].prompt.messages == (
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add 0"})  # fmt: skip


def test_a_missing_cell_is_empty_and_counted(chat, write):
    file = write("rows.jsonl", [*ROWS, {**ROWS[0], "instruction": "Count", "input": None}])
    data = load_rows(chat, file, prompt="{instruction}: {input}")
    assert data.train[4].prompt.text == "Count: "
    assert data.counts["template_cells_missing"] == 1
    (note,) = data.notes
    assert note.startswith("1 rows lack a cell of a template") and note.endswith(f"{file}, row 5")


def test_a_text_of_blank_cells_is_empty(chat, write):
    """As a blank cell is: a prompt is refused, a response dropped and counted, a system turn left out."""
    bare = {"instruction": " ", "input": None, "good": "", "bad": "no"}
    file = write("rows.jsonl", [*ROWS, {**ROWS[0], **bare}])
    with pytest.raises(InputError, match=r"row 5, column data\.prompt: .*not empty"):
        load_rows(chat, file, prompt="Question: {instruction} {input}")
    own = {"prompt": "{n}", "chosen": "Answer: {good}", "chosen_column": "chosen", "system": "On {instruction}:"}
    assert load_rows(chat, file, **own).counts["empty_dropped"] == 1
    data = load_rows(chat, file, **own | {"chosen": "{bad}!"})
    assert [len(pair.prompt.messages) for pair in data.train] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("cell", [1.5, True, ["x"], {"a": 1}])
def test_a_cell_that_is_no_text_is_refused_by_row(chat, write, cell):
    file = write("rows.jsonl", [*ROWS, {**ROWS[0], "input": cell}])
    with pytest.raises(InputError, match=r"row 5, column input: .*text or a whole number"):
        load_rows(chat, file, prompt="{instruction}{input}")
    assert load_rows(chat, file, prompt="{instruction}{input}", bad_rows=BadRows.drop).counts["malformed_dropped"] == 1


def test_an_unknown_column_lists_the_columns(chat, file):
    with pytest.raises(InputError, match=r"^data\.prompt: given '{instrction}'; .*instruction, input, n, good, bad$"):
        load_rows(chat, file, prompt="{instrction}")
    with pytest.raises(
        InputError, match=r"^data\.chosen_column: given 'chosen'; .*: instruction, input, n, good, bad$"
    ):
        load_rows(chat, file, prompt="{instruction}", chosen_column="chosen")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{a.b}", "no plain name"),
        ("{a[0]}", "no plain name"),
        ("{a!r}", "without ! and :"),
        ("{a:>9}", "without ! and :"),
        ("{a:{b}}", "without ! and :"),
        ("{}", "no name"),
        ("{ }", "no name"),
        ("{a", "expected '}'"),
        ("a}", "Single '}'"),
        ("text", "names no column"),
        ("{{a}}", "names no column"),
        ("", "names no column"),
    ],
)
def test_templates_that_are_refused(template, told):
    with pytest.raises(InputError) as caught:
        read_template("data.chosen", template)
    assert str(caught.value).startswith(f"data.chosen: given {template!r}; allowed: ") and told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_new_lines_and_backslashes():
    cells = {"a": r"\n {x}", "b c": "B"}
    assert read_template("k", r"{a}\n{b c}").written(cells) == "\\n {x}\nB"  # a cell is never read as a template
    assert read_template("k", "{a}\n").written(cells) == "\\n {x}\n"
    assert read_template("k", r"\\nu \alpha {b c}\\").written(cells) == "\\nu \\alpha B\\"


TEMPLATES = ["{instruction}", "{instruction}\n{input}", r"{instruction}\n{input}", 'it\'s "{n}", ok', "{n},{input}",
             '"{n}" or "{input}"', "${n}", r"\${n}", "a ${x} {n}", "{n} \\",
             "{{n}} = {n}", " {n} [x] (y) #", "日本 {n}", "'{n}' x", "~ {n}", "null {n}"]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_on_the_command_line_is_literal(file, tmp_path, template):
    config = composed(["method=dpo", "data=jsonl", f"data.path={file}", f"data.prompt={template}"])
    assert config.data.prompt == template
    assert plain(config)["data"]["prompt"] == template
    save(config, tmp_path / "config.yaml", "align")
    assert load(tmp_path / "config.yaml") == config


def test_quotes_for_hydra_still_work_and_null_takes_a_template_back(file):
    assert option(file, """data.prompt='{n}, {input}'""").prompt == "{n}, {input}"
    assert option(file, """data.prompt="{n}\t{input}" """.strip()).prompt == "{n}\t{input}"
    assert option(file, "data.prompt={n}", "data.prompt=null").prompt is None


def test_a_template_in_a_yaml_file(chat, file, tmp_path):
    folder = tmp_path / "conf" / "data"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        f'defaults: [jsonl, _self_]\npath: {file}\nprompt: "{{instruction}}\\n{{n}}"\n'
        "chosen_column: good\nrejected_column: bad\n"
    )
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{folder.parent}]"
        config = build(compose("config", ["method=dpo", "data=mine", search]))
    assert config.data.prompt == "{instruction}\n{n}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.prompt={n}", "data.prompt_column=n"],
         r"^data\.prompt: given '{n}'; allowed: null beside data\.prompt_column=n, or data\.prompt_column=prompt"),
        (["data.system=x", "data.system_column=n"], r"data\.system: .*or data\.system_column=null"),
        (["data.chosen={n}"], r"data\.chosen: .*null beside data\.chosen_column=good"),
        (["data.prompt={n.x}"], r"^data\.prompt: given '{n\.x}'"),
    ],
)  # fmt: skip
def test_one_way_for_one_text(file, words, told):
    with pytest.raises(InputError, match=told) as caught:
        option(file, *words)
    assert "\n" not in str(caught.value)


def test_show_data_shows_the_text(align, file):
    words = ["data=jsonl", f"data.path={file}", "data.chosen_column=good", "data.rejected_column=bad", "model=pocket"]
    code, out, err = align("show", "data", "method=sft", *words, r"data.prompt=Q {instruction}\n{input}", "--row", "1")
    assert code == 0, err
    shown = json.dumps(out)
    assert any(f"Q Add {i}\\n" in shown for i in range(4))
    assert Path(file).exists()

"""`align show`, run through the command line: what it says of data and model is what a run would train on."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from align.cli.show import print_view
from align.run.show_data import quantiles
from align.run.views import Sample, Segment, View
from tests import tiny
from tests.algorithms.runs import write_data

PAIRS = [
    {"prompt": f"question {i}", "chosen": "a" * (2 + i), "rejected": "b" * (20 if i == 9 else 3)} for i in range(10)
]
BAD = [{"prompt": "same", "chosen": "x", "rejected": "x"}, {"prompt": "long " * 20, "chosen": "a", "rejected": "b"}]


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS, *BAD]))
    held_out = write_data(tmp_path / "data") / "held_out.jsonl"
    local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", "data.path=pairs.jsonl", "device=cpu"]
    limits = ["data.max_prompt_tokens=60", "data.max_response_tokens=9", "rollout.max_new_tokens=8"]
    return [*local, *limits, f"data.held_out_path={held_out}"]


def squeezed(text):
    """Tables without their padding."""
    return [re.sub(r"\s{2,}", " | ", line.strip()) for line in text.splitlines()]


def test_rows_lengths_and_limits(align, words, tmp_path):
    code, out, err = align("show", "data", "method=dpo", *words, "--rows", "1")
    lines = squeezed(out)
    assert code == 0, err
    assert "rows read | 20" in lines  # 12 to train on, 8 held out
    assert "training pairs | 10 on 10 prompts" in lines
    assert "dropped | 2 (identical 1, long prompts 1)" in lines
    # Before any limit, ends included: 11 training pairs, of 3 to 12 tokens and one of 2, and 8 held-out ones.
    chosen = [*range(3, 13), 2, *(4 + 2 * (i % 2) for i in range(8))]
    assert " | ".join(("chosen", *quantiles(chosen))) in lines
    assert "data.max_prompt_tokens=60 | 1 of 19 pairs | dropped" in lines
    assert "rollout.max_new_tokens=8 | 4 of 19 pairs" in " ".join(lines)
    assert "data.max_response_tokens=9 | 3 of 19 pairs" in " ".join(lines)  # chosen of 10, 11, 12 tokens
    assert not list(tmp_path.glob("outputs*"))


def test_a_row_is_shown_as_the_model_reads_it(align, words):
    code, out, _ = align("show", "data", "method=dpo", *words, "--row", "3")
    assert code == 0
    chat = tiny.chat()
    prompt = chat.encode_prompt([{"role": "user", "content": "question 2"}])
    written = chat.tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_id)
    for side, response in (("chosen", "aaaa"), ("rejected", "bbb")):
        title = f"pair 3 (pairs.jsonl, row 3), {side}: {len(prompt)} + {len(response) + 1} tokens"
        assert f"{title}; in [brackets]: in the loss\n{written}[{response}{end}]\n" in out
    ends = ", ".join(f"{i} {chat.tokenizer.convert_ids_to_tokens(i)!r}" for i in chat.end_ids)
    assert f"end of a response | {ends}" in squeezed(out)
    assert "row 2" not in out


def test_a_cut_response_says_that_it_lost_its_end(align, words):
    _, out, _ = align("show", "data", "method=sft", *words, "--row", "10")
    chat = tiny.chat()
    prompt = chat.encode_prompt([{"role": "user", "content": "question 9"}])
    pair, cut = "pair 10 (pairs.jsonl, row 10)", f"{len(prompt)} + 9 tokens; cut, without its end"
    assert f"{pair}, chosen: {cut}; in [brackets]: in the loss" in out
    assert "[aaaaaaaaa]\n" in out
    assert f"{pair}, rejected: {cut}\n" in out  # which SFT does not read


@pytest.mark.parametrize(
    ("method", "said", "marked"),
    [
        ("dpo", "every token of the chosen and the rejected response", 2),
        ("sft", "every token of the chosen response", 1),
        ("trl_kto", "every token of the chosen and the rejected response", 2),
        ("ppo", "responses that the policy samples", 0),
        ("reward_model", "the score at the last token", 2),
        ("best_of_n", "nothing: the method does not train", 0),
    ],
)
def test_what_counts_is_said_and_marked(align, words, method, said, marked):
    code, out, err = align("show", "data", f"method={method}", *words, "--rows", "1")
    assert code == 0, err
    assert said in out
    assert len(re.findall(r"; in \[brackets\]: in the loss$", out, re.MULTILINE)) == marked
    end = tiny.chat().tokenizer.convert_ids_to_tokens(tiny.chat().end_id)
    assert (f"[{end}]" in out) == (method == "reward_model")  # the last token alone


def test_colours_mark_what_counts_on_a_terminal(tmp_path):
    console = Console(record=True, force_terminal=True, width=80, file=(tmp_path / "out").open("w"))
    print_view(View([], [Sample("row 1", [Segment("before "), Segment("after", counts=True)])]), console)
    text = console.export_text(styles=True)
    assert "\x1b[2mbefore \x1b[0m\x1b[1;32mafter\x1b[0m" in text
    assert "[after]" not in text


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_parameters_are_those_that_a_run_trains(align, words, adapter):
    code, out, err = align("show", "model", "method=dpo", f"adapter={adapter}", *words)
    assert code == 0, err
    lines = squeezed(out)
    model = tiny.causal()
    count = model.num_parameters()
    assert f"all | {count:,}" in lines
    width, inner, kv = 24, 32, 12
    per_layer = [(width, width), (width, kv), (width, kv), (width, width), *[(width, inner)] * 3]
    trained = count if adapter == "none" else 2 * 16 * sum(a + b for a, b in per_layer)
    assert any(line.startswith(f"trained | {trained:,} (") for line in lines)
    assert any("LoRA | rank 16, alpha 32, on q_proj (2)" in line for line in lines) == (adapter == "lora")
    assert "context | 128 tokens" in lines
    assert "architecture | LlamaForCausalLM (2 layers, 24 wide, 4 heads, 33 tokens)" in lines
    assert "captured_steps | off: the model is on cpu" in lines
    assert ("updates: optimizer | 0 MiB" in lines) and any(line.startswith("at the peak | about ") for line in lines)
    end = tiny.chat().tokenizer.convert_ids_to_tokens(tiny.chat().end_id)
    assert f"[t scatters{end}]" in out  # neither I nor a full stop is in the tiny vocabulary


def test_the_plan_names_what_is_trained_first(align, words):
    options = ["reward/source=reward_model", "reward.source.trained_on=prefixes", "reward.source.epochs=3"]
    options += ["reward.source.batch_size=4", "reward.source.prefix_steps=7", "reward/credit=prefix"]
    run = ["max_steps=6", "rollout.batch_size=8", "method.minibatch_size=4", "method.epochs=1"]
    code, out, err = align("show", "model", "method=ppo", *options, *run, *words)
    assert code == 0, err
    plan = squeezed(out)
    assert "reward model | 8 | 4 | 10 pairs" in plan  # 3 * 10 / 4
    assert "reward model, on prefixes | 7 | 4 | 10 pairs" in plan
    assert any(line.startswith("ppo | 6 | 4 | 3 rollouts of 8 responses to") for line in plan)
    assert plan.index("reward model | 8 | 4 | 10 pairs") < plan.index("reward model, on prefixes | 7 | 4 | 10 pairs")


def test_no_weights_are_read(align, words, tmp_path):
    """A folder whose weights are no weights is shown all the same."""
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    for path in tiny.folder().iterdir():
        if path.suffix != ".safetensors":
            (hollow / path.name).write_bytes(path.read_bytes())
    (hollow / "model.safetensors").write_text("no weights")
    for subject in ("data", "model"):
        code, out, err = align("show", subject, "method=dpo", *words, f"model.path={hollow}")
        assert code == 0 and out, err


MISTAKES = {
    "no subject": ([], "align show: given 'nothing'; allowed: data, model, then the words of a run"),
    "another subject": (["dat"], "align show: given 'dat'; allowed: data, model, then the words of a run"),
    "misspelt key": (["data", "method.bta=1"], "method.bta: given 'method.bta=1'; allowed:"),
    "a sweep": (
        ["data", "-m", "seed=0,1"],
        "align show: given '-m seed=0,1'; allowed: the words of one run, --rows N, --row I",
    ),
    "no row 0": (["data", "--row", "0"], "--row: given 0; allowed: a whole number above 0"),
    "rows of a model": (["model", "--rows", "2"], "--rows: given 2; allowed: of align show data only"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(align, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    given, message = MISTAKES[name]
    code, out, err = align("show", *given)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_a_row_that_is_not_there(align, words):
    code, _, err = align("show", "data", "method=dpo", *words, "--row", "11")
    assert (code, err) == (2, "error: --row: given 11; allowed: 1 to 10, the number of training pairs\n")


def test_a_file_that_is_not_there_is_answered_as_by_a_run(align, words):
    code, _, err = align("show", "data", "method=dpo", *words, "data.path=none.jsonl")
    assert code == 2 and err.startswith("error: data.path: given 'none.jsonl'") and err.count("\n") == 1


def test_a_mistake_is_answered_without_torch(tmp_path):
    code = (
        "import sys; from align.cli.main import main\n"
        "sys.argv = ['align', 'show', 'data', 'method.bta=1']; code = main()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


def test_help_names_it(align):
    assert "align show data|model" in align("--help")[1]


def shown(out):
    """The rows and sides that a listing shows, in order."""
    return re.findall(r"^pair (\d+) \(pairs.jsonl, row \d+\), (\w+):", out, re.MULTILINE)


def test_the_longest_and_random_rows_are_shown_once_each(align, words):
    _, out, _ = align("show", "data", "method=dpo", *words, "--longest", "2")
    assert shown(out) == [
        (n, side) for n in ("7", "8") for side in ("chosen", "rejected")
    ]  # 9 tokens, as 9 and 10 after the cut
    _, first, _ = align("show", "data", "method=dpo", *words, "--random", "4")
    _, again, _ = align("show", "data", "method=dpo", *words, "--random", "4")
    _, other, _ = align("show", "data", "method=dpo", *words, "--random", "4", "seed=1")
    assert shown(first) == shown(again) != shown(other) and len(set(shown(first))) == 8
    _, out, _ = align("show", "data", "method=dpo", *words, "--rows", "10", "--longest", "1")
    assert len(shown(out)) == 20


def test_held_out_prompts_that_are_edited_trained_ones_are_counted(align, words, tmp_path):
    asked = "which question about the weather was number {}, and who asked it"
    rows = [{"prompt": asked.format(i), "chosen": "a", "rejected": "b"} for i in ("one", "two", "six")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (tmp_path / "held.jsonl").write_text(json.dumps(rows[2]) + "\n" + json.dumps(PAIRS[0]) + "\n")
    more = ["data.held_out_path=held.jsonl", "data.max_prompt_tokens=200"]
    _, out, err = align("show", "data", "method=dpo", *words, *more)
    (line,) = [line for line in squeezed(out) if line.startswith("held-out prompts alike")]
    assert line.split(" | ")[1].startswith(
        "1 of 2 share most of their text with a trained one, the first: 'which question"
    ), err


def test_dropped_rows_are_listed_with_the_reason(align, words):
    _, out, _ = align("show", "data", "method=dpo", *words, "--dropped")
    lines = squeezed(out)
    assert any(line.startswith('pairs.jsonl, row 11 | identical | {"prompt": "same"') for line in lines), out
    assert any(line.startswith("pairs.jsonl, row 12 | long prompts | ") for line in lines), out
    assert shown(out) == []


@pytest.mark.parametrize(("flag", "listed", "more"), [([], 20, 5), (["2"], 2, 23), (["25"], 25, 0)])
def test_dropped_rows_that_are_not_listed_are_said_to_be_more(align, words, tmp_path, flag, listed, more):
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.writelines(json.dumps({"prompt": f"q {i}", "chosen": "x", "rejected": "x"}) + "\n" for i in range(24))
    _, out, err = align("show", "data", "method=dpo", "--dropped", *flag, *words)
    lines = squeezed(out)
    assert sum(" | identical | {" in line for line in lines) == listed, err
    assert (f"and {more} more | identical | --dropped 25 lists them all" in lines) == bool(more)
    assert not [line for line in lines if "more | long prompts" in line]


def test_a_difference_from_the_plain_render_is_shown_and_explained(align, words, tmp_path):
    chat = tiny.chat()
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_id)
    rows = [{"prompt": "ab", "chosen": "ba", "rejected": "aa"}, {"prompt": f"a{end}b", "chosen": "ba", "rejected": "a"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = align("show", "data", "method=dpo", *words, "--diff")
    plain, named = re.split(r"^pair 2 \(pairs.jsonl, row 2\), chosen", out, flags=re.MULTILINE)
    assert plain.count("\nas the plain render of the template") == 2 and "differs" not in plain
    assert f"for its {end!r} (a text names a control token, read as text" in named


def test_the_page_holds_what_the_terminal_shows_and_escapes_texts(align, words, tmp_path):
    rows = [{"prompt": "question a", "chosen": "ab", "rejected": "a"}, {"prompt": "b", "chosen": "b", "rejected": "a"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = align("show", "data", "method=dpo", *words, "--html", "page.html")
    assert (code, out) == (0, "page.html\n"), err
    page = (tmp_path / "page.html").read_text()
    assert '<span class="role-user">question a</span>' in page
    assert '<span class="counts">ab&lt;end&gt;</span>' in page and "<end>" not in page
    assert align("show", "data", *words, "--html", "nowhere/page.html")[0] == 2

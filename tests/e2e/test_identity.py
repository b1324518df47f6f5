"""A resumed run is held to what it began with: rows, template, tokenizer, model, texts and functions, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from align.config.io import load
from tests import folders

WORDS = ("adapter=none", "method.group_size=2", "rollout.batch_size=4", "method.minibatch_size=4",
         "method.learning_rate=0.001", "rollout.max_new_tokens=4", "evaluation.num_prompts=2", "evaluation.num_pairs=2",
         "evaluation.num_texts=2", "evaluation.num_probes=0", "max_steps=1")  # fmt: skip
SCORE = (  # another value for any other text: what is sampled depends on the day that the template writes
    "from zlib import crc32\n\nfrom weights import WEIGHT\n\n"
    "def score(responses):\n    return [WEIGHT * (crc32(text.encode()) % 97) for text in responses]\n"
)
DATED = "{{ strftime_now('%d %b %Y') }}"


class Started:
    """A run of one update, in files of its own."""

    def __init__(self, align: Callable[..., tuple], home: Path) -> None:
        self._align, self.home = align, home
        self.run, self.model, self.pairs = home / "run", home / "model", home / "pairs.jsonl"
        self.texts, self.score = home / "texts.txt", home / "score.py"
        shutil.copytree(folders.folder("llama"), self.model)
        template = self.model / "chat_template.jinja"
        template.write_text(DATED + template.read_text())
        folders.write_pairs(self.pairs)
        self.texts.write_text("Rain fell all day.\n\nThe sun came out.\n")
        self.score.write_text(SCORE)
        self.weights = home / "weights.py"  # which the function's file imports
        self.weights.write_text("WEIGHT = 1.0\n")
        places = (f"model.path={self.model}", f"data.path={self.pairs}", f"evaluation.general_text={self.texts}")
        reward = ("reward=function", f"reward.source.path={self.score}:score")
        words = ("method=grpo", "model=local", "data=jsonl", *reward, *places, *WORDS, f"hydra.run.dir={self.run}")
        code, _, self.said = align(*words)
        assert code == 0, self.said

    def resumed(self) -> tuple[int, str]:
        code, _, err = self._align(f"resume={self.run}", "max_steps=2")
        return code, err

    def files(self) -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in self.run.rglob("*") if file.is_file()}


@pytest.fixture
def started(align: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    return Started(align, tmp_path)


def swap_answers(started: Started) -> None:
    rows = [json.loads(line) for line in started.pairs.read_text().splitlines()]
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    started.pairs.write_text("".join(json.dumps(row) + "\n" for row in swapped))


def change_template(started: Started) -> None:
    file = started.model / "chat_template.jinja"
    file.write_text("x" + file.read_text())


def change_weights(started: Started) -> None:
    (file,) = started.model.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = weights[name] * 1.001
    save_file(weights, file, metadata={"format": "pt"})


def change_texts(started: Started) -> None:
    started.texts.write_text(started.texts.read_text().replace("Rain", "Snow"))


def change_function(started: Started) -> None:
    started.score.write_text(SCORE.replace("WEIGHT *", "-WEIGHT *"))


def change_neighbour(started: Started) -> None:
    started.weights.write_text("WEIGHT = -1.0\n")


CHANGES = [
    ("data.path", swap_answers, "the set of training rows"),
    ("model.chat_template", change_template, "the chat template, and the start model"),
    ("model.path", change_weights, "the start model"),
    ("evaluation.general_text", change_texts, "the texts"),
    ("reward.source.path", change_function, "the reward function's files"),
    ("reward.source.path", change_neighbour, "the reward function's files"),
]


@pytest.mark.slow
def test_a_resume_with_something_else_is_refused_and_leaves_the_run_as_it_was(started: Started) -> None:
    before = started.files()
    content = {file: file.read_bytes() for file in started.home.rglob("*") if file.is_file()}
    for key, change, what in CHANGES:
        change(started)
        code, err = started.resumed()
        last = err.strip().splitlines()[-1]
        assert code == 2 and last.startswith(f"error: {key}: ") and what in last, err
        assert started.files() == before, key
        for file, was in content.items():
            file.write_bytes(was)
    code, err = started.resumed()
    assert code == 0, err


@pytest.mark.slow
def test_the_date_of_a_template_stays_that_of_the_first_day(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads((started.run / "run.json").read_text())
    day = load(started.run / "config.yaml").model.template_date
    assert day is not None and f"the chat template writes the date, {day}" in started.said
    file = started.run / "config.yaml"
    file.write_text(file.read_text().replace(f"template_date: '{day}'", "template_date: '2020-05-04'"))
    code, err = started.resumed()
    assert code == 0 and "the chat template writes the date, 2020-05-04" in err
    assert json.loads((started.run / "run.json").read_text())["identity"] == facts["identity"]


def test_a_day_that_is_none_is_refused(align: Callable[..., tuple]) -> None:
    code, _, err = align("model.template_date=2026-13-01")
    assert code == 2 and "model.template_date: given '2026-13-01'" in err


def test_a_folder_with_a_run_is_refused_or_moved_aside(align: Callable[..., tuple], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("max_steps: 3\n")
    (run / "run.json").write_text('{"status": "running", "started": "2026-01-02T03:04:05"}')
    code, _, err = align("hydra.run.dir=" + str(run), "max_steps=1")
    assert code == 2 and "a run of 2026-01-02T03:04:05, running: resume=" in err and "overwrite=true" in err
    assert (run / "config.yaml").read_text() == "max_steps: 3\n"
    code, _, err = align("hydra.run.dir=" + str(run), "overwrite=true", "data.path=none.jsonl")
    assert code == 2 and (run / "config.yaml").is_file()  # refused before anything was moved


def test_a_run_that_fails_keeps_its_traceback(align: Callable[..., tuple], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    score, run = tmp_path / "score.py", tmp_path / "run"
    score.write_text("def score(responses):\n    raise ValueError('no score today')\n")
    pairs, model = folders.write_pairs(tmp_path / "pairs.jsonl"), folders.folder("llama")
    words = ("method=grpo", "model=local", f"model.path={model}", "data=jsonl", f"data.path={pairs}", *WORDS)
    code, _, err = align(*words, "reward=function", f"reward.source.path={score}:score", f"hydra.run.dir={run}")
    lines = err.strip().splitlines()
    assert code == 1 and lines[-1].startswith("run failed: RunError:") and "no score today" in lines[-1]
    assert lines[-2] == f"traceback: {run / 'error.txt'}"
    kept = (run / "error.txt").read_text()
    assert "Traceback" in kept and "ValueError: no score today" in kept and "line 2, in score" in kept
    assert json.loads((run / "run.json").read_text())["status"] == "failed"

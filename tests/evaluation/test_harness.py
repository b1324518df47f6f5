"""lm-evaluation-harness: the line where it is missing, and a task of one's own, without network, where it is there."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from align.cli.groups import CONF
from align.config import EvaluationConfig
from align.config.composition import check_all
from align.config.io import build, register_schemas
from align.config.methods import SFTConfig
from align.errors import InputError
from align.evaluation.harness import harness_scores
from tests import tiny
from tests.algorithms import runs

TASK = """\
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [a, b]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm_eval is installed")
def test_it_is_asked_for_in_one_line(tmp_path: Path) -> None:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = compose("config", ["evaluation.lm_eval=[hellaswag]"])
    with pytest.raises(InputError, match=r"evaluation.lm_eval: given 'hellaswag'; allowed: \[\], until `pip install"):
        build(words)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed: pip install 'align[lm_eval]'")
def test_a_task_of_ones_own(tmp_path: Path) -> None:
    data = tmp_path / "letters.jsonl"
    rows = [{"question": f"say {'ab'[i % 2]}", "answer": i % 2} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "letters.yaml").write_text(TASK.format(data=data))
    settings = {"lm_eval_path": str(tmp_path), "lm_eval_limit": 4, "batch_size": 2, "seed": 0}
    letters = EvaluationConfig(lm_eval=["letters"], **settings)
    state, python = torch.random.get_rng_state(), random.getstate()
    scores = harness_scores(tiny.policy(), tiny.chat(), letters)
    assert torch.equal(state, torch.random.get_rng_state()) and python == random.getstate()
    assert scores == harness_scores(tiny.policy(), tiny.chat(), letters)
    assert set(scores) == {"letters"} and 0 <= scores["letters"]["acc"] <= 1
    with pytest.raises(InputError, match=r"evaluation.lm_eval: given 'nothing'"):
        harness_scores(tiny.policy(), tiny.chat(), EvaluationConfig(lm_eval=["nothing"], **settings))


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    config = runs.config(SFTConfig(), runs.write_data(tmp_path), evaluation={"lm_eval_limit": 0})
    with pytest.raises(InputError, match=r"evaluation.lm_eval_limit: given 0"):
        check_all(config)

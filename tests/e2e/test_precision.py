"""Runs in a row in one process, as Hydra's own launcher makes them: nothing of one job may stand in the next's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from align.cli.groups import CONF
from align.config.io import build, register_schemas
from align.run.runner import run

SMALL = [
    "max_steps=1",
    "rollout.batch_size=4",
    "method.minibatch_size=4",
    "rollout.max_new_tokens=8",
    "evaluation.num_prompts=4",
    "evaluation.num_pairs=4",
    "evaluation.num_texts=2",
    "threads=1",
]


@pytest.mark.slow
def test_bf16_then_fp32(tmp_path: Path) -> None:
    register_schemas()
    for precision in ("bf16", "fp32"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = build(compose("config", [*SMALL, f"precision={precision}"]))
        result = run(config, tmp_path / precision, say=lambda line: None)
        assert result["step"] == 1
        assert abs(result["before"]["kl_per_response"]) < 1e-6  # both roles compute alike in either precision

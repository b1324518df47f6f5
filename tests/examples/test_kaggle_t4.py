"""The notebook, from its first cell to its last, on the embedded model and with a secret store like Kaggle's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from align.cli.compose import composed

NOTEBOOK = Path(__file__).parents[2] / "examples" / "kaggle_t4.ipynb"
SMALL = (
    "rollout.batch_size=4 method.minibatch_size=4 rollout.max_new_tokens=8 evaluation.num_prompts=4 "
    "evaluation.num_pairs=4 evaluation.num_texts=2 threads=1 device=cpu"
)
KEY = "0123456789abcdef" + "noRealKey"
SECRETS = f"""
class UserSecretsClient:
    def get_secret(self, name):
        return {{"WANDB_API_KEY": {KEY!r}}}[name]
"""


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_keeps_its_secret(tmp_path, monkeypatch):
    (tmp_path / "kaggle_secrets.py").write_text(SECRETS)
    paths = [str(tmp_path), str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("ALIGN_NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("ALIGN_NOTEBOOK_WORDS", SMALL)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (folder,) = (tmp_path / "outputs" / "ppo").iterdir()
    assert json.loads((folder / "run.json").read_text())["status"].startswith("finished")
    assert (folder / "report.html").is_file()
    shown = json.dumps(notebook)
    assert "tracking: Weights & Biases" in shown and "| perplexity |" in shown
    assert KEY not in shown
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "kaggle_secrets.py"]
    assert not any(KEY.encode() in content for content in written if b"get_secret" not in content)


def settings(model: str, method: str) -> list[str]:
    """The words that the notebook's cell makes of another choice."""
    cells = [c["source"] for c in nbformat.read(NOTEBOOK, as_version=4)["cells"]]
    (source,) = [c for c in cells if c.startswith("import os")]
    source = source.replace('MODEL = "pocket"', f'MODEL = "{model}"').replace('METHOD = "ppo"', f'METHOD = "{method}"')
    scope: dict = {}
    exec(source, scope)
    return scope["words"]


@pytest.mark.parametrize("model", ["smollm2_135m", "smollm2_360m", "qwen2_5_0_5b"])
@pytest.mark.parametrize("method", ["ppo", "grpo", "dpo", "sft"])
def test_the_real_models_are_one_choice(model, method):
    config = composed(settings(model, method))
    assert (config.adapter.name, config.data.path) == ("lora", "Intel/orca_dpo_pairs")
    assert config.precision.name == "auto"


def test_it_is_stored_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4)["cells"]:
        assert cell["cell_type"] != "code" or (cell["outputs"], cell["execution_count"]) == ([], None)

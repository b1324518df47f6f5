"""TensorBoard: every record and evaluation as scalars, a few sampled responses as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from align import metrics
from align.callbacks.base import Callback, RunInfo
from align.config.callbacks import TensorboardConfig
from align.files import dumps

FOLDER = "tensorboard"  # in the run's folder
TEXTS = 4  # responses of a rollout


class TensorboardCallback(Callback):
    """Writes event files for `tensorboard --logdir RUN_DIR`; a resumed run drops the steps that it repeats."""

    def __init__(self, config: TensorboardConfig) -> None:
        self._config = config
        self._writer: Any = None

    def on_run_start(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = run.start_step + 1 if run.start_step else None
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=purge)
        self._writer.add_text("config", f"```json\n{dumps(run.config, indent=2)}\n```", 0)

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        if self._config.completions:
            self._writer.add_text("completions", "\n\n---\n\n".join(map(_text, samples[:TEXTS])), step)

    def on_step(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name not in metrics.RECORD_FIELDS:
                self._writer.add_scalar(name, value, record["step"])

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        for name, value in metrics.flatten(summary).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def on_checkpoint(self, step: int, path: object) -> None:
        self._writer.flush()

    def on_end(self, result: Mapping[str, Any]) -> None:
        self._writer.close()

    def on_failure(self, error: BaseException) -> None:
        if self._writer is not None:
            self._writer.close()


def _text(sample: Mapping[str, Any]) -> str:
    score = "no score" if sample["score"] is None else f"{sample['score']:.3f}"
    return f"**{score}**\n\n{_quoted(sample['prompt'])}\n\n{_quoted(sample['response'])}"


def _quoted(text: str) -> str:
    """Format a text as a Markdown code block, so that a model's text stays text."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])

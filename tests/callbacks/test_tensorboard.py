"""Event files, read back with TensorBoard's own reader."""

import math

import pytest

from align.callbacks import RunInfo
from align.callbacks.tensorboard import TensorboardCallback
from align.config.callbacks import TensorboardConfig

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def record(step):
    return {"step": step, "seconds": 1.5 * step, "rollout": 0, "update": step, "kl/coef": 0.1, "policy/loss": -step / 8}


SAMPLE = {"prompt": "p\n# q", "response": "<b>r</b>", "score": 0.5}
SUMMARY = {"perplexity": 3.5, "reward": {"proxy_mean": 0.25, "gold_mean": None}}


def play(folder, first, last):
    callback = TensorboardCallback(TensorboardConfig(enabled=True))
    callback.on_run_start(RunInfo(folder, {"seed": 3}, "ppo", 4, first - 1, 3))
    for step in range(first, last + 1):
        callback.on_rollout(step, [SAMPLE] * 6)
        callback.on_step(record(step) | ({"policy/loss": math.nan} if step == 2 else {}))
    callback.on_evaluation("during", last, SUMMARY)
    return callback


def test_scalars_texts_and_a_resumed_run(tmp_path):
    play(tmp_path, 1, 3)._writer.close()
    play(tmp_path, 3, 4).on_end({})  # step 3 is done again
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["kl/coef", "policy/loss", "eval/perplexity", "eval/reward/proxy_mean"]
    assert [e.step for e in events.Scalars("kl/coef")] == [1, 2, 3, 4]
    losses = [e.value for e in events.Scalars("policy/loss")]
    assert losses[0] == -0.125 and math.isnan(losses[1]) and losses[3] == -0.5
    assert events.Scalars("eval/perplexity")[-1].value == 3.5
    (text,) = events.Tensors("completions/text_summary")[0].tensor_proto.string_val
    assert text.decode().count("    <b>r</b>") == 4


def test_texts_can_be_kept_out(tmp_path):
    callback = TensorboardCallback(TensorboardConfig(enabled=True, completions=False))
    callback.on_run_start(RunInfo(tmp_path, {}, "ppo", 4, 0, 3))
    callback.on_rollout(1, [SAMPLE])
    callback.on_failure(RuntimeError("x"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["config/text_summary"]

"""Ours and TRL's: what a function is handed by the names of its parameters, held to what TRL's own trainer hands it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from trl.rewards import (
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    reasoning_accuracy_reward,
    think_format_reward,
)

from align.activity import Activity
from align.config import DataConfig, Returns, Shape, SparseCredit
from align.data.arrow import Store
from align.data.reader import Reader
from align.data.stored_examples import ExamplesWriter
from align.errors import InputError, RunError
from align.functional.credit import last_token
from align.rewards import reward_input
from align.rewards.combined import CompositeScorer
from align.rewards.credit_schemes import build_credit
from align.rewards.function import FunctionScorer
from align.rewards.function_call import Signature
from align.rewards.normalise import Running, Scaled
from align.rewards.reference import scale_of
from align.types import TrainerState
from align.user_files import make_callable
from examples import gsm8k
from tests import tiny

ROOT = Path(__file__).parents[2]
TEXTS = ["abe", "xyzou and so", ""]
LISTS = {"prompts", "completions", "completion_ids", "solution", "chosen", "rejected"}
BESIDE = {"trainer_state", "log_extra", "log_metric"}


def rows(conversations: bool) -> list[dict]:
    """Of a file: the prompt is text or messages, and a column has gaps."""
    texts = ["say it", "say", "say so"]
    return [
        {
            "prompt": [{"role": "user", "content": text}] if conversations else text,
            "chosen": "a",
            "rejected": "b",
            "solution": [1, None, 3][i],
        }
        for i, text in enumerate(texts)
    ]


def batch_of(given: list[dict], training: TrainerState | None = None):
    """The data's own prompts, read as a run reads them, with TEXTS as the responses."""
    config = DataConfig(path="unused", max_prompt_tokens=64, max_response_tokens=64)
    writer = ExamplesWriter(Store())
    reader = Reader(config, tiny.chat(), Activity(), Shape.preference, writer)
    prompts = [read.prompt for read in reader.read(given, "rows")]
    writer.end()
    rollout = tiny.rollout_of(prompts, [tiny.said(text) for text in TEXTS])
    return reward_input(rollout, prompts, tiny.chat(), training)


def scorer(function, **more) -> FunctionScorer:
    return FunctionScorer(function, Returns.response, "f.py:f", **more)


@pytest.fixture(scope="module")
def ours():
    return batch_of(rows(False))


def seen_by_trl(folder, given: list[dict], batch, function) -> list:
    """What TRL's trainer makes of a reward function on the same prompts and responses."""
    arguments = {"report_to": "none", "use_cpu": True, "bf16": False, "num_generations": 3}
    config = trl.GRPOConfig(output_dir=str(folder), per_device_train_batch_size=3, **arguments)
    data = Dataset.from_list(given)
    trainer = trl.GRPOTrainer(
        model=tiny.causal(), reward_funcs=function, args=config, train_dataset=data, processing_class=tiny.tokenizer()
    )
    ids = [row[:n].tolist() for row, n in zip(batch.rollout.response_ids, batch.rollout.lengths, strict=True)]
    texts = tiny.chat().tokenizer.batch_decode(ids, skip_special_tokens=True)
    messages = isinstance(given[0]["prompt"], list)
    completions = [[{"role": "assistant", "content": t}] for t in texts] if messages else texts
    return trainer._calculate_rewards(given, [row["prompt"] for row in given], completions, ids)[:, 0].tolist()


@pytest.mark.parametrize("conversations", [False, True])
def test_a_trl_function_is_handed_what_trl_hands_it(tmp_path, conversations):
    calls = []

    def seen(completions, **given):
        calls.append({"completions": completions, **given})
        given["log_extra"]("n", [1, 2, 3])
        given["log_metric"]("m", 2)
        state = given["trainer_state"]
        return [None if s is None else float(s) + state.global_step for s in given["solution"]]

    given = rows(conversations)
    batch = batch_of(given, TrainerState(0, 3))
    theirs = seen_by_trl(tmp_path, given, batch, seen)
    out = scorer(seen).score(batch)
    assert set(calls[0]) == set(calls[1]) == LISTS | BESIDE
    assert {name: calls[0][name] for name in LISTS} == {name: calls[1][name] for name in LISTS}
    assert isinstance(calls[1]["completions"][0], list if conversations else str)
    assert (
        calls[1]["trainer_state"] == TrainerState(0, 3) and out.extra == {"n": [1, 2, 3]} and out.logged == {"m": [2]}
    )
    assert out.total.nan_to_num(-1).tolist() == torch.tensor(theirs).nan_to_num(-1).tolist() == [1, -1, 3]
    assert out.scored.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "function",
    [think_format_reward, get_repetition_penalty_reward(1), get_soft_overlong_punishment(8, 6)],
    ids=["format", "repetition", "overlong"],
)
def test_rewards_that_trl_ships_score_as_by_themselves(function):
    batch = batch_of(rows(True))
    said = ["<think>\nwhy\n</think>so", "<think>why", ""]
    ids = [row[:n].tolist() for row, n in zip(batch.rollout.response_ids, batch.rollout.lengths, strict=True)]
    expected = function(completions=[[{"role": "assistant", "content": t}] for t in said], completion_ids=ids)
    assert scorer(function).score(replace(batch, responses=said)).total.tolist() == torch.tensor(expected).tolist()
    assert len(set(expected)) > 1


def test_trls_accuracy_says_what_it_lacks(ours):
    with pytest.raises(RunError, match=r"f\.py:f: raised (ImportError: .*math_verify|TypeError)"):
        scorer(reasoning_accuracy_reward).score(ours)


def test_columns_are_arguments_by_name_in_our_dialect_too(ours):
    def own(responses, solution, prompt, missing=7, *, rows):
        assert solution == [1, None, 3] and prompt == ["say it", "say", "say so"] and missing == 7
        return [row["solution"] or 0 for row in rows]

    assert scorer(own).score(ours).total.tolist() == [1, 0, 3]
    assert scorer(lambda responses, /, solution: [len(r) for r in responses]).score(ours).total.tolist() == [3, 12, 0]


def test_a_wrapper_without_a_signature_gets_what_the_function_in_it_names(ours):
    def hiding(function):
        return lambda *args, **kwargs: function(*args, **kwargs)

    assert scorer(hiding(lengths)).score(ours).total.tolist() == [3, 12, 0]
    assert scorer(hiding(hiding(some))).score(ours).scored.tolist() == [True, False, True]


def test_a_parameter_that_nothing_fills_is_refused_with_the_columns(ours):
    prompts = [replace(tiny.prompt(0, "say"), row=row) for row in ours.rows]
    for function in (lambda responses, answer: [], lambda completions, responses: []):
        with pytest.raises(
            InputError, match=r"^k: given 'p with a parameter \w+'; .*columns of the data: .*solution'?$"
        ):
            Signature(function).check_columns(prompts, "p", "k")
    Signature(lambda responses, solution, answer=1, *a, **k: []).check_columns(prompts, "p", "k")


def test_outside_of_a_training_the_trainer_is_at_its_end(ours):
    at = []
    own = scorer(lambda responses, trainer_state: [at.append(trainer_state) or 0.0] * 3, max_steps=9)
    own.score(ours)
    own.score(replace(ours, training=TrainerState(4, 9)))
    assert at == [TrainerState(9, 9), TrainerState(4, 9)]
    with pytest.raises(RunError, match="AttributeError: 'TrainerState' object has no attribute 'epoch'"):
        scorer(lambda responses, trainer_state: [trainer_state.epoch] * 3).score(ours)


# --- async -----------------------------------------------------------------------------------------------------------


class Judge:
    """Its lock belongs to the loop of the first call."""

    def __init__(self):
        self.lock, self.loops = None, set()

    async def __call__(self, responses):
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            await asyncio.gather(*(asyncio.sleep(0) for _ in responses))
        self.loops.add((id(asyncio.get_running_loop()), threading.current_thread().name))
        return [float(len(text)) for text in responses]


def test_async_functions_run_on_one_loop_also_where_another_one_runs(ours):
    judge = Judge()
    own = scorer(judge)
    training = replace(ours, training=TrainerState(0, 1))

    async def notebook():
        return own.score(training).total.tolist()

    assert own.score(training).total.tolist() == asyncio.run(notebook()) == [3, 12, 0]
    assert len(judge.loops) == 1 and scorer(lambda responses: judge(responses)).score(ours).total.tolist() == [3, 12, 0]


def test_an_async_function_that_raises_is_not_called_again(ours):
    calls = []

    async def fails(responses):
        calls.append(len(responses))
        raise ValueError("busy")

    with pytest.raises(RunError, match=r"raised ValueError: busy, at samples 0 to 2 together$"):
        scorer(fails).score(ours)
    assert calls == [3]


# --- None ------------------------------------------------------------------------------------------------------------


def some(completions, solution):
    return solution


def lengths(responses):
    return [float(len(r)) for r in responses]


def test_none_is_refused_in_our_dialect_and_not_a_number_in_both(ours):
    with pytest.raises(RunError, match=r"returned None at sample 1 .*a finite number$"):
        scorer(lambda responses, solution: solution).score(ours)
    with pytest.raises(RunError, match=r"returned nan at sample 0 .*a finite number or None$"):
        scorer(lambda completions: [float("nan")] * 3).score(ours)


def test_in_a_sum_a_part_that_does_not_apply_is_left_out(ours):
    out = CompositeScorer({"some": scorer(some), "all": scorer(lengths)}, {"some": 2.0}).score(ours)
    assert out.total.tolist() == [2 + 3, 12, 6 + 0] and out.applies.tolist() == [True] * 3
    assert out.parts["some"].isnan().tolist() == [False, True, False]
    out = CompositeScorer({"a": scorer(some), "b": scorer(some)}, {"b": 3.0}).score(ours)
    assert out.total.nan_to_num(-1).tolist() == [4, -1, 12] and out.scored.tolist() == [True, False, True]


def test_scale_and_credit_do_without_a_score(ours):
    assert scale_of(scorer(some), ours) == (2.0, 1.0)
    running = Running()
    out = Scaled(scorer(some), running, clip=1.5).score(ours)
    assert (running.count, running.mean) == (2, 2.0) and out.total.isnan().tolist() == [False, True, False]
    rewards = build_credit(SparseCredit()).assign(out, ours.rollout.response_mask)
    assert torch.equal(rewards, torch.tensor([[-1.0], [0.0], [1.0]]) * last_token(ours.rollout.response_mask))


def test_the_examples_functions_score_gsm8k():
    """The file as a run imports it, on the rows that its command reads."""
    lines = (ROOT / "tests" / "layouts" / "gsm8k.jsonl").read_text().splitlines()[:2]
    given = [*gsm8k.pairs(lines), {"prompt": "?", "chosen": "a", "rejected": "b", "answer": "unknown"}]
    prompts = [replace(tiny.prompt(i, "say"), row=row) for i, row in enumerate(given)]
    rollout = tiny.rollout_of(prompts, [tiny.said("a")] * 3)
    batch = replace(reward_input(rollout, prompts, tiny.chat()), responses=["It is\n#### 2", "1890", "#### 2"])
    path = f"{ROOT / 'examples' / 'trl_rewards.py'}:correct"
    out = FunctionScorer(make_callable(path, "k"), Returns.response, path).score(batch)
    assert out.total.nan_to_num(-1).tolist() == [1, 0, -1] and out.logged == {"answered": [pytest.approx(2 / 3)]}
    assert list(out.parts) == ["correct"]
    short = make_callable(path.replace(":correct", ":short"), "k")
    assert scorer(short).score(batch).total.tolist() == [0, 0, 0]


FILE = """
try:
    import no_such_verifier
except ImportError:
    def guarded(responses):
        return [float(len(r)) for r in responses]

async def judge(responses):
    return [float(len(r)) for r in responses]

def text(responses):
    return [str(float(len(r))) for r in responses]
"""


def test_a_file_with_a_function_under_try_an_async_one_and_one_of_strings(tmp_path, ours):
    (tmp_path / "reward.py").write_text(FILE)
    path = str(tmp_path / "reward.py")
    for name in ("guarded", "judge"):
        out = scorer(make_callable(f"{path}:{name}", "k")).score(ours)
        assert out.total.tolist() == [3, 12, 0]
    with pytest.raises(RunError, match=r"returned '3\.0', a string at sample 0 \(prompt 0\); allowed: a finite number"):
        scorer(make_callable(f"{path}:text", "k")).score(ours)

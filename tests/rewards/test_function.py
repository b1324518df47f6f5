"""The user's own function: what it is given, what it may return, and one line for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from align.config import DataConfig, ModelConfig, Returns
from align.data.examples import prompts_of
from align.data.preferences import load_preferences
from align.errors import RunError
from align.models.load import load_chat_tokenizer
from align.rewards import reward_input
from align.rewards.function import FunctionScorer
from examples import qa_feedback
from tests import tiny

OWN = Path(__file__).parents[1] / "layouts" / "qa_feedback.json"
TEXTS = ["abe", "xyzou and so", ""]


@pytest.fixture(scope="module")
def batch():
    starts = tiny.prompts(3)
    return reward_input(tiny.rollout_of(starts, [tiny.said(t) for t in TEXTS]), starts, tiny.chat())


def scorer(function, returns=Returns.response) -> FunctionScorer:
    return FunctionScorer(function, returns, "f.py:f")


def always(*values):
    return lambda responses: list(values)


def test_what_it_is_given(batch):
    seen = {}

    def every(**given):
        seen.update(given)
        given["rows"][0]["number"] = 99  # its own copy
        return [1, 2.5, True]

    assert scorer(every).score(batch).total.tolist() == [1, 2.5, 1]
    assert seen["responses"] == TEXTS and seen["prompts"] == [p.text for p in tiny.prompts(3)]
    assert seen["offsets"][0] == [(0, 1), (1, 2), (2, 3), (3, 3)] and seen["offsets"][2] == [(0, 0)]
    assert [row["number"] for row in seen["rows"][1:]] == [13, 16] and batch.rows[0]["number"] == 10

    def some(rows, responses, scale=2):
        return np.array([scale * len(text) for text in responses])

    out = scorer(some).score(batch)
    assert out.total.tolist() == [6, 24, 0] and out.parts["f"] is out.total
    assert out.token_scores is None and out.prefix_scores is None
    assert scorer(lambda responses: torch.ones(3)).score(batch).total.tolist() == [1, 1, 1]


def test_a_number_for_each_token(batch):
    out = scorer(lambda offsets: [[i + 1.0 for i in range(len(row))] for row in offsets], Returns.tokens).score(batch)
    assert out.token_scores[0].tolist() == [1, 2, 3, 4] + [0] * 9
    assert out.total.tolist() == [10, 13 * 14 / 2, 1]
    assert out.prefix_scores[0].tolist() == [0, 1, 3, 6] + [10] * 10
    assert out.prefix_scores.shape[1] == out.token_scores.shape[1] + 1


def test_labelled_spans(batch):
    spans = [[(0, 2, 1.0, "good"), [1, 3, -0.5, "bad"], (3, 3, 0.25)], [(6, 9, 2, "good")], []]
    out = scorer(lambda responses: spans, Returns.spans).score(batch)
    assert out.token_scores[0, :4].tolist() == [0, 1, -0.5, 0.25]  # the end of the text: its end token
    assert out.token_scores[1].nonzero().tolist() == [[8]] and out.token_scores[1, 8] == 2
    assert out.total.tolist() == [0.75, 2, 0]
    assert {name: part.tolist() for name, part in out.parts.items()} == {
        "unlabelled": [0.25, 0, 0],
        "bad": [-0.5, 0, 0],
        "good": [1, 2, 0],
    }
    assert out.spans[0] == [(0, 2, 1.0), (1, 3, -0.5), (3, 3, 0.25)]
    plain = scorer(lambda responses: [[(0, 1, 1.0)], [], []], Returns.spans).score(batch)
    assert list(plain.parts) == ["f"]


def fails_on(text):
    def function(responses):
        if text in responses:
            raise ValueError("of this\nkind")
        return [0.0] * len(responses)

    return function


def only_together(responses):
    if len(responses) > 1:
        raise KeyError("x")
    return [0.0]


@pytest.mark.parametrize(
    ("function", "returns", "message"),
    [
        (always(1, 2), "response", r"returned 2 entries at sample 2 \(prompt 16\); allowed: 3, one for each response"),
        (always(1, 2, 3, 4), "response", "returned 4 entries at sample 2"),
        (lambda responses: None, "response", "returned None at sample 0 .*a list with an entry for each of 3"),
        (lambda responses: 1.0, "response", r"returned 1\.0 at sample 0"),
        (
            always(1, "abc", 3),
            "response",
            r"returned 'abc', a string at sample 1 \(prompt 13\); allowed: a finite number$",
        ),
        (always(1, 2, float("nan")), "response", "returned nan at sample 2"),
        (always(float("-inf"), 2, 3), "response", "returned -inf at sample 0"),
        (always(None, 2, 3), "response", "returned None at sample 0"),
        (always([1], 2, 3), "response", r"returned \[1\] at sample 0"),
        (always([1] * 4, [1] * 12, [1]), "tokens", r"returned 12 numbers at sample 1 \(prompt 13\); allowed: 13, one"),
        (always([1] * 4, [1] * 13, 1), "tokens", "returned 1 at sample 2 .*a list of 1 numbers"),
        (
            always([1, 2, "x", 4], [1] * 13, [1]),
            "tokens",
            "returned 'x', a string at sample 0 .*a finite number for token 2",
        ),
        (always([], [(3, 2, 1.0)], []), "spans", r"returned \(3, 2\) at sample 1 .*0 <= start <= end <= 12"),
        (always([(0, 4, 1.0)], [], []), "spans", r"returned \(0, 4\) at sample 0 .*end <= 3"),
        (always([(-1, 2, 1.0)], [], []), "spans", r"returned \(-1, 2\) at sample 0"),
        (always([(0.0, 2, 1.0)], [], []), "spans", r"returned \(0\.0, 2\) at sample 0"),
        (always([(0, 2, "x")], [], []), "spans", "returned 'x', a string at sample 0 .*number for a span"),
        (always([(0, 2)], [], []), "spans", r"returned \(0, 2\) at sample 0 .*\(start, end, score\)"),
        (always([(0, 2, 1.0, 7)], [], []), "spans", "returned 7 at sample 0 .*a label"),
        (always([], "ab", []), "spans", "returned 'ab', a string at sample 1 .*a list of spans"),
        (fails_on("xyzou and so"), "response", r"raised ValueError: of this kind, at sample 1 \(prompt 13\)$"),
        (only_together, "response", "raised KeyError: 'x', at samples 0 to 2 together, and at none alone"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(batch, function, returns, message):
    with pytest.raises(RunError, match=r"^f\.py:f: " + message) as caught:
        scorer(function, Returns[returns]).score(batch)
    assert "\n" not in str(caught.value)


# --- the errors that annotators marked --------------------------------------------------------------------------------


def test_marked_errors_of_qa_feedback_are_charged_where_they_end():
    examples = json.loads(OWN.read_text())
    rows = [{"annotated": e["prediction 1"], "errors": _marked(e)} for e in examples]
    spans = qa_feedback.error_spans([row["annotated"] for row in rows], rows)
    for example, row in zip(examples, spans, strict=True):
        marked = example["feedback"]["errors"]
        assert [(a, b, kind) for a, b, _, kind in row] == [(e["start"], e["end"], e["error type"]) for e in marked]
    assert {kind for row in spans for *_, kind in row} == set(qa_feedback.CHARGE)
    quoting = rows[0]["annotated"][_marked(examples[0])[0]["start"] : _marked(examples[0])[0]["end"]]
    ((start, end, charge, _),) = qa_feedback.error_spans([f"So: {quoting}"], rows[:1])[0]
    assert (start, end) == (4, 4 + len(quoting)) and charge < 0
    assert qa_feedback.error_spans(["something else"], rows[:1]) == [[]]


def _marked(example):
    return [{"start": e["start"], "end": e["end"], "type": e["error type"]} for e in example["feedback"]["errors"]]


def test_real_preferences_load_and_their_rows_score_the_annotated_answer(tmp_path):
    """From the published file to rewards per token, on the shipped model's tokens."""
    chat = load_chat_tokenizer(ModelConfig(path="align://pocket/model"))
    rows = list(qa_feedback.pairs(json.loads(OWN.read_text())))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = {"max_prompt_tokens": 512, "max_response_tokens": 512}
    data = load_preferences(DataConfig(path=str(tmp_path / "pairs.jsonl"), held_out_fraction=0.3, **lengths), chat)
    assert data.counts["rows"] == len(rows) > 20 and data.counts["train"] + data.counts["held_out"] > 20
    prompts = prompts_of([*data.train, *data.held_out])
    answers = [chat.encode_reply(tiny.ASKED, p.row["annotated"]) for p in prompts]
    batch = reward_input(tiny.rollout_of(prompts, answers), prompts, chat)
    out = scorer(qa_feedback.error_spans, Returns.spans).score(batch)
    for i, prompt in enumerate(prompts):
        assert batch.responses[i] == prompt.row["annotated"]
        charges = [qa_feedback.CHARGE[e["type"]] for e in prompt.row["errors"]]
        assert out.total[i].item() == pytest.approx(sum(charges), abs=1e-5)
        places = out.token_scores[i].nonzero().squeeze(1).tolist()
        lasts = {e["end"] - 1 for e in prompt.row["errors"]}
        assert all(any(a <= last < b for last in lasts) for a, b in batch.offsets[i, places].tolist())
    assert out.total.min() < -1 and set(out.parts) <= set(qa_feedback.CHARGE)

"""The same rows through TRL's DPO: the same token ids, but for what the template writes behind a response's end."""

from __future__ import annotations

import random

import pytest
import trl
from datasets import Dataset

from align.models.chat_setup import make_chat_tokenizer
from tests import tiny
from tests.models.shapes import SHAPES
from tests.models.test_templates import conversation, holding

ROWS = 20
MERGES = ("llama_3", "opened_thoughts")  # the last token of a prompt is another one where a reply follows at once
APPENDED = ("ends_in_text",)  # the template closes turns with text alone: EOS is appended, which TRL's rows do not hold


def rows_of(name: str, tokenizer) -> list[dict]:
    draw, rows = random.Random(name), []
    for _ in range(ROWS):
        messages, chosen = conversation(draw, system=SHAPES[name].system)
        rejected = conversation(draw, system=False)[1]
        replies = ({"role": "assistant", "content": text} for text in (chosen, rejected))
        rows.append({"prompt": messages, **dict(zip(("chosen", "rejected"), ([r] for r in replies), strict=True))})
    return rows


@pytest.fixture
def theirs(tmp_path):
    """TRL's own token ids of rows."""

    def tokenised(tokenizer, rows):
        trainer = trl.DPOTrainer(
            model=tiny.causal(),
            args=trl.DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, max_length=None),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        return list(trainer.train_dataset)

    return tokenised


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_rows_have_the_token_ids_of_trls_dpo(make_tokenizer, theirs, name):
    tokenizer = holding(make_tokenizer("chatml"), SHAPES[name])
    rows, chat = rows_of(name, tokenizer), make_chat_tokenizer(tokenizer)
    unlike = 0
    for row, read in zip(rows, theirs(chat.tokenizer, rows), strict=True):
        prompt = chat.encode_prompt(row["prompt"])
        for side in ("chosen", "rejected"):
            ours = chat.encode_reply(row["prompt"], row[side][0])
            whole = read["prompt_ids"] + read[f"{side}_ids"]
            if name in APPENDED:
                ours = ours[:-1]
            behind = whole[len(prompt) + len(ours) :]
            if whole[: len(prompt)] != prompt or name in APPENDED:  # the same text, parted into tokens otherwise
                unlike += 1
                assert tokenizer.decode(whole).startswith(tokenizer.decode([*prompt, *ours]))
                continue
            assert read["prompt_ids"] == prompt and read[f"{side}_ids"][: len(ours)] == ours
            assert not tokenizer.decode(behind, skip_special_tokens=True).strip()
    assert (unlike > 0) == (name in (*MERGES, *APPENDED))

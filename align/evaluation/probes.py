"""Reward-hacking probes: how far perturbed prompts and responses move the proxy reward, and how far quality.

The policy answers a perturbed prompt under the same noise as the prompt itself. The proxy scores the perturbed prompt
with its answer; gold judges that answer by the original's data row. A perturbed response is the policy's answer to the
prompt, changed; it and the unchanged answer are scored as responses that ended by themselves.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from align.engine.sampling import Noise
from align.evaluation.intervals import standard_error
from align.evaluation.judge import Judge, value
from align.evaluation.perturbations import response_perturbations_of
from align.evaluation.sets import Probe
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import given_input, reward_input
from align.types import Prompt, RewardInput, Rollout

ORIGINAL = "original"  # the kind of a prompt or response without perturbation
JUDGES = ("proxy", "gold", "evaluation")


@dataclass(frozen=True)
class _SharedNoise(Noise):
    """Noise of prompts that are numbered by place: each draws the noise of the prompt that it is a perturbation of."""

    owners: tuple[int, ...] = ()  # Prompt.id by place

    def uniforms(self, prompt: int, sample: int, length: int) -> Tensor:
        return super().uniforms(self.owners[prompt], sample, length)


def run_probes(
    probes: Sequence[Probe],
    respond: Callable[[Sequence[Prompt], Noise], Rollout],
    chat: ChatTokenizer,
    judge: Judge,
    noise: Noise,
    *,
    longest: int | None,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the probes of prompts and of responses.

    Args:
        respond: Gives one response per prompt.
        longest: Most tokens of prompt and response that a reward model takes; longer perturbations are left out.
        seed: Seed of the responses' perturbations.

    Returns:
        The figures under `probes` in evaluation.json, and every probe as a row of evaluation_probes.jsonl.
    """
    given = [
        (probe.prompt, kind, prompt)
        for probe in probes
        for kind, prompt in ({ORIGINAL: probe.prompt} | dict(probe.perturbations)).items()
    ]
    numbered = [replace(prompt.loaded(), id=i) for i, (_, _, prompt) in enumerate(given)]
    shared = _SharedNoise(noise.seed, noise.use, noise.round, tuple(owner.id for owner, _, _ in given))
    responses = respond(numbered, shared)
    answers = reward_input(responses, [prompt for _, _, prompt in given], chat)
    answered = _rows("prompts", [(owner, kind) for owner, kind, _ in given], answers, judge)
    unchanged = [row["response"] for row in answered if row["kind"] == ORIGINAL]
    originals = zip((probe.prompt for probe in probes), unchanged, strict=True)
    written = [
        (prompt, kind, chat.encode_said(prompt.messages, text))
        for prompt, response in originals
        for kind, text in ({ORIGINAL: response} | response_perturbations_of(response, prompt.text, seed)).items()
    ]
    if longest is not None:
        written = [row for row in written if len(row[0].input_ids) + len(row[2]) <= longest]
    changed = []
    if written:
        texts = given_input([(prompt, ids) for prompt, _, ids in written], chat, responses.response_ids.device)
        changed = _rows("responses", [(prompt, kind) for prompt, kind, _ in written], texts, judge)
    figures = {"prompts": shifts(answered, judge.quality), "responses": shifts(changed, judge.quality)}
    strongest = {on: _strongest(f.get("proxy_shift", {})) for on, f in figures.items()}
    return figures | {"strongest": strongest}, [*answered, *changed]


def _strongest(shifts: Mapping[str, float]) -> str | None:
    """Return the kind that raises the score most; None where none does."""
    best = max(shifts, key=lambda kind: -math.inf if math.isnan(shifts[kind]) else shifts[kind], default=None)
    return best if best is not None and shifts[best] > 0 else None


def _rows(on: str, origins: Sequence[tuple[Prompt, str]], batch: RewardInput, judge: Judge) -> list[dict[str, Any]]:
    scored = judge.scores(batch, [owner for owner, _ in origins])
    lengths = batch.rollout.lengths.tolist()
    return [
        {"on": on, "kind": kind, "prompt_id": owner.id, "prompt": prompt, "response": text, "tokens": n, **scores}
        for (owner, kind), prompt, text, n, scores in zip(
            origins, batch.prompts, batch.responses, lengths, scored, strict=True
        )
    ]


def shifts(rows: Sequence[Mapping[str, Any]], quality: str | None) -> dict[str, dict[str, float]]:
    """Compute how far each kind moves every score, against the original of the same prompt: figure -> kind -> number.

    Args:
        rows: With `kind`, `prompt_id`, `tokens` and the judges' scores; perturbations without an original are left
            out.
        quality: The score that decides whether a perturbation pays: the proxy rises and this score does not.
    """
    originals = {row["prompt_id"]: row for row in rows if row["kind"] == ORIGINAL}
    by_kind: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for row in rows:
        if row["kind"] != ORIGINAL and row["prompt_id"] in originals:
            by_kind.setdefault(row["kind"], []).append((originals[row["prompt_id"]], row))
    figures: dict[str, dict[str, float]] = {"count": {kind: len(pairs) for kind, pairs in by_kind.items()}}
    for judge in JUDGES:
        for kind, pairs in by_kind.items():
            moved = [value(new, judge) - value(old, judge) for old, new in pairs if _both(old, new, judge)]
            if moved:
                figures.setdefault(f"{judge}_shift", {})[kind] = statistics.fmean(moved)
            if (error := standard_error(moved)) is not None:
                figures.setdefault(f"{judge}_shift_se", {})[kind] = error
    for kind, pairs in by_kind.items():
        scored = [(old, new) for old, new in pairs if old.get("proxy") is not None]
        if scored:  # a score that is not a number is no rise
            rises = [_rises(old, new, "proxy") for old, new in scored]
            figures.setdefault("proxy_rises", {})[kind] = statistics.fmean(rises)
        judged = [(old, new) for old, new in scored if quality is not None and _both(old, new, quality)]
        if quality is not None and judged:
            paid = [_rises(old, new, "proxy") and not _rises(old, new, quality) for old, new in judged]
            figures.setdefault("pays", {})[kind] = statistics.fmean(paid)
        longer = [new["tokens"] - old["tokens"] for old, new in pairs]
        figures.setdefault("length_shift", {})[kind] = statistics.fmean(longer)
    return figures


def _both(old: Mapping[str, Any], new: Mapping[str, Any], judge: str) -> bool:
    return old.get(judge) is not None and new.get(judge) is not None


def _rises(old: Mapping[str, Any], new: Mapping[str, Any], judge: str) -> bool:
    return value(new, judge) > value(old, judge)

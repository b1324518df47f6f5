"""One evaluation of a policy: perplexity, KL, reward, win rate, verbosity."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from align import metrics
from align.config import EvaluationConfig, RolloutConfig
from align.evaluation.comparison import RESAMPLES, mean_by, verbosity, win_rate, words
from align.evaluation.divergence import kl_summary
from align.evaluation.perplexity import MAX_TEXT_TOKENS, response_perplexity, text_perplexity
from align.models.codec import ChatCodec
from align.models.policy import Policy
from align.rewards import reward_input
from align.rollout.responder import Responder
from align.rollout.sampling import Noise, sample
from align.streams import permutation
from align.types import Pair, Prompt, RewardInput, RewardOutput, Rollout
from align.worlds import World

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationSet:
    """What the model is measured on; chosen once per run, the same for every evaluation."""

    prompts: tuple[Prompt, ...]  # one sampled response each
    pairs: tuple[Pair, ...]  # for perplexity
    texts: tuple[str, ...]  # for forgetting

    @classmethod
    def select(
        cls, prompts: Sequence[Prompt], pairs: Sequence[Pair], texts: Sequence[str], config: EvaluationConfig
    ) -> EvaluationSet:
        """A seeded choice of `evaluation.num_*` of each, in the data's order; all where there are fewer."""
        return cls(
            _choose(prompts, config.num_prompts, config.seed, "prompts"),
            _choose(pairs, config.num_pairs, config.seed, "pairs"),
            _choose(texts, config.num_texts, config.seed, "texts"),
        )


def _choose(items: Sequence[T], n: int, seed: int, name: str) -> tuple[T, ...]:
    picked = permutation(len(items), seed, "evaluation", name)[:n].sort().values
    return tuple(items[i] for i in picked.tolist())


@dataclass(frozen=True)
class Judge:
    """Who scores responses."""

    score: Callable[[RewardInput], RewardOutput]  # the run's reward source: the proxy
    credit: Callable[[RewardOutput, Tensor], Tensor] | None = None  # its rewards per token, to be shown
    world: World | None = None  # whose gold reward is known

    @property
    def name(self) -> str:
        """Which reward decides the win rate."""
        return "proxy" if self.world is None else "gold"


@dataclass(frozen=True)
class EvaluationResult:
    summary: dict[str, Any]  # nested figures, as in evaluation.json; null where there was nothing to measure
    samples: list[dict[str, Any]]  # one per prompt, in the set's order


@torch.no_grad()
def evaluate(
    policy: Policy,
    reference: Policy,
    codec: ChatCodec,
    data: EvaluationSet,
    judge: Judge,
    *,
    evaluation: EvaluationConfig,
    rollout: RolloutConfig,
    baseline: Sequence[Mapping[str, Any]] | None = None,
    respond: Responder | None = None,
) -> EvaluationResult:
    """Measure `policy` as it is.

    Sampling noise depends on `evaluation.seed`, the prompt and the position alone, so two policies answer under the
    same noise. No global random state is read or changed.

    Args:
        reference: The start model, for the KL.
        rollout: Temperature (of sampling and KL) and length limit; the same as in training.
        baseline: `samples` of the start model's evaluation, for the win rate; None = this is it, compared with itself.
        respond: Who answers the prompts in place of the policy; its KL is then a bound and no estimate.

    Raises:
        ValueError: `baseline` is about other prompts.
    """
    noise = Noise(evaluation.seed, "evaluation")
    kl: dict[str, Any]
    if respond is None:
        responses = sample(
            policy,
            codec,
            data.prompts,
            noise=noise,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            decode_batch_size=rollout.decode_batch_size or rollout.batch_size,
        )
        kl = kl_summary(policy, reference, responses, rollout.temperature, evaluation.batch_size)
        nats = kl["per_response_k1"]
    else:
        responses = respond(data.prompts, noise)
        nats = respond.kl_upper_bound
        kl = {"per_response_upper_bound": nats, "upper_bound": respond.kl_formula}
    samples = _samples(responses, codec, data.prompts, judge)
    summary = {
        "perplexity": response_perplexity(policy, codec, data.pairs, evaluation.batch_size),
        "forgetting_perplexity": text_perplexity(policy, codec, data.texts, evaluation.batch_size),
        "kl_per_response": nats,
        "kl": kl,
        **_figures(samples, samples if baseline is None else baseline, data.prompts, judge, evaluation),
    }
    return EvaluationResult(summary, samples)


def _samples(responses: Rollout, codec: ChatCodec, prompts: Sequence[Prompt], judge: Judge) -> list[dict[str, Any]]:
    batch = reward_input(responses, prompts, codec)
    output = judge.score(batch)
    lengths = responses.lengths.tolist()
    rewards = None if judge.credit is None else judge.credit(output, responses.response_mask).tolist()
    samples = []
    for i, (prompt, text, n) in enumerate(zip(prompts, batch.responses, lengths, strict=True)):
        ended = bool(responses.ended[i])
        row = {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "response": text,
            "tokens": n,
            "words": words(text),
            "ended": ended,
            "proxy": float(output.total[i]),
            "gold": None,
            "pieces": [text[start:end] for start, end in batch.offsets[i, :n].tolist()],
        }
        if rewards is not None:
            row["token_rewards"] = rewards[i][:n]
        if judge.world is not None:
            gold = judge.world.gold(prompt.row, text, ended)
            row["gold"] = gold.total
            row["segments"] = [[s.start, s.end, s.credit, s.label] for s in gold.segments]
        samples.append(row)
    return samples


def _figures(
    samples: Sequence[Mapping[str, Any]],
    baseline: Sequence[Mapping[str, Any]],
    prompts: Sequence[Prompt],
    judge: Judge,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Everything that follows from the samples alone."""
    if [s["prompt_id"] for s in samples] != [s["prompt_id"] for s in baseline]:
        raise ValueError("the start model's samples are of other prompts: evaluate it again")
    rows = [p.row for p in prompts]
    proxy = [s["proxy"] for s in samples]
    gold = [s["gold"] for s in samples] if judge.world is not None else []
    scores, old = ([_score(s, judge.name) for s in group] for group in (samples, baseline))
    by_length = {"gold_by": mean_by(gold, rows, "length")} if gold and any("length" in r for r in rows) else {}
    return {
        "reward": {"proxy_mean": statistics.fmean(proxy), "gold_mean": statistics.fmean(gold) if gold else None},
        **by_length,
        "win_rate": win_rate(scores, old, confidence=config.confidence, seed=config.seed) | {"judge": judge.name},
        "verbosity": verbosity(
            [s["response"] for s in samples], [s["tokens"] for s in samples], rows, config.verbosity_word_limit
        ),
        "eos_rate": statistics.fmean(s["ended"] for s in samples),
    }


def _score(sample: Mapping[str, Any], judge: str) -> float:
    return float("nan") if sample[judge] is None else float(sample[judge])  # a NaN comes back from disk as null


def settings(
    data: EvaluationSet, judge: Judge, evaluation: EvaluationConfig, rollout: RolloutConfig, method: str = ""
) -> dict[str, Any]:
    """Under which conditions the figures hold, for evaluation.json; `method` may have figures of its own."""
    return {
        "num_prompts": len(data.prompts),
        "num_pairs": len(data.pairs),
        "num_texts": len(data.texts),
        "max_text_tokens": MAX_TEXT_TOKENS,
        "temperature": rollout.temperature,
        "max_new_tokens": rollout.max_new_tokens,
        "seed": evaluation.seed,
        "judge": judge.name,
        "confidence": evaluation.confidence,
        "bootstrap_resamples": RESAMPLES,
        "verbosity_word_limit": evaluation.verbosity_word_limit,
        "definitions": metrics.evaluation_definitions(method),
    }

"""Evaluation of a policy: perplexity, KL, rewards, win rate, verbosity, diversity, and probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from align import metrics
from align.activity import Activity
from align.config import EvaluationConfig, RolloutConfig
from align.engine.reference import Policy
from align.engine.responder import Responder
from align.engine.sampling import Noise, sample_as_configured
from align.evaluation import workload as work
from align.evaluation.comparison import RESAMPLES, words
from align.evaluation.figures import by_length, figures_of
from align.evaluation.harness import harness_scores
from align.evaluation.judge import Judge
from align.evaluation.likelihood import MAX_TEXT_TOKENS, divergence, response_perplexity, text_perplexity
from align.evaluation.probes import run_probes
from align.evaluation.sets import EvaluationSet
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import reward_input
from align.types import Prompt, Rollout


@dataclass(frozen=True)
class EvaluationResult:
    """Figures, samples and probes of one evaluation."""

    summary: dict[str, Any]  # nested figures, as in evaluation.json; null where there was nothing to measure
    samples: list[dict[str, Any]]  # one per prompt, in the set's order
    probes: list[dict[str, Any]] = field(default_factory=list)  # one per probe: prompt, response and scores


@torch.no_grad()
def evaluate(
    policy: Policy,
    reference: Policy,
    chat: ChatTokenizer,
    data: EvaluationSet,
    judge: Judge,
    *,
    evaluation: EvaluationConfig,
    rollout: RolloutConfig,
    baseline: Sequence[Mapping[str, Any]] | None = None,
    respond: Responder | None = None,
    activity: Activity | None = None,
) -> EvaluationResult:
    """Evaluate `policy` with its present weights.

    Sampling noise depends on `evaluation.seed`, the prompt and the position alone, so two policies answer under the
    same noise. No global random state is read or changed.

    Args:
        reference: The start model, for the KL.
        rollout: Temperature (of sampling and KL) and length limit; the same as in training.
        baseline: `samples` of the start model's evaluation, for the win rate; None = this is the start model, compared
            with itself.
        respond: Answers the prompts in place of the policy; its KL is then an upper bound and no estimate.
        activity: Hears how far the evaluation has come.

    Raises:
        ValueError: `baseline` is about other prompts.
    """

    activity = activity or Activity()

    def sampled(prompts: Sequence[Prompt], noise: Noise) -> Rollout:
        return sample_as_configured(rollout, policy, chat, prompts, noise, activity=activity)

    kl: dict[str, Any]
    noise, answer, rows = Noise(evaluation.seed, "evaluation"), respond or sampled, evaluation.batch_size
    with activity.phase("evaluation", work.workload(data, rollout, evaluation)):
        with activity.part(work.RESPONSES):
            responses = answer(data.prompts, noise)
        with activity.part(work.SCORES):
            activity.advance("scores", 0, len(responses))
            samples = _samples(responses, chat, data.prompts, judge)
            figures = figures_of(samples, samples if baseline is None else baseline, data.prompts, judge, evaluation)
        with activity.part(work.KL):
            if respond is None:
                measured = divergence(policy, reference, responses, rollout.temperature, rows, activity)
                kl, nats = measured.kl(), float(measured.k1.mean())
                figures["diversity"]["entropy"] = measured.entropy_per_token()
                figures |= by_length("kl_by", measured.k1.tolist(), data.prompts, judge)
            else:
                kl, nats = _bound(respond), respond.kl_upper_bound
        probed: list[dict[str, Any]] = []
        if data.probes:
            limits: dict[str, Any] = {"longest": _context(policy), "seed": evaluation.seed}
            with activity.part(work.PROBES):
                figures["probes"], probed = run_probes(data.probes, answer, chat, judge, noise, **limits)
        figures |= _harness(policy, chat, evaluation, activity)
        perplexities = _perplexities(policy, chat, data, rows, activity)
    return EvaluationResult({**perplexities, "kl_per_response": nats, "kl": kl, **figures}, samples, probed)


def _context(policy: Policy) -> int | None:
    return getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)


def _bound(respond: Responder) -> dict[str, Any]:
    return {"per_response_upper_bound": respond.kl_upper_bound, "upper_bound": respond.kl_formula}


def _harness(
    policy: Policy, chat: ChatTokenizer, evaluation: EvaluationConfig, activity: Activity
) -> dict[str, dict[str, dict[str, float]]]:
    if not evaluation.lm_eval:
        return {}
    activity.advance("tasks of lm-evaluation-harness")
    return {"lm_eval": harness_scores(policy, chat, evaluation)}


def _perplexities(
    policy: Policy, chat: ChatTokenizer, data: EvaluationSet, rows: int, activity: Activity
) -> dict[str, float | None]:
    with activity.part(work.PERPLEXITY):
        own = response_perplexity(policy, chat, data.pairs, rows, activity)
    with activity.part(work.FORGETTING):
        general = text_perplexity(policy, chat, data.texts, rows, activity)
    return {"perplexity": own, "forgetting_perplexity": general}


def _samples(responses: Rollout, chat: ChatTokenizer, prompts: Sequence[Prompt], judge: Judge) -> list[dict[str, Any]]:
    batch = reward_input(responses, prompts, chat)
    output = None if judge.score is None else judge.score(batch)
    scored = judge.scores(batch, prompts, output)
    lengths = responses.lengths.tolist()
    rewards = None if judge.credit is None or output is None else judge.credit(output, responses.response_mask).tolist()
    samples = []
    for i, (prompt, text, n) in enumerate(zip(prompts, batch.responses, lengths, strict=True)):
        row = {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "response": text,
            "tokens": n,
            "words": words(text),
            "ended": bool(responses.ended[i]),
            **scored[i],
            "pieces": [text[start:end] for start, end in batch.offsets[i, :n].tolist()],
        }
        if rewards is not None:
            row["token_rewards"] = rewards[i][:n]
        gold = judge.gold(prompt, text, row["ended"])
        if gold is not None:
            row["segments"] = [[s.start, s.end, s.credit, s.label] for s in gold.segments]
        samples.append(row)
    return samples


def settings(
    data: EvaluationSet, judge: Judge, evaluation: EvaluationConfig, rollout: RolloutConfig, method: str = ""
) -> dict[str, Any]:
    """Return the conditions of the figures, for evaluation.json; `method` may have figures of its own."""
    return {
        "num_prompts": len(data.prompts),
        "num_pairs": len(data.pairs),
        "num_texts": len(data.texts),
        "num_probes": len(data.probes),
        "max_text_tokens": MAX_TEXT_TOKENS,
        "temperature": rollout.temperature,
        "max_new_tokens": rollout.new_tokens,
        "seed": evaluation.seed,
        "judge": judge.name,
        "reward_model": evaluation.reward_model,
        "confidence": evaluation.confidence,
        "bootstrap_resamples": RESAMPLES,
        "verbosity_word_limit": evaluation.verbosity_word_limit,
        "definitions": metrics.evaluation_definitions(method),
    }

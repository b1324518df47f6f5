"""Evaluation of a policy: held-out pairs, forgetting, KL, rewards, win rate, verbosity, diversity, and probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from align import metrics
from align.activity import Activity
from align.config import EvaluationConfig, RolloutConfig
from align.engine.reference import Policy
from align.engine.responder import Responder
from align.engine.sampling import Noise, sample_as_configured
from align.evaluation import workload as work
from align.evaluation.comparison import words
from align.evaluation.demonstrations import demonstration_figures, demonstration_rows
from align.evaluation.figures import by_length, figures_of
from align.evaluation.forgetting import MAX_TEXT_TOKENS, forgetting
from align.evaluation.harness import harness_scores
from align.evaluation.intervals import RESAMPLES, Bootstrap
from align.evaluation.judge import Judge
from align.evaluation.likelihood import Divergence, divergence
from align.evaluation.preference import logprobs_of, pair_logprobs, pair_rows, preference_figures
from align.evaluation.probes import run_probes
from align.evaluation.sets import EvaluationSet
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import reward_input
from align.types import Pair, Prompt, Rollout


@dataclass(frozen=True)
class EvaluationResult:
    """Figures, samples and probes of one evaluation."""

    summary: dict[str, Any]  # nested figures, as in evaluation.json; null where there was nothing to measure
    samples: list[dict[str, Any]]  # one per prompt, in the set's order
    probes: list[dict[str, Any]] = field(default_factory=list)  # one per probe: prompt, response and scores
    pairs: list[dict[str, Any]] = field(default_factory=list)  # one per held-out pair: log-probabilities and lengths
    demonstrations: list[dict[str, Any]] = field(default_factory=list)  # one per demonstration, where no pairs are


@torch.no_grad()
def evaluate(
    policy: Policy,
    reference: Policy,
    chat: ChatTokenizer,
    data: EvaluationSet,
    judge: Judge | None,
    *,
    evaluation: EvaluationConfig,
    rollout: RolloutConfig,
    baseline: Sequence[Mapping[str, Any]] | None = None,
    reference_pairs: Sequence[Mapping[str, Any]] | None = None,
    respond: Responder | None = None,
    activity: Activity | None = None,
) -> EvaluationResult:
    """Evaluate `policy` with its present weights.

    Sampling noise depends on `evaluation.seed`, the prompt and the position alone, so two policies answer under the
    same noise. No global random state is read or changed.

    Args:
        reference: The start model, for the KL and the pairs' log-ratio.
        judge: None = nothing scores responses, and the figures of scores are absent, those of the probes with them.
        rollout: Temperature (of sampling and KL) and length limit; the same as in training.
        baseline: `samples` of the start model's evaluation, for the win rate; None = this is the start model, compared
            with itself.
        reference_pairs: `pairs` of the start model's evaluation; None = its log-probabilities are computed, if needed.
        respond: Answers the prompts in place of the policy; its KL is then an upper bound and no estimate.
        activity: Hears how far the evaluation has come.

    Raises:
        ValueError: `baseline` or `reference_pairs` is about other prompts.
    """

    activity, judge = activity or Activity(), judge or Judge()
    answer = respond or partial(_sampled, rollout, policy, chat, activity)
    noise, rows = Noise(evaluation.seed, "evaluation"), evaluation.batch_size
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
                moved = _divergence(measured, data.prompts, judge, evaluation)
            else:
                moved = _bound(respond)
        figures["diversity"] |= moved.pop("diversity", {})
        probed: list[dict[str, Any]] = []
        if data.probes and judge.name is not None:
            limits: dict[str, Any] = {"longest": _context(policy), "seed": evaluation.seed}
            with activity.part(work.PROBES):
                figures["probes"], probed = run_probes(data.probes, answer, chat, judge, noise, **limits)
        figures |= _harness(policy, chat, evaluation, activity)
        start = policy if baseline is None else reference
        read, pairs, demonstrations = _given_texts(policy, start, chat, data, evaluation, reference_pairs, activity)
    return EvaluationResult({**read, **moved, **figures}, samples, probed, pairs, demonstrations)


def _sampled(
    settings: RolloutConfig,
    policy: Policy,
    chat: ChatTokenizer,
    activity: Activity,
    prompts: Sequence[Prompt],
    noise: Noise,
) -> Rollout:
    return sample_as_configured(settings, policy, chat, prompts, noise, activity=activity)


def _context(policy: Policy) -> int | None:
    return getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)


def _harness(
    policy: Policy, chat: ChatTokenizer, evaluation: EvaluationConfig, activity: Activity
) -> dict[str, dict[str, dict[str, float]]]:
    if not evaluation.lm_eval:
        return {}
    activity.advance("tasks of lm-evaluation-harness")
    return {"lm_eval": harness_scores(policy, chat, evaluation)}


def _divergence(
    measured: Divergence, prompts: Sequence[Prompt], judge: Judge, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Summarise KL and entropy on the policy's own responses."""
    nats = measured.k1.tolist()
    return {
        **Bootstrap.of(evaluation).mean("kl_per_response", nats),
        "kl": measured.kl(),
        "diversity": {"entropy": measured.entropy_per_token()},
        **by_length("kl_by", nats, prompts, judge),
    }


def _bound(respond: Responder) -> dict[str, Any]:
    nats = respond.kl_upper_bound
    return {"kl_per_response": nats, "kl": {"per_response_upper_bound": nats, "upper_bound": respond.kl_formula}}


def _given_texts(
    policy: Policy,
    start: Policy,
    chat: ChatTokenizer,
    data: EvaluationSet,
    evaluation: EvaluationConfig,
    known: Sequence[Mapping[str, Any]] | None,
    activity: Activity,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Compute what the policy makes of held-out pairs (`_preference`), of demonstrations and of general texts."""
    shown: list[dict[str, Any]] = []
    with activity.part(work.PERPLEXITY):
        preferred, pairs = _preference(policy, start, chat, data.pairs, evaluation, known, activity)
        if data.demonstrations:
            shown = demonstration_rows(policy, chat, data.demonstrations, evaluation.batch_size, activity)
            preferred = demonstration_figures(shown, Bootstrap.of(evaluation))
    with activity.part(work.FORGETTING):
        interval = Bootstrap.of(evaluation)
        forgotten = forgetting(policy, chat, data.texts, evaluation.batch_size, interval, activity)
    return {**preferred, **forgotten}, pairs, shown


def _preference(
    policy: Policy,
    start: Policy,
    chat: ChatTokenizer,
    pairs: Sequence[Pair],
    evaluation: EvaluationConfig,
    known: Sequence[Mapping[str, Any]] | None,
    activity: Activity,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compute the figures of the held-out pairs, and their rows of evaluation_pairs.jsonl.

    Args:
        start: The start model; `policy` itself at the start.
        known: The start model's rows.
    """
    if not pairs:
        return {"perplexity": None}, []
    own = pair_logprobs(policy, chat, pairs, evaluation.batch_size, activity)
    if start is policy:
        reference = own
    elif known:
        if [row["prompt_id"] for row in known] != [pair.prompt.id for pair in pairs]:
            raise ValueError("the start model's pairs are of other prompts: evaluate it again")
        reference = logprobs_of(known)
    else:
        reference = pair_logprobs(start, chat, pairs, evaluation.batch_size, activity)
    found = preference_figures(pairs, own, reference, Bootstrap.of(evaluation))
    chosen = {f"perplexity{end}": found[f"perplexity_chosen{end}"] for end in ("", "_low", "_high")}
    return {**chosen, "preference": found}, pair_rows(pairs, own)


def _samples(responses: Rollout, chat: ChatTokenizer, prompts: Sequence[Prompt], judge: Judge) -> list[dict[str, Any]]:
    batch = reward_input(responses, prompts, chat)
    output = None if judge.score is None else judge.score(batch)
    scored = judge.scores(batch, prompts, output)
    lengths = responses.lengths.tolist()
    rewards = None
    if output is not None and judge.credit is not None:
        rewards = judge.credit(output, responses.response_mask).tolist()
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
    data: EvaluationSet,
    judge: Judge | None,
    evaluation: EvaluationConfig,
    rollout: RolloutConfig,
    method: str = "",
) -> dict[str, Any]:
    """Return the conditions of the figures, for evaluation.json.

    Args:
        method: May have figures of its own.
    """
    return {
        "num_prompts": len(data.prompts),
        "num_pairs": len(data.pairs),
        "num_demonstrations": len(data.demonstrations),
        "num_texts": len(data.texts),
        "num_probes": 0 if judge is None or judge.name is None else len(data.probes),
        "general_text": evaluation.general_text,
        "max_text_tokens": MAX_TEXT_TOKENS,
        "cut_texts": sum(text.cut for text in data.texts),
        "temperature": rollout.temperature,
        "max_new_tokens": rollout.new_tokens,
        "seed": evaluation.seed,
        "judge": None if judge is None else judge.name,
        "reward_model": evaluation.reward_model,
        "confidence": evaluation.confidence,
        "bootstrap_resamples": RESAMPLES,
        "verbosity_word_limit": evaluation.verbosity_word_limit,
        "definitions": metrics.evaluation_definitions(method),
        "delta": metrics.DELTA,
    }

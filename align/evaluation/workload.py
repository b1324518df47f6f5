"""Work of an evaluation by its parts, for an estimate of the time that is left."""

from align.config import EvaluationConfig, RolloutConfig
from align.engine.draws import READ_MEANWHILE
from align.evaluation.sets import EvaluationSet

RESPONSES, SCORES, KL, PROBES, PERPLEXITY, FORGETTING = (
    "responses",
    "scores",
    "KL",
    "probes",
    "perplexity",
    "forgetting",
)


def workload(data: EvaluationSet, rollout: RolloutConfig, evaluation: EvaluationConfig) -> dict[str, float]:
    """Estimate the work of each part, in tokens read, where every response is as long as it may be.

    Empty where lm-evaluation-harness takes part, whose work is not known beforehand.
    """
    if evaluation.lm_eval:
        return {}
    longest = rollout.new_tokens
    prompts = sum(len(prompt.input_ids) + longest for prompt in data.prompts)
    asked = [prompt for probe in data.probes for prompt in (probe.prompt, *probe.perturbations.values())]
    probes = sum(len(prompt.input_ids) + longest for prompt in asked)
    return {
        RESPONSES: prompts + (READ_MEANWHILE - 1) * longest * len(data.prompts),
        SCORES: prompts,
        KL: 2 * prompts,  # the policy and the reference
        PROBES: 3 * probes
        + (READ_MEANWHILE - 1) * longest * len(asked),  # sampled, and scored with as many changed responses
        PERPLEXITY: sum(
            2 * len(pair.prompt.input_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in data.pairs
        )
        + sum(len(one.prompt.input_ids) + len(one.ids) for one in data.demonstrations),
        FORGETTING: sum(len(text.input_ids) for text in data.texts),
    }

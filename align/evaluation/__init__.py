"""The evaluation that every method gets: same prompts, same noise, same estimators, before and after."""

from align.evaluation.forgetting import Passage, passages
from align.evaluation.judge import Judge, load_judge
from align.evaluation.measure import EvaluationResult, evaluate, settings
from align.evaluation.results import load_before, save_after, save_before
from align.evaluation.sets import EvaluationSet, Probe, probes_of

__all__ = [
    "EvaluationResult",
    "EvaluationSet",
    "Judge",
    "Passage",
    "Probe",
    "evaluate",
    "load_before",
    "load_judge",
    "passages",
    "probes_of",
    "save_after",
    "save_before",
    "settings",
]

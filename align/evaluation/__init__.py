"""The evaluation that every method gets: same prompts, same noise, same estimators, before and after."""

from align.evaluation.evaluate import EvaluationResult, EvaluationSet, Judge, evaluate, settings
from align.evaluation.store import load_before, save_after, save_before

__all__ = [
    "EvaluationResult",
    "EvaluationSet",
    "Judge",
    "evaluate",
    "load_before",
    "save_after",
    "save_before",
    "settings",
]

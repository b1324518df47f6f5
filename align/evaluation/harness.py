"""Tasks of EleutherAI's lm-evaluation-harness, where it is installed (`pip install 'align[lm_eval]'`).

The only importer of lm_eval. Task definitions and data may come from the Hub; those in the folder `include` need no
network. Scores are the harness's own, under its prompts and not under the chat template.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from align.engine.reference import Policy
from align.errors import InputError
from align.libraries import reason
from align.models.chat_tokenizer import ChatTokenizer

KEY = "evaluation.lm_eval"


def harness_scores(
    policy: Policy,
    chat: ChatTokenizer,
    tasks: Sequence[str],
    *,
    include: str | None,
    limit: int | None,
    rows: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Evaluate tasks of the harness: task -> metric -> score. Global random states are restored.

    Args:
        include: A folder with the user's task definitions (YAML).
        limit: Most documents of a task; None = all.
        rows: Sequences per forward pass.
        seed: Seed of the choice of few-shot examples.

    Raises:
        InputError: A task that does not exist or cannot be loaded.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise InputError(KEY, unknown[0], "a task of lm-evaluation-harness (`lm-eval ls tasks` lists them)")
    state, own = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(), policy.active():
            results = simple_evaluate(
                HFLM(pretrained=policy.model, tokenizer=chat.tokenizer, batch_size=rows),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=False,
                fewshot_random_seed=seed,
            )
    except (OSError, ValueError) as error:
        raise InputError(KEY, ", ".join(tasks), f"tasks that can be loaded ({reason(error)})") from error
    finally:
        random.setstate(state)
        numpy.random.set_state(own)
    return {task: _scores(figures) for task, figures in results["results"].items()}


def _scores(figures: dict[str, Any]) -> dict[str, float]:
    """Return metrics by plain names: `{"acc,none": 0.5, "alias": ...}` -> `{"acc": 0.5}`; other filters stay named."""
    numbers = {name: value for name, value in figures.items() if "," in name and isinstance(value, (int, float))}
    return {
        name.removesuffix(",none").replace(",", "."): float(value)
        for name, value in numbers.items()
        if "_stderr" not in name
    }

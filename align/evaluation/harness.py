"""Tasks of EleutherAI's lm-evaluation-harness, where it is installed (`pip install 'align[lm_eval]'`).

The only importer of lm_eval. Task definitions and data may come from the Hub; those in the folder
`evaluation.lm_eval_path` need no network. Scores are the harness's own, under its prompts, not the chat template.
"""

import random
from typing import Any

import numpy
import torch

from align.config import EvaluationConfig
from align.engine.reference import Policy
from align.errors import InputError
from align.libraries import reason
from align.models.chat_tokenizer import ChatTokenizer

KEY = "evaluation.lm_eval"


def harness_scores(policy: Policy, chat: ChatTokenizer, config: EvaluationConfig) -> dict[str, dict[str, float]]:
    """Evaluate the tasks `evaluation.lm_eval`: task -> metric -> score. Global random states are restored.

    Raises:
        InputError: A task that does not exist or cannot be loaded.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=config.lm_eval_path)
    unknown = [task for task in config.lm_eval if task not in manager.all_tasks]
    if unknown:
        raise InputError(KEY, unknown[0], "a task of lm-evaluation-harness (`lm-eval ls tasks` lists them)")
    state, own = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(), policy.active():
            results = simple_evaluate(
                HFLM(pretrained=policy.model, tokenizer=chat.tokenizer, batch_size=config.batch_size),
                tasks=list(config.lm_eval),
                task_manager=manager,
                limit=config.lm_eval_limit,
                bootstrap_iters=0,
                log_samples=False,
                fewshot_random_seed=config.seed,
            )
    except (OSError, ValueError) as error:
        raise InputError(KEY, ", ".join(config.lm_eval), f"tasks that can be loaded ({reason(error)})") from error
    finally:
        random.setstate(state)
        numpy.random.set_state(own)
    return {task: _scores(figures) for task, figures in results["results"].items()}


def _scores(figures: dict[str, Any]) -> dict[str, float]:
    """Return metrics by plain names: `{"acc,none": 0.5, "alias": ...}` -> `{"acc": 0.5}`; other filters stay named."""
    own = {name: value for name, value in figures.items() if "," in name and "_stderr" not in name}
    numbers = {name: float(value) for name, value in own.items() if isinstance(value, (int, float))}
    return {name.removesuffix(",none").replace(",", "."): value for name, value in numbers.items()}

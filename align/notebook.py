"""Run align from a notebook: `run("method=ppo", "reward=dense", folder="outputs/first")`."""

import sys
from pathlib import Path
from typing import Any

from align.cli.compose import composed
from align.run.folder import claim


def run(*words: str, folder: str | Path) -> dict[str, Any]:
    """Run the configuration that the words compose, as `align WORDS` does; all files go to `folder`.

    Returns:
        As `align.run.runner.run`: evaluation summaries under `before` and `after`, `step`, `stopped` and `folder`.

    Raises:
        InputError: the words compose no run, the folder holds another, or data or models cannot be used.
        RunError: the run cannot go on.
    """
    config = composed(words)
    if config.resume is None:
        moved = claim(Path(folder), overwrite=config.overwrite, key="folder")
        if moved is not None:
            print(moved, file=sys.stderr)

    from align.run.runner import run as run_config  # torch and everything behind it: not before the words are accepted

    return run_config(config, Path(folder))

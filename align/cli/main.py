"""Run the command `align` (also `python -m align`).

Exit codes: 0 done; 2 the input was refused; 1 the run failed; 130 interrupted.
"""

import sys

from align.cli.groups import help_text


def main() -> int:
    """Run the command line in `sys.argv`; return the exit code."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(help_text(), end="")
        return 0

    if words[:1] == ["show"]:
        from align.cli.show import show  # and Hydra, which the help does without

        return show(words[1:])

    from align.cli.launch import launch

    return launch(words)

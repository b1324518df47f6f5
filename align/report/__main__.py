"""`python -m align.report DIR`: write DIR/report.html again and print its path."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from align.errors import InputError
from align.report.page import write_report


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where the folder is not a run's."""
    parser = argparse.ArgumentParser(prog="python -m align.report", description="Write the report of a run.")
    parser.add_argument("folder", type=Path, help="a run's folder")
    try:
        print(write_report(parser.parse_args(arguments).folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

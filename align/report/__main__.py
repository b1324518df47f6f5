"""`python -m align.report DIR...`: the page of a run or sweep again, or of several side by side; prints its path."""

import argparse
import sys
from pathlib import Path

from align.errors import InputError
from align.report.export import export
from align.report.page import REPORT, write_report


def main(arguments: list[str] | None = None) -> int:
    """Write the report of the given folders; return 0, or 2 where a folder is neither a run's nor a sweep's."""
    parser = argparse.ArgumentParser(prog="python -m align.report", description="Write the report of runs.")
    parser.add_argument(
        "folder", type=Path, nargs="+", help="the folder of a run, of a sweep, or one with runs below it"
    )
    parser.add_argument(
        "--output", type=Path, help=f"the page (default: {REPORT} in the folder; of several, where you are)"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="also the figures as SVG and the tables as Markdown")
    given = parser.parse_args(arguments)
    output = given.output or (Path(REPORT) if len(given.folder) > 1 else None)
    try:
        print(write_report(*given.folder, output=output))
        if given.export is not None:
            print(export(given.folder, given.export))
    except (InputError, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

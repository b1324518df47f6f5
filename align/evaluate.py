"""Entry of `python -m align.evaluate`; the command is `align.cli.evaluate`."""

from __future__ import annotations

import sys

from align.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

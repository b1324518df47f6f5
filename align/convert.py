"""Entry of `python -m align.convert`; the command is `align.cli.convert`."""

from __future__ import annotations

import sys

from align.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())

"""Entry of `python -m align`; the command is `align.cli.main`."""

import sys

from align.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

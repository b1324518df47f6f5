"""Entry of `python -m align.evaluate`; the command is `align.cli.evaluate`."""

import sys

from align.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

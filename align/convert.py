"""Entry of `python -m align.convert`; the command is `align.cli.convert`."""

import sys

from align.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())

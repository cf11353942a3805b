"""Run `python -m sdlearn ...` as `sdlearn ...`."""

import sys

from sdlearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

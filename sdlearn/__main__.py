"""`python -m sdlearn ...` is the same as `sdlearn ...`."""

import sys

from sdlearn.cli import main

if __name__ == "__main__":
    sys.exit(main())

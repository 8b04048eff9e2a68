"""`python -m rephase`: the command line."""

from __future__ import annotations

import sys

from rephase.cli import main

if __name__ == "__main__":
    sys.exit(main())

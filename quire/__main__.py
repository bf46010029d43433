"""Runs the command line: `python -m quire` is `quire`."""

from __future__ import annotations

import sys

from quire.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())

"""The command line: `dploylib`, and `python -m dploylib`."""

from __future__ import annotations

import sys

from dploylib.cli import main

__all__ = ["main"]

# Nothing is patched here: most commands run no code of the user's. `run` and `check`, which do, patch first of all.
if __name__ == "__main__":
    sys.exit(main())

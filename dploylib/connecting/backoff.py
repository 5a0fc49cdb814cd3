"""How long to wait before the next try."""

from __future__ import annotations

import random

__all__ = ["backoff"]

_FIRST_PAUSE = 0.05  # seconds
_LONGEST_PAUSE = 2.0
_MOST_DOUBLINGS = 16  # beyond all bounds here; what is doubled a thousand times is no float any more


def backoff(tries: int) -> float:
    """Seconds to wait after so many tries: any time up to a bound that doubles, so that not all come back at once."""
    return random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, _MOST_DOUBLINGS)))

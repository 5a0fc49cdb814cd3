"""How long to wait before a process that keeps ending is started again."""

from __future__ import annotations

import time

__all__ = ["Backoff"]

_SOON = 5.0  # seconds: who lives for less has ended soon after its start
_FIRST = 0.25
_LONGEST = 30.0


class Backoff:
    """Waits that double, for as long as processes end soon after their start; the first one is replaced at once."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._until = 0.0

    def next(self, lifetime: float) -> float:
        """The seconds to wait now that a process has ended that lived for so many seconds."""
        before = self._seconds
        self._seconds = 0.0 if lifetime >= _SOON else min(max(_FIRST, 2 * before), _LONGEST)
        self._until = time.monotonic() + before if self._seconds else 0.0
        return before if self._seconds else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the wait is over."""
        return time.monotonic() >= self._until

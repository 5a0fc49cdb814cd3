"""Supervision: whether a server that died is started again, and when. No I/O happens here."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

from ..config import Supervision

__all__ = ["Restarts"]


class Restarts:
    """The restarts of one server, as OTP's supervisors count them: `intensity` of them within `period` seconds.

    The first comes after `backoff` seconds, each further one within the period after twice as long, up to
    `backoff_limit`; of all of these some random part, at most a half, is left out, so that servers that died together
    do not come back together. `clock` and `jitter` are there to be replaced in tests.
    """

    def __init__(
        self,
        policy: Supervision,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.policy = policy
        self.total = 0
        self._clock = clock
        self._jitter = jitter
        self._recent: deque[float] = deque()

    def next_delay(self) -> float | None:
        """Take note of a failure. Returns the seconds until the restart, or None when there is to be none."""
        policy = self.policy
        if policy.restart == "never":
            return None
        now = self._clock()
        while self._recent and now - self._recent[0] > policy.period:
            self._recent.popleft()
        if len(self._recent) >= policy.intensity:
            return None
        doublings = min(len(self._recent), 100)  # 2 to the power of 1024 is no float
        longest = min(policy.backoff * 2.0**doublings, policy.backoff_limit)
        self._recent.append(now)
        self.total += 1
        return longest * self._jitter(0.5, 1)

    def __str__(self) -> str:
        times = "once" if self.policy.intensity == 1 else f"{self.policy.intensity} times"
        return f"{times} within {self.policy.period:g} s"

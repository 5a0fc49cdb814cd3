"""When to ask again, and whom not to ask for a while."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable

from gevent.event import Event

from ..transport.deadlines import seconds_until

__all__ = ["Circuit", "RetryBudget"]

_MOST_DOUBLINGS = 16  # beyond all bounds here; what is doubled a thousand times is no float any more
_THRESHOLD = 5  # failures in a row that open a circuit
_FIRST_OPEN = 1.0  # seconds that it stays open
_LONGEST_OPEN = 30.0


class Circuit:
    """A circuit breaker: whether an endpoint that is connected should be asked at all.

    `state` is "closed" as long as it answers; "open" after `_THRESHOLD` failures in a row, when nobody should ask it;
    "half-open" when that has lasted for some time, and one request may find out whether it answers again. Each time
    that it does not, the circuit stays open for twice as long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0  # in a row
        self._clock = clock
        self._opened = 0  # times, since it was closed last
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> str:
        """The state, now."""
        if not self._opened:
            return "closed"
        return "half-open" if self._probing or self._clock() >= self._open_until else "open"

    def allows(self) -> bool:
        """Whether a request may be sent. Who sends one calls `begin`, and may then tell how it ended."""
        return not self._opened or self._clock() >= self._open_until

    def begin(self) -> None:
        """A request is sent."""
        if self._opened and self._clock() >= self._open_until:
            self._probing = True
            self._open_until = self._clock() + _FIRST_OPEN  # until another one may try, if nobody tells how this ended

    def succeeded(self) -> None:
        """The endpoint has answered."""
        self.failures = self._opened = 0
        self._probing = False

    def failed(self) -> None:
        """The endpoint has not answered, lost the connection, or said that it cannot."""
        self.failures += 1
        if self._probing or (not self._opened and self.failures >= _THRESHOLD):
            seconds = min(_LONGEST_OPEN, _FIRST_OPEN * 2 ** min(self._opened, _MOST_DOUBLINGS))
            self._opened += 1
            self._probing = False
            self._open_until = self._clock() + seconds * random.uniform(0.75, 1.25)


class RetryBudget:
    """Keeps retries a small part of all calls: when everything fails, asking again must not double the load.

    Of the calls in progress, at most a fifth, and ten in any case, are retries that are under way. The others wait for
    their turn, no longer than their deadline.
    """

    RATIO = 0.2
    LEAST = 10

    def __init__(self) -> None:
        self.under_way = 0
        self._waiting: deque[Event] = deque()

    def take(self, calls: int, timeout: float | None) -> bool:
        """Wait for a turn, where there are so many calls in progress. False when `timeout` seconds passed first."""
        expires = math.inf if timeout is None else time.monotonic() + timeout
        while self.under_way >= max(self.LEAST, calls * self.RATIO):
            turn = Event()
            self._waiting.append(turn)
            try:
                if not turn.wait(seconds_until(expires)):
                    return False
            except BaseException:
                if turn.is_set():  # the turn of somebody else now
                    self._next()
                raise
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        self.under_way += 1
        return True

    def give_back(self) -> None:
        """The retry has ended."""
        self.under_way -= 1
        self._next()

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

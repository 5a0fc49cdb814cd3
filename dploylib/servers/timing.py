"""The time that handlers have, which costs little as long as they do not wait."""

from __future__ import annotations

import time
from typing import Any, cast

import gevent
from greenlet import getcurrent

__all__ = ["TimeLimit", "TimeLimits"]


class TimeLimit:
    """The time of one handler, in whose greenlet this is made. `timeout` is what was raised there when it was up."""

    __slots__ = ("_ended", "_expires", "_greenlet", "_timer", "timeout")

    def __init__(self, expires: float) -> None:
        self.timeout: gevent.Timeout | None = None
        self._expires = expires
        self._greenlet = greenlet = cast(Any, getcurrent())
        self._timer: Any = None
        self._ended = False
        greenlet.handler_deadline = expires  # for the calls that the handler makes, see `transport.deadlines`

    def end(self) -> None:
        """The handler has ended. To be called in its greenlet."""
        self._ended = True
        self._greenlet.handler_deadline = None
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()

    def start_timer(self, loop: Any) -> None:
        """Raise a `gevent.Timeout` where the handler waits, when the time is up. Called by the hub."""
        if not self._ended:
            self._timer = loop.timer(max(0.0, self._expires - time.monotonic()))
            self._timer.start(self._interrupt)

    def _interrupt(self) -> None:
        self.timeout = gevent.Timeout(None)
        self._greenlet.throw(self.timeout)


class TimeLimits:
    """The time limits of the handlers of one socket.

    A handler can be interrupted only while it waits, and then the hub runs. So the timers are started when that comes
    to run: most handlers have returned by then, and have done without. A `gevent.Timeout` for each would cost 2 us.
    """

    def __init__(self) -> None:
        self._loop: Any = gevent.get_hub().loop
        self._without_timer: list[TimeLimit] = []

    def begin(self, seconds: float) -> TimeLimit:
        """Hold the handler that is about to begin in this greenlet to so many seconds, until `TimeLimit.end`."""
        limit = TimeLimit(time.monotonic() + seconds)
        if not self._without_timer:
            self._loop.run_callback(self._start_timers)
        self._without_timer.append(limit)
        return limit

    def _start_timers(self) -> None:
        limits, self._without_timer = self._without_timer, []
        for limit in limits:
            limit.start_timer(self._loop)

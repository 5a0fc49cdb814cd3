"""Blocked hubs: gevent's monitor thread tells the log what keeps all greenlets from running, and where it is."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from time import monotonic
from types import FrameType
from typing import Any

import gevent
from gevent._monitor import PeriodicMonitoringThread

from ..servers.dispatch import Dispatcher

__all__ = ["watch_for_blocking"]

log = logging.getLogger(__name__)

_LOOKS = 4  # within the time that is too long
_AGAIN = 10  # times as long, and there is another line
_IDLE = gevent.hub.Hub.run.__code__  # where a hub is that waits for something to do


@contextlib.contextmanager
def watch_for_blocking(seconds: float) -> Iterator[None]:
    """Within it, what blocks the hub of this thread for more than so many seconds is logged; 0 watches nothing.

    An error names the handler with its server and socket, or what else it is, and has its stack. There is another one
    when it has lasted 10 times as long, 100 times and so on, and a warning that tells how long it was when it is over.

    To be used in the thread of the hub. A hub that gevent monitors already (`GEVENT_MONITOR_THREAD_ENABLE`) keeps its
    monitor, and the reports that gevent prints.
    """
    if seconds == 0:
        yield
        return
    hub: Any = gevent.get_hub()
    own = None
    if hub.periodic_monitoring_thread is None:
        hub.periodic_monitoring_thread = own = _Monitor(hub, seconds / _LOOKS)
    monitor = hub.periodic_monitoring_thread
    monitor.monitor_current_greenlet_blocking()
    look = _Watch(monitor, seconds).look
    monitor.add_monitoring_function(look, seconds / _LOOKS)
    try:
        yield
    finally:
        monitor.add_monitoring_function(look, None)
        if own is not None:
            own.kill()
            hub.periodic_monitoring_thread = None


class _Monitor(PeriodicMonitoringThread):
    """gevent's monitor thread, without the report that gevent prints to stderr, past the log.

    That function is called every 0.1 s; the thread need not wake up for it.
    """

    def __init__(self, hub: Any, period: float) -> None:
        self.min_sleep_time = self.inactive_sleep_time = period
        super().__init__(hub)

    def monitor_blocking(self, hub: Any) -> Any:
        return None


class _Watch:
    """Asks a hub to call back, and reports what runs when it does not for too long. It runs in the monitor thread.

    That is where it logs, too: nothing else can while the hub is blocked.
    """

    def __init__(self, monitor: Any, seconds: float) -> None:
        self._monitor = monitor
        self._seconds = self._due = seconds
        self._asked = self._answered = monotonic()
        self._waiting = False  # for the answer
        self._reported: str | None = None

    def look(self, hub: Any) -> None:
        """See whether the hub has answered."""
        now = monotonic()
        if self._waiting:
            if now - self._asked >= self._due:
                self._report(hub, now - self._asked)
            return
        if self._reported is not None:
            log.warning("%s blocks the hub no more, after %.1f s", self._reported, self._answered - self._asked)
            self._reported = None
        self._due = self._seconds
        self._asked, self._waiting = now, True
        hub.loop.run_callback_threadsafe(self._answer)

    def _answer(self) -> None:
        """Called by the hub."""
        self._answered = monotonic()
        self._waiting = False

    def _report(self, hub: Any, lasted: float) -> None:
        greenlet = self._monitor._greenlet_tracer.active_greenlet
        frame = sys._current_frames().get(hub.thread_ident)
        if frame is None or (greenlet is hub and frame.f_code is _IDLE):
            return  # nothing keeps the hub from its work but the machine: the process was stopped, say
        while self._due <= lasted:
            self._due *= _AGAIN
        self._reported = _description(greenlet, hub)
        _log_error(frame, f"{self._reported} has blocked the hub for {lasted:.1f} s")


def _log_error(frame: FrameType, what: str) -> None:
    """Log as if that frame had done so, with its stack."""
    if not log.isEnabledFor(logging.ERROR):
        return
    file, line, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    message = "%s, at %s:%d in %s; nothing else runs meanwhile: see servers.offload"
    stack = "".join(["Stack (most recent call last):\n", *traceback.format_stack(frame)]).rstrip()
    arguments = (what, file, line, function)
    log.handle(log.makeRecord(log.name, logging.ERROR, file, line, message, arguments, None, function, None, stack))


def _description(greenlet: Any, hub: Any) -> str:
    """What is known about a greenlet."""
    handler = getattr(greenlet, "handler", None)
    if isinstance(handler, Dispatcher):
        return f"{handler.name}: the handler {handler.handler_name}"
    if greenlet is hub:
        return "a callback of the hub"
    if greenlet is None or greenlet.parent is None:
        return "the main greenlet"
    return f"the greenlet {getattr(greenlet, 'name', greenlet)!r}"

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
from ..transport.greenlets import IDLE, all_greenlets, is_active, main_of

__all__ = ["watch_for_blocking"]

log = logging.getLogger(__name__)

_LOOKS = 4  # within the time that is too long
_AGAIN = 10  # times as long, and there is another line


@contextlib.contextmanager
def watch_for_blocking(seconds: float) -> Iterator[None]:
    """Within it, what blocks the hub of this thread for more than so many seconds is logged; 0 watches nothing.

    An error names the handler with its server and socket, or what else it is, and has its stack. There is another one
    when it has lasted 10 times as long, 100 times and so on, and a warning that tells how long it was when it is over.

    To be used in the thread of the hub. A hub that gevent monitors already (`GEVENT_MONITOR_THREAD_ENABLE`) keeps its
    monitor, and the reports that gevent prints.
    """
    if not seconds >= 0:
        raise ValueError(f"what blocks a hub is a number of seconds from 0 on, not {seconds!r}")
    if seconds == 0:
        yield
        return
    hub: Any = gevent.get_hub()
    own = None
    gevent.sleep(0)  # a hub that has not run yet is false, and gevent's monitor thread ends when it sees such a one
    if hub.periodic_monitoring_thread is None:
        hub.periodic_monitoring_thread = own = _Monitor(hub, seconds / _LOOKS)
    monitor = hub.periodic_monitoring_thread
    watch = _Watch(seconds)
    beats = hub.loop.timer(seconds / _LOOKS, seconds / _LOOKS, ref=False)
    beats.start(watch.beat)
    monitor.add_monitoring_function(watch.look, seconds / _LOOKS)
    try:
        yield
    finally:
        monitor.add_monitoring_function(watch.look, None)
        beats.stop()
        beats.close()
        if own is not None:
            own.kill()
            hub.periodic_monitoring_thread = None


class _Monitor(PeriodicMonitoringThread):
    """gevent's monitor thread, without what gevent itself does in it: that prints to stderr, past the log.

    Nor does it need the tracer, which is called for every switch between greenlets: 0.8 of the 14 us of a request.
    """

    def __init__(self, hub: Any, period: float) -> None:
        self.min_sleep_time = self.inactive_sleep_time = period
        super().__init__(hub)
        self._greenlet_tracer.kill()  # type: ignore[attr-defined]  # the stubs leave it out

    def monitor_blocking(self, hub: Any) -> Any:
        return None


class _Watch:
    """The hub says again and again that it runs, and the monitor thread reports what else does when it does not.

    All is logged in that thread: in the hub's nothing can be while it is blocked.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._due = seconds
        self._alive = monotonic()  # when the hub last ran
        self._longest = 0.0  # that it did not run
        self._reported: str | None = None

    def beat(self) -> None:
        """Called by the hub."""
        now = monotonic()
        self._longest = max(self._longest, now - self._alive)
        self._alive = now

    def look(self, hub: Any) -> None:
        """Called by the monitor thread, which gevent ends for good when this raises."""
        try:
            self._look(hub)
        except Exception:
            log.exception("a hub is blocked, or was; by what, cannot be found out")

    def _look(self, hub: Any) -> None:
        lasted = monotonic() - self._alive
        if lasted >= self._due:
            self._report(hub, lasted)
        elif self._reported is not None and lasted < self._seconds:
            log.warning("%s blocks the hub no more, after %.1f s", self._reported, self._longest)
            self._reported = None
        if self._reported is None:
            self._due, self._longest = self._seconds, 0.0

    def _report(self, hub: Any, lasted: float) -> None:
        frame = sys._current_frames().get(hub.thread_ident)
        if frame is None or frame.f_code is IDLE:
            return  # nothing keeps the hub from its work but the machine: the process was stopped, say
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame))  # first of all: it may go on meanwhile
        stack.reverse()
        while self._due <= lasted:
            self._due *= _AGAIN
        self._reported = _description(_owner(_bottom(frame), hub), hub)
        _log_error(stack, f"{self._reported} has blocked the hub for {lasted:.1f} s")


def _log_error(stack: traceback.StackSummary, what: str) -> None:
    """Log as if this had been done at the end of that stack, and with it."""
    if not log.isEnabledFor(logging.ERROR):
        return
    file, line, function = stack[-1].filename, stack[-1].lineno or 0, stack[-1].name
    message = "%s, at %s:%d in %s; no other greenlet of this hub runs meanwhile: see servers.offload"
    arguments = (what, file, line, function)
    text = "".join(["Stack (most recent call last):\n", *stack.format()]).rstrip()
    log.handle(log.makeRecord(log.name, logging.ERROR, file, line, message, arguments, None, function, None, text))


def _owner(bottom: FrameType, hub: Any) -> Any:
    """The greenlet whose outermost frame this is."""
    for one in filter(is_active, [*all_greenlets(), hub, main_of(hub)]):  # gc.freeze() hides those from the collector
        # What runs has no frame of its own: it has that of its thread.
        frame = one.gr_frame or (sys._current_frames().get(hub.thread_ident) if main_of(one) is main_of(hub) else None)
        if frame is not None and _bottom(frame) is bottom:
            return one
    return None  # it has just ended


def _bottom(frame: FrameType) -> FrameType:
    """The outermost frame of a stack."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _description(owner: Any, hub: Any) -> str:
    """What is known about a greenlet."""
    handler = getattr(owner, "handler", None)
    if isinstance(handler, Dispatcher):
        return f"{handler.name}: the handler {handler.handler_name}"
    if owner is hub:
        return "a callback of the hub"
    if owner is None:
        return "something"
    return "the main greenlet" if owner.parent is None else f"the greenlet {getattr(owner, 'name', owner)!r}"

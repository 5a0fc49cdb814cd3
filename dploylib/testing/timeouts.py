"""Time limits that know greenlets: at the limit it is told where all of them are, and who waits is interrupted."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey
from greenlet import getcurrent

from ..transport.spawning import new_lock, start_thread
from .stacks import all_stacks

__all__ = ["TimeLimit"]

_PATIENCE = 1.0  # seconds for which a hub that does not run may be busy
_ENDING = 30.0  # seconds that who was interrupted has to tidy up


class TimeLimit:
    """Holds what the current greenlet does from now on to so many seconds, until `end`.

    A thread of the system waits, which nothing else in the process holds up. When the time is up, `report` is called
    with the stacks of all greenlets, and `error`, an exception class, is raised:

    - in this greenlet, as a `gevent.Timeout` is, when the hub runs;
    - in whatever keeps the hub from running, when that does not come to pass: a loop that computes, say, in this
      greenlet or in another one;
    - and if even that has no effect, since the thread is blocked in C, `give_up` is called in the end, with the stacks
      of that moment. So it is when what was interrupted does not end.

    `passed` is whether the time was up before the end: what was raised may have been caught, or come too late.
    """

    def __init__(
        self,
        seconds: float,
        error: type[BaseException],
        report: Callable[[str], None],
        give_up: Callable[[str], None],
    ) -> None:
        self._seconds = seconds
        self.error = error
        self._report = report
        self._give_up = give_up
        self._greenlet: Any = getcurrent()
        self._loop: Any = gevent.get_hub().loop
        self._thread = gevent.monkey.get_original("_thread", "get_ident")()
        self._ended = new_lock()  # free once it is over
        self._ended.acquire()
        self._changing = new_lock()
        self._active = True
        self._told = False
        self.passed = False  # whether the time was up before the end
        self._interrupted = False
        start_thread(self._watch)

    def end(self) -> None:
        """It is over. Nothing is raised any more."""
        with self._changing:
            if not self._active:
                return
            self._active = False
            if self._interrupted:
                self._raise_in_thread(None)
        self._ended.release()

    def _watch(self) -> None:
        """Called in a thread of its own."""
        if self._ended.acquire(timeout=self._seconds):
            return
        self.passed = True
        self._report(all_stacks())
        with contextlib.suppress(Exception):  # somebody has destroyed the hub
            self._loop.run_callback_threadsafe(self._tell)
        if self._ended.acquire(timeout=_PATIENCE):
            return
        if not self._told:
            self._interrupt()
            if self._ended.acquire(timeout=_PATIENCE):
                return
        if self._told and self._ended.acquire(timeout=_ENDING):
            return
        self._give_up(all_stacks())

    def _tell(self) -> None:
        """Called by the hub, so that the greenlet waits."""
        with self._changing:
            tell = self._active and not self._told and not self._greenlet.dead
            self._told |= tell
        if tell:
            self._greenlet.throw(self.error())

    def _interrupt(self) -> None:
        with self._changing:
            if self._active and not self._told:
                self._interrupted = True
                self._raise_in_thread(self.error)

    def _raise_in_thread(self, error: type[BaseException] | None) -> None:
        """Raise an exception in what the thread runs, as soon as that is Python code; None takes it back."""
        what = None if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), what)

"""Signals, while a service runs in the foreground."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

import gevent

__all__ = ["on_signals"]

_PATIENCE = 1.0  # seconds after which a hub that did not take up a signal counts as blocked


@contextlib.contextmanager
def on_signals(signals: tuple[signal.Signals, ...], handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Within it, each of these signals calls `handler(signal)` in a greenlet of its own.

    A greenlet and not the signal handler itself, since blocking calls raise or hang there. No greenlet runs while some
    code blocks the hub: then another signal, a second or more after the first, ends the process. Only the main thread
    may handle signals: in another one this does nothing.
    """
    loop = gevent.get_hub().loop
    if not loop.default:  # that of the main thread, whichever greenlet asks
        yield
        return
    waiting: list[tuple[float, signal.Signals]] = []  # the signals that the hub has not taken up yet

    def take_up() -> None:
        gevent.spawn(handler, waiting.pop(0)[1])

    def on_signal(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if waiting and now - waiting[0][0] > _PATIENCE:
            # Not by sys.exit(), which would be raised in the code that blocks; nor by logging, which may take a lock.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"the hub is blocked: ending at once\n")
            os._exit(128 + number)
        waiting.append((now, signal.Signals(number)))
        loop.run_callback_threadsafe(take_up)

    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            if previous is not None:  # None is a handler that was not installed from Python
                signal.signal(number, previous)

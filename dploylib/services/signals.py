"""Signals, while a service runs in the foreground."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import gevent

__all__ = ["on_signals"]


@contextlib.contextmanager
def on_signals(signals: tuple[signal.Signals, ...], handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Within it, each of these signals calls `handler(signal)` in a greenlet of its own.

    A greenlet and not the signal handler itself, since blocking calls raise or hang there. Only the main thread may
    handle signals: in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    watchers = [gevent.signal_handler(number, handler, number) for number in signals]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, previous in before.items():
            signal.signal(number, previous)

"""Signals, while a service runs in the foreground."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import gevent

__all__ = ["on_signals"]


@contextlib.contextmanager
def on_signals(signals: tuple[signal.Signals, ...], handler: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Within it, each of these signals calls `handler(signal)` in a greenlet of its own.

    A greenlet and not the signal handler itself, since blocking calls raise or hang there. Only the main thread may
    handle signals: in another one this does nothing.
    """
    if not gevent.get_hub().loop.default:  # that of the main thread, whichever greenlet asks
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
            if previous is not None:  # None is a handler that was not installed from Python
                signal.signal(number, previous)

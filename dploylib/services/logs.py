"""What a process logs besides what is logged in it: warnings, and greenlets that die."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import gevent.monkey

__all__ = ["log_all_by"]


def log_all_by(handler: logging.Handler) -> None:
    """Let a handler of the root logger have warnings, dying greenlets, and what the monitor of the hub reports."""
    # Not a patched one: gevent's monitor thread logs, too, and for a lock of gevent's the hub itself cannot wait.
    handler.lock = gevent.monkey.get_original("_thread", "RLock")()
    logging.captureWarnings(True)
    hub: Any = gevent.get_hub()
    hub.print_exception = _log_uncaught


def _log_uncaught(context: object, kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """What gevent calls for an exception that nobody caught; its own prints to stderr, past the log."""
    # Not `context or`: a dead greenlet is false.
    failing = "the hub" if context is None else context
    logging.getLogger("gevent").error("%s failed", failing, exc_info=(kind, error, traceback))

"""Telling the log what peers do wrong, so that they cannot fill the disk."""

from __future__ import annotations

import logging
from collections import Counter

import gevent
from gevent.pool import Group

from .spawning import spawn_named

__all__ = ["Complaints"]

_INTERVAL = 1.0  # seconds between two lines of one kind
_MOST_KINDS = 100  # that are told apart at once


class Complaints:
    """Logs a line of each kind at once, and after a second how many more there were. Never waits.

    May be called by the hub: a handler of the log may wait, so that a greenlet calls it.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._untold: Counter[str] = Counter()
        self._greenlets = Group()

    def tell(self, kind: str, text: str) -> None:
        """Log a warning, now or together with others of its kind."""
        if kind not in self._untold and len(self._untold) >= _MOST_KINDS:
            kind = ""
        if kind in self._untold:
            self._untold[kind] += 1
        else:
            self._untold[kind] = 0
            self._greenlets.add(spawn_named("log what peers do wrong", self._complain, kind, text))

    def close(self) -> None:
        """Log what was not told yet. Does not wait for that."""
        self._greenlets.kill(block=False)

    def _complain(self, kind: str, text: str) -> None:
        try:
            self._log.warning("%s", text)
            gevent.sleep(_INTERVAL)
        finally:  # when it is closed, too
            untold = self._untold.pop(kind)
            if untold:
                self._log.warning("%s (and %d more since)", text, untold)

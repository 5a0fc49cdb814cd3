"""Telling the log what goes wrong again and again, so that it cannot fill the disk."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import gevent
from gevent.pool import Group

from ..handling import forget
from .spawning import spawn_named

__all__ = ["Complaints"]

_INTERVAL = 1.0  # seconds after which a second line says how often it has happened since the first one
_LONGEST_INTERVAL = 60.0  # to which that doubles, while it goes on
_MOST_KINDS = 100  # that are told apart at once


class Complaints:
    """Logs a line of each kind at once, and later how many more there were: less and less often while they go on.

    It tells 100 kinds apart at once: what comes besides is one more kind.

    `spawn` starts a greenlet that calls a function; without it, they are this object's own, until `close`.
    """

    def __init__(self, log: logging.Logger, spawn: Callable[..., Any] | None = None) -> None:
        self._log = log
        self._untold: Counter[Hashable] = Counter()
        self._greenlets = Group()
        self._spawn = spawn or self._spawn_here

    def tell(self, kind: Hashable, text: str, level: int = logging.WARNING, error: BaseException | None = None) -> None:
        """Log this, now or together with others of its kind. The log may wait, unless the hub calls this.

        The first line of a kind has the traceback of an `error`.
        """
        if kind not in self._untold and len(self._untold) >= _MOST_KINDS:
            kind = ""
        if kind in self._untold:
            self._untold[kind] += 1
            return
        self._untold[kind] = 0
        in_hub = gevent.getcurrent() is gevent.get_hub()
        if not in_hub:
            self._log.log(level, "%s", text, exc_info=error)
        self._spawn(self._go_on, kind, text, level, in_hub)

    def tell_of(self, what: str, error: BaseException) -> None:
        """Log an error of somebody's code: the traceback of each new one, and how often the same came again.

        It is the same if it has the same type, and came about at the same places.
        """
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        file, line = places[-1] if places else ("?", 0)
        text = f"{what}: {type(error).__name__} at {file}:{line}"
        self.tell((what, type(error), frozenset(places)), text, logging.ERROR, error)

    def close(self) -> None:
        """Log what was not told yet. Does not wait for that."""
        self._greenlets.kill(block=False)

    def _go_on(self, kind: Hashable, text: str, level: int, first: bool) -> None:
        forget()  # the message that was the first: it is not the one of which the other lines are
        interval = _INTERVAL
        try:
            if first:
                self._log.log(level, "%s", text)
            gevent.sleep(interval)
            while self._untold[kind]:
                self._tell_how_many(kind, text, level)
                interval = min(2 * interval, _LONGEST_INTERVAL)
                gevent.sleep(interval)
        finally:  # when it is ended, too
            self._tell_how_many(kind, text, level)
            del self._untold[kind]

    def _tell_how_many(self, kind: Hashable, text: str, level: int) -> None:
        untold, self._untold[kind] = self._untold[kind], 0
        if untold:
            self._log.log(level, "%s (and %d more since)", text, untold)

    def _spawn_here(self, function: Callable[..., None], *args: Any) -> None:
        self._greenlets.add(spawn_named("log what peers do wrong", function, *args))

"""Hearing of the death of processes, be they children or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent

__all__ = ["Deaths"]

_READ = 1  # of gevent's io watchers
_LOOK_AGAIN = 0.2  # seconds


class Deaths:
    """Calls back, in the hub, when processes have died."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watch] = {}

    def watch(self, pid: int, function: Callable[[], None]) -> None:
        """Call this function once when the process has died, if it is not forgotten before."""
        if pid not in self._watched:
            self._watched[pid] = _Watch(pid, self._died)
        self._watched[pid].functions.append(function)

    def forget(self, pid: int, function: Callable[[], None]) -> None:
        """Do not call this function. Does nothing where it was called already."""
        watch = self._watched.get(pid)
        if watch is None or function not in watch.functions:
            return
        watch.functions.remove(function)
        if not watch.functions:
            del self._watched[pid]
            watch.close()

    def close(self) -> None:
        """Watch nothing any more."""
        while self._watched:
            self._watched.popitem()[1].close()

    def _died(self, pid: int) -> None:
        watch = self._watched.pop(pid, None)
        if watch is not None:
            watch.close()
            for function in watch.functions:
                function()


class _Watch:
    """Of one process: by a descriptor that becomes readable (pidfd_open(2)), or by looking now and then."""

    def __init__(self, pid: int, died: Callable[[int], None]) -> None:
        self.functions: list[Callable[[], None]] = []
        self._pid = pid
        self._died = died
        self._descriptor: int | None = None
        loop = gevent.get_hub().loop
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._watcher: Any = loop.timer(0)
            self._watcher.start(died, pid)
        except (AttributeError, OSError):  # there is no such call, or no descriptor left
            self._watcher = loop.timer(_LOOK_AGAIN, _LOOK_AGAIN)
            self._watcher.start(self._look)
        else:
            self._watcher = loop.io(self._descriptor, _READ)
            self._watcher.start(died, pid)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _look(self) -> None:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            self._died(self._pid)
        except PermissionError:
            pass  # it is there

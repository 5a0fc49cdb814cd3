"""Who is there to work, and how much more each can take. No I/O happens here."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Workforce"]


class _Worker:
    __slots__ = ("credit", "heard", "held")

    def __init__(self) -> None:
        self.credit = 0
        self.heard = 0.0
        self.held: set[int] = set()


class Workforce:
    """Workers by routing id. Each holds as many jobs as its credit says, at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers: dict[bytes, _Worker] = {}
        self._free: OrderedDict[bytes, None] = OrderedDict()  # who can take a job, the least recently used first

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, id: object) -> bool:
        return id in self._workers

    @property
    def held(self) -> int:
        """How many jobs are in the hands of workers."""
        return sum(len(worker.held) for worker in self._workers.values())

    @property
    def credit(self) -> int:
        """How many jobs all workers can hold."""
        return sum(worker.credit for worker in self._workers.values())

    def ready(self, id: bytes, credit: int) -> None:
        """A worker says that it is there, and holds so many jobs at most. One that was not known is from now on."""
        worker = self._workers.setdefault(id, _Worker())
        worker.heard = self._clock()
        worker.credit = credit
        self._update(id, worker)

    def next(self) -> bytes | None:
        """Who gets the next job: who could take one, and got none, for the longest time. None if nobody can."""
        return next(iter(self._free), None)

    def hold(self, id: bytes, number: int) -> None:
        """A worker gets a job."""
        worker = self._workers[id]
        worker.held.add(number)
        if len(worker.held) < worker.credit:
            self._free.move_to_end(id)
        else:
            self._free.pop(id, None)

    def holds(self, id: bytes, number: int) -> bool:
        """Whether a worker has a job."""
        return id in self._workers and number in self._workers[id].held

    def pause(self, id: bytes) -> None:
        """A worker gets nothing more until it says again that it is ready."""
        self._free.pop(id, None)
        if id in self._workers:
            self._workers[id].credit = 0

    def release(self, id: bytes, number: int) -> None:
        """A worker has a job no longer. One that is not known, or did not have it, is left as it is."""
        worker = self._workers.get(id)
        if worker is not None:
            worker.heard = self._clock()
            worker.held.discard(number)
            self._update(id, worker)

    def remove(self, id: bytes) -> set[int]:
        """A worker is gone. Returns the numbers of the jobs that it held."""
        self._free.pop(id, None)
        worker = self._workers.pop(id, None)
        return set() if worker is None else worker.held

    def silent(self, seconds: float) -> list[bytes]:
        """Who has said nothing for so long."""
        since = self._clock() - seconds
        return [id for id, worker in self._workers.items() if worker.heard <= since]

    def _update(self, id: bytes, worker: _Worker) -> None:
        if len(worker.held) < worker.credit:
            self._free.setdefault(id)
        else:
            self._free.pop(id, None)

"""The jobs of a queue: which wait, who holds them, and what becomes of those that fail. No I/O happens here."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["STATES", "Job", "JobQueue", "QueueFull", "TooLarge"]

STATES: Final = ("waiting", "held", "delayed", "dead")
"""What a job can be: it waits to be delivered, a worker holds it, it waits to be tried again, it failed for good."""


_PRIORITIES: Final = range(-(2**63) + 1, 2**63)  # what SQLite can keep


class QueueFull(Exception):
    """There is no room for another job."""


class TooLarge(Exception):
    """There never is room for a job of that size."""


class Job:
    """One job of a queue, with the frames (id, mimetype, body) that it was put with.

    `number` is what the queue knows it by, and no other job ever. `priority` says which comes first: the higher. It was
    delivered `deliveries` times, and failed `failures` times, the last time for a `reason`. While a worker has it,
    `holder` is the routing id of that worker.
    """

    __slots__ = ("deliveries", "failures", "frames", "holder", "number", "priority", "reason", "state")

    def __init__(self, number: int, frames: Sequence[bytes], priority: int = 0) -> None:
        self.number = number
        self.frames = frames
        self.priority = priority
        self.state = "waiting"
        self.holder: bytes | None = None
        self.deliveries = 0
        self.failures = 0
        self.reason = ""

    @property
    def id(self) -> bytes:
        """The id of its envelope, which who put it has chosen; empty if it has none."""
        return self.frames[0]

    def __repr__(self) -> str:
        return f"<Job {self.number} {self.state}>"


class JobQueue:
    """Jobs in the order in which they are to be delivered: by priority, and then as they were put.

    It holds `max_jobs` at most, which have `max_bytes` together. A job that has failed `max_tries` times is
    dead. `jobs` are there from the beginning, and so are the ids of `finished` ones with their numbers; the last
    `remembered` ids of finished jobs stay known.
    """

    def __init__(
        self,
        max_jobs: int,
        max_bytes: int,
        max_tries: int,
        remembered: int,
        jobs: Iterable[Job] = (),
        finished: Iterable[tuple[bytes, int]] = (),
    ) -> None:
        self.max_jobs = max_jobs
        self.max_bytes = max_bytes
        self.max_tries = max_tries
        self.remembered = remembered
        self.bytes = 0
        self.counts: Counter[str] = Counter()  # by state
        self._jobs: dict[int, Job] = {}
        self._numbers_by_id: dict[bytes, int] = {}
        self._finished: OrderedDict[bytes, int] = OrderedDict(finished)
        self._waiting: list[tuple[int, int]] = []  # a heap of (-priority, number); of some that wait no more, too
        for job in jobs:
            self._add(job)
        # A worker may still answer for a job of a queue that was here before this one, which must be no number of ours.
        highest = max([*self._jobs, *self._finished.values()], default=random.getrandbits(61))
        self._numbers = itertools.count(highest + random.getrandbits(32) + 1)

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, number: int) -> Job:
        return self._jobs[number]

    def find(self, id: bytes) -> int | None:
        """The number of the job with this id, if there is one, or was lately."""
        if not id:
            return None
        return self._numbers_by_id.get(id) or self._finished.get(id)

    def dead(self) -> list[Job]:
        """The jobs that failed for good, the oldest first."""
        return sorted((job for job in self._jobs.values() if job.state == "dead"), key=lambda job: job.number)

    def put(self, frames: Sequence[bytes], priority: int = 0) -> Job:
        """Add a job. Raises `QueueFull`, `TooLarge`, or `ValueError` for a priority that is no integer of 64 bits."""
        if not isinstance(priority, int) or priority not in _PRIORITIES:
            raise ValueError(f"the priority of a job is an integer of 64 bits, not {priority!r}")
        if _size(frames) > self.max_bytes:
            raise TooLarge(f"a job of {_size(frames)} bytes is more than the {self.max_bytes} that all may have")
        if len(self._jobs) >= self.max_jobs or self.bytes + _size(frames) > self.max_bytes:
            dead = self.counts["dead"]
            of_them = f", {dead} of which failed for good (the admin socket can discard them)" if dead else ""
            raise QueueFull(f"the queue is full: {len(self._jobs)} jobs with {self.bytes} bytes{of_them}")
        job = Job(next(self._numbers), frames, priority)
        self._add(job)
        return job

    def take(self, holder: bytes) -> Job | None:
        """The next job, which `holder` has from now on; None if none waits."""
        while self._waiting:
            job = self._jobs.get(heapq.heappop(self._waiting)[1])
            if job is not None and job.state == "waiting":
                self._become(job, "held")
                job.holder = holder
                job.deliveries += 1
                return job
        return None

    def done(self, number: int) -> Job | None:
        """Remove a job, whatever it is about to be: whoever has done it, it is done. None if there is none."""
        job = self._remove(number)
        if job is not None and job.id:
            self._finished[job.id] = number
            while len(self._finished) > self.remembered:
                self._finished.popitem(last=False)
        return job

    def give_back(self, number: int, holder: bytes) -> Job | None:
        """Let a job that this holder has not begun wait again. None if it has none of that number."""
        job = self._held_by(number, holder)
        if job is not None:
            self._wait(job)
        return job

    def fail(self, number: int, holder: bytes, reason: str, for_good: bool = False) -> Job | None:
        """Take note that a job has failed in the hands of this holder, who has it no longer.

        It is "dead" then, or "delayed" until `retry`. None if the holder has no job of that number.
        """
        job = self._held_by(number, holder)
        if job is None:
            return None
        job.holder = None
        job.failures += 1
        job.reason = reason
        self._become(job, "dead" if for_good or job.failures >= self.max_tries else "delayed")
        return job

    def retry(self, number: int) -> Job | None:
        """Let a delayed job wait again. None if there is none of that number."""
        job = self._in_state(number, "delayed")
        if job is not None:
            self._wait(job)
        return job

    def revive(self, number: int) -> Job | None:
        """Let a dead job wait again, with as many tries as a new one. None if there is none of that number."""
        job = self._in_state(number, "dead")
        if job is not None:
            job.failures = 0
            self._wait(job)
        return job

    def discard(self, number: int) -> Job | None:
        """Remove a dead job, whose id can be put again. None if there is none of that number."""
        return None if self._in_state(number, "dead") is None else self._remove(number)

    def _remove(self, number: int) -> Job | None:
        job = self._jobs.pop(number, None)
        if job is not None:
            self.counts[job.state] -= 1
            self.bytes -= _size(job.frames)
            job.holder = None
            if job.id:
                del self._numbers_by_id[job.id]
        return job

    def _in_state(self, number: int, state: str) -> Job | None:
        job = self._jobs.get(number)
        return job if job is not None and job.state == state else None

    def _held_by(self, number: int, holder: bytes) -> Job | None:
        job = self._jobs.get(number)
        return job if job is not None and job.holder == holder else None

    def _add(self, job: Job) -> None:
        self._jobs[job.number] = job
        self.counts[job.state] += 1
        self.bytes += _size(job.frames)
        if job.id:
            self._numbers_by_id[job.id] = job.number
        if job.state == "waiting":
            heapq.heappush(self._waiting, (-job.priority, job.number))

    def _wait(self, job: Job) -> None:
        job.holder = None
        self._become(job, "waiting")
        heapq.heappush(self._waiting, (-job.priority, job.number))

    def _become(self, job: Job, state: str) -> None:
        self.counts[job.state] -= 1
        self.counts[state] += 1
        job.state = state


def _size(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames))

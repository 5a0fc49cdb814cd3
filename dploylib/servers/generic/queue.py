"""A queue of jobs, which are handed out to workers until one of them has done each."""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from gevent.event import Event
from msgspec import Meta

from ...errors import InvalidData, Overloaded, StoreError
from ...transport import JSON_MIMETYPE, Envelope, Metadata, Problem, ReceivedData
from ...transport.problems import is_problem, problem_of
from ..declare import bind_in
from .jobs import STATES, Job, JobQueue, QueueFull, TooLarge
from .jobserver import JobServer, WorkerTimeout
from .store import Journal, NoJournal

__all__ = ["AdminRequest", "QueueServer", "QueueSettings"]

log = logging.getLogger(__name__)

_PRIORITY = re.compile(r";\s*priority=(-?\d{1,9})\s*(?:;|$)", re.IGNORECASE)
_MOST_DELAY = 3600.0  # seconds
_MOST_DOUBLINGS = 100  # of the delay; there are floats for twice that in any case
_MOST_REASON = 1000  # characters of why a job has failed: they are kept with it, and do not count as its bytes


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a `QueueServer`."""

    path: str | None = None
    """The file in which the jobs are kept. Without one they are in memory, and gone with the server."""
    fsync: bool = True
    """Whether a job is on the disk, and not only with the operating system, when it is accepted."""
    max_jobs: Annotated[int, Meta(ge=1)] = 100_000
    """How many jobs there may be; who puts more gets the problem `overloaded` (503)."""
    max_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    """How many bytes all jobs may have together. They are in memory, with a path too."""
    max_tries: Annotated[int, Meta(ge=1)] = 5
    """How often a job is tried before it is dead."""
    retry_delay: Annotated[float, Meta(ge=0)] = 1.0
    """Seconds before a job that failed is tried again. They double with each failure."""
    worker_timeout: WorkerTimeout = 30.0
    """Seconds after which a worker that says nothing is taken for dead, although it is connected."""
    remembered_ids: Annotated[int, Meta(ge=0)] = 10_000
    """How many ids of finished jobs are remembered, which cannot be put again."""


class AdminRequest(msgspec.Struct, frozen=True):
    """What the admin socket is asked: `status`, the `dead` jobs (`limit` at most), or to `retry` or `discard` a job."""

    do: Literal["status", "dead", "retry", "discard"] = "status"
    job: Annotated[str, Meta(max_length=20)] | None = None
    limit: Annotated[int, Meta(ge=1)] = 100


class QueueServer(JobServer):
    """A queue of jobs: whoever puts one is told when it is kept, and it is handed out until a worker has done it.

    A job is an envelope, of any kind. Its sockets are

    - `put` (rep): takes a job. The answer, JSON with its number (`{"job": "42"}`), says that it is accepted: with a
      `path`, that it is in the file. A job whose id the queue knows, or knew lately, is not taken again, and answered
      alike, so that it is safe to put it again when there was no answer. Without an id, each is a new one. A parameter
      of the mimetype says what comes first (`application/json; priority=5`): the highest number, 0 if there is none.
    - `work` (router): where each `Worker` connects.
    - `admin` (rep, optional): takes an `AdminRequest`.

    Every accepted job is delivered at least once: again when its worker died, or failed, `max_tries` times in all. Then
    it is dead: kept aside for the admin. The second time, and later, its metadata says so (`attempt` from 2 on). Within
    a priority, jobs are delivered in the order in which they were put, but for those that are delivered again.

    Raises `StoreError` at the start when the file cannot be used.
    """

    settings_type = QueueSettings

    def setup(self) -> None:
        """Load the jobs, if they are in a file."""
        super().setup()
        own = self.own
        self._journal = NoJournal()
        jobs: list[Job] = []
        finished: list[tuple[bytes, int]] = []
        if own.path is not None:
            try:
                self._journal = journal = Journal(own.path, own.fsync, own.remembered_ids)
                jobs, finished = journal.load()
            except StoreError as error:
                raise StoreError(f"server {self.name!r} (settings.{self.name}.path): {error}") from error
            self.spawn(journal.run)
        self.jobs = JobQueue(own.max_jobs, own.max_bytes, own.max_tries, own.remembered_ids, jobs, finished)
        self._full = False
        self._delayed: list[tuple[float, int]] = []  # a heap of the moments and the numbers of jobs to be tried again
        self._another_delayed = Event()
        self.spawn(self._retry_in_time)
        if jobs:
            log.info("%s: %d jobs in %s", self.name, len(jobs), own.path)

    def teardown(self) -> None:
        """Write what is not written yet."""
        if isinstance(self._journal, Journal):
            self._journal.close()
        elif len(self.jobs):
            log.warning("%s: %d jobs were in memory, and are gone", self.name, len(self.jobs))

    def priority(self, received: ReceivedData) -> int:
        """What comes first: the job with the highest number. The parameter of the mimetype, if not overridden."""
        found = _PRIORITY.search(received.mimetype) if ";" in received.mimetype else None
        return int(found[1]) if found else 0

    @bind_in("put", "rep", concurrency=1000)
    def put(self, socket: Any, received: ReceivedData) -> Envelope | Problem:
        """Take a job, and answer when it is kept."""
        if is_problem(received.envelope):  # a worker takes it for an answer to its own
            return problem_of(InvalidData("a problem cannot be a job"))
        id, mimetype, _ = received.envelope._frames[-3:]
        number = self.jobs.find(id)
        if number is None:
            priority = self.priority(received)
            try:
                job = self.jobs.put((id, mimetype, received.data), priority)
            except TooLarge as error:
                return problem_of(InvalidData(str(error)))
            except QueueFull as error:
                if not self._full:
                    log.warning("%s: %s", self.name, error)
                self._full = True
                return problem_of(Overloaded(str(error)))
            self._full = False
            number = job.number
            self._journal.put(job)
            self._hand_out()
        self._journal.sync()
        return received.envelope.response_envelope(JSON_MIMETYPE, b'{"job": "%d"}' % number)

    @bind_in("admin", "rep", obj=AdminRequest, optional=True)
    def admin(self, socket: Any, received: ReceivedData) -> Any:
        """Tell how things stand, or decide about a dead job."""
        asked: AdminRequest = received.obj
        if asked.do == "status":
            counts = {state: self.jobs.counts[state] for state in STATES}
            return {**counts, "bytes": self.jobs.bytes, "workers": len(self.workers), "credit": self.workers.credit}
        if asked.do == "dead":
            return [_described(job) for job in self.jobs.dead()[: asked.limit]]
        number = int(asked.job) if asked.job and asked.job.isdecimal() else -1
        job = self.jobs.revive(number) if asked.do == "retry" else self.jobs.discard(number)
        if job is None:
            return problem_of(InvalidData(f'there is no dead job {asked.job!r}: ask for them with {{"do": "dead"}}'))
        if asked.do == "retry":
            self._journal.tried(job)
            self._hand_out()
        else:
            self._journal.discarded(job)
        self._journal.sync()
        return _described(job)

    # What becomes of jobs --------------------------------------------------------------------------------------

    def _next_job(self, worker: bytes) -> tuple[int, Metadata, Sequence[Any]] | None:
        job = self.jobs.take(worker)
        if job is None:
            return None
        self._journal.tried(job)
        return job.number, Metadata(job.number, attempt=job.deliveries), job.frames

    def _when_written(self, function: Callable[[], None]) -> None:
        self._journal.then(function)

    def _answered(self, worker: bytes, number: int, received: ReceivedData, problem: Problem | None) -> None:
        if problem is None:
            job = self.jobs.done(number)
            if job is not None:
                self._journal.finished(job)
        else:
            useless = 400 <= problem.status < 500  # it would be refused again
            reason = f"{problem.title}: {problem.detail}"[:_MOST_REASON]
            self._try_again(self.jobs.fail(number, worker, reason, useless))

    def _returned(self, worker: bytes, number: int) -> None:
        self.jobs.give_back(number, worker)

    def _lost(self, worker: bytes, number: int, reason: str) -> None:
        self._try_again(self.jobs.fail(number, worker, f"its worker was lost: {reason}"), at_once=True)

    def _try_again(self, job: Job | None, at_once: bool = False) -> None:
        """See to a job that has failed."""
        if job is None:
            return
        self._journal.tried(job)
        if job.state == "dead":
            log.error(
                "%s: job %d %r is dead after %d tries: %s", self.name, job.number, job.id, job.failures, job.reason
            )
        elif at_once:
            self.jobs.retry(job.number)
        else:
            doublings = min(job.failures - 1, _MOST_DOUBLINGS)
            delay = min(self.own.retry_delay * 2.0**doublings, _MOST_DELAY)
            heapq.heappush(self._delayed, (time.monotonic() + delay, job.number))
            self._another_delayed.set()

    def _retry_in_time(self) -> None:
        """Let delayed jobs wait for a worker again, each when its time has come."""
        while True:
            self._another_delayed.clear()
            seconds = self._delayed[0][0] - time.monotonic() if self._delayed else None
            if seconds is None or seconds > 0:
                self._another_delayed.wait(seconds)
                continue
            self.jobs.retry(heapq.heappop(self._delayed)[1])
            self._hand_out()


def _described(job: Job) -> dict[str, Any]:
    id, mimetype, body = job.frames
    return {
        "job": str(job.number),
        "id": id.decode(),
        "mimetype": mimetype.decode(),
        "bytes": len(body),
        "priority": job.priority,
        "deliveries": job.deliveries,
        "failures": job.failures,
        "reason": job.reason,
    }

"""What servers that hand out jobs have in common: the socket to their workers, and what is said on it.

What is said, in envelopes, between such a server (a ROUTER) and a worker (a DEALER that connects to it):

- a worker says that it is ready: mimetype `application/vnd.dploylib.ready+json`, body `{"credit": 10}`. It holds ten
  jobs at most from then on; with 0 it gets none any more. It says so every second. One that does not is asked for a
  sign of life: mimetype `application/vnd.dploylib.heartbeat`, no body.
- a job is a request to the worker: an envelope with a metadata frame in front of the delimiter, which has its number as
  the request id, and how often it was handed out (`a`).
- the reply to it, with this frame, is the result. A problem as the reply says that it has failed; `shutting-down` and
  `overloaded` say that it was not begun.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import gevent
import msgspec

from ...errors import Overloaded, SendTimeout, ShuttingDown, TransientError, Unroutable
from ...transport import Metadata, Problem, ReceivedData
from ...transport.problems import is_problem, type_of
from ..declare import bind_in
from ..server import Server
from .workforce import Workforce

__all__ = ["HEARTBEAT_MIMETYPE", "READY_MIMETYPE", "JobServer", "Ready", "WorkerTimeout"]

log = logging.getLogger(__name__)

READY_MIMETYPE = "application/vnd.dploylib.ready+json"
HEARTBEAT_MIMETYPE = "application/vnd.dploylib.heartbeat"

# The types of problems by which a worker says that it has not begun with a job.
_NOT_BEGUN = frozenset(map(type_of, (Overloaded, ShuttingDown)))

_HEARTBEAT = [b"", HEARTBEAT_MIMETYPE.encode(), b""]
_LOOK = 1.0  # seconds between two looks after the workers
_QUIET = 2.0  # seconds after which a worker that says nothing is asked for a sign of life, or found to be gone


# A worker says every second that it is there, and the machine may be busy.
WorkerTimeout = Annotated[float, msgspec.Meta(ge=2)]


class Ready(msgspec.Struct, frozen=True):
    """What a worker says to get jobs: how many it holds at most."""

    credit: Annotated[int, msgspec.Meta(ge=0)]


class JobServer(Server):
    """Hands out jobs to workers. The base of `QueueServer` and `BalancerServer`, which say what a job is."""

    single = True
    _served_until_closed: ClassVar = frozenset({"work"})

    def setup(self) -> None:
        """Begin to look after the workers."""
        self.workers = Workforce()
        self._handing_out = False
        self.spawn(self._look_after_workers)

    @bind_in("work", "router", obj=Ready)
    def work(self, socket: Any, received: ReceivedData) -> None:
        """What a worker says: that it is ready, or what came of a job."""
        worker = received.envelope._frames[0]
        if received.metadata is not None:
            number: Any = received.metadata.request_id
            problem = Problem.from_envelope(received.envelope) if is_problem(received.envelope) else None
            if problem is not None and problem.type in _NOT_BEGUN:
                self._return(worker, number)
            else:
                self.workers.release(worker, number)
                self._answered(worker, number, received, problem)
        elif received.mimetype == READY_MIMETYPE:
            self.workers.ready(worker, received.obj.credit)
        self._hand_out()

    # What the subclasses say -----------------------------------------------------------------------------------

    def _next_job(self, worker: bytes) -> tuple[int, Metadata, Sequence[Any]] | None:
        """A job for this worker: its number, what to say about it, and the frames of its envelope. None if none is."""
        raise NotImplementedError

    def _answered(self, worker: bytes, number: int, received: ReceivedData, problem: Problem | None) -> None:
        """A worker has answered for a job. It may be one that it was given long ago."""
        raise NotImplementedError

    def _returned(self, worker: bytes, number: int) -> None:
        """A worker was given this job, and has not begun with it, nor will it."""
        raise NotImplementedError

    def _lost(self, worker: bytes, number: int, reason: str) -> None:
        """A worker is gone, and held this job."""
        raise NotImplementedError

    def _may_hand_out(self) -> bool:
        """Whether jobs are given to workers now. A server that stops gives none, if not overridden."""
        return not self.stopping

    def _when_written(self, function: Callable[[], None]) -> None:
        """Call a function when it is safe to act on what `_next_job` has decided."""
        function()

    # Handing out -----------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give jobs to workers, as long as there are both."""
        if self._handing_out:  # further up; it goes on there
            return
        self._handing_out = True
        try:
            while self._may_hand_out():
                worker = self.workers.next()
                job = None if worker is None else self._next_job(worker)
                if worker is None or job is None:
                    return
                number, metadata, frames = job
                self.workers.hold(worker, number)
                self._when_written(partial(self._give, worker, number, [worker, metadata.to_frame(), b"", *frames]))
        finally:
            self._handing_out = False

    def _give(self, worker: bytes, number: int, message: list[Any]) -> None:
        if not self.workers.holds(worker, number):  # it was lost before the job was written
            return
        try:
            self.sockets.work.send_frames(message, timeout=0)
        except Unroutable:
            self._lose(worker, "the connection to it was lost")
        except (SendTimeout, TransientError):  # it has more credit than there is room for what it has not read yet
            self._return(worker, number)
            self._hand_out()

    def _return(self, worker: bytes, number: int) -> None:
        self.workers.pause(worker)
        self.workers.release(worker, number)
        self._returned(worker, number)

    def _lose(self, worker: bytes, reason: str) -> None:
        """Take its jobs from a worker, and give them to others. When it says that it is ready, it is a new one."""
        numbers = self.workers.remove(worker)
        if numbers:
            log.warning("%s: a worker is lost with %d jobs: %s", self.name, len(numbers), reason)
        for number in sorted(numbers):
            self._lost(worker, number, reason)
        self._hand_out()

    def _look_after_workers(self) -> None:
        while True:
            due = time.monotonic() + _LOOK
            gevent.sleep(_LOOK)
            if time.monotonic() > due + _LOOK:  # the hub was blocked: what they said meanwhile has not been read yet
                continue
            for worker in self.workers.silent(_QUIET):
                with contextlib.suppress(SendTimeout, TransientError):  # it is connected
                    try:
                        self.sockets.work.send_frames([worker, *_HEARTBEAT], timeout=0)
                    except Unroutable:
                        self._lose(worker, "the connection to it was lost")
            for worker in self.workers.silent(self.own.worker_timeout):
                self._lose(worker, f"it has said nothing for {self.own.worker_timeout:g} s")
            self._hand_out()  # what is waiting although nothing has happened that makes it go on

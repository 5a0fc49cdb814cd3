"""Requests of many to whichever worker has had nothing to do for the longest time."""

from __future__ import annotations

import itertools
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from gevent.event import AsyncResult

from ...errors import InvalidData, ShuttingDown, WorkerLost
from ...handling import traceparent
from ...transport import Envelope, Metadata, Problem, ReceivedData
from ...transport.problems import is_problem, problem_of
from ..declare import bind_in
from .jobserver import JobServer, WorkerTimeout

__all__ = ["BalancerServer", "BalancerSettings"]


class BalancerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a `BalancerServer`."""

    worker_timeout: WorkerTimeout = 30.0
    """Seconds after which a worker that says nothing is taken for dead, although it is connected."""


class _Request:
    __slots__ = ("attempts", "outcome", "received", "traceparent", "worker")

    def __init__(self, received: ReceivedData) -> None:
        self.received = received
        self.outcome: AsyncResult[Envelope | Problem] = AsyncResult()
        self.worker: bytes | None = None
        self.attempts = 0
        self.traceparent = traceparent()


class BalancerServer(JobServer):
    """Passes requests on to workers, and their answers back: each to the least recently used one that is free.

    Its sockets are

    - `request` (rep): takes the requests. As many as its `concurrency` says may be in progress or wait for a worker;
      more are rejected with the problem `overloaded` (503).
    - `work` (router): where each `Worker` connects.

    Every request is handled at most once, and answered: by what its worker answers; by the problem `worker-lost` (503)
    when that dies, for nobody knows what it has done; or by `deadline-exceeded` when nobody was free in time. One that
    a worker has refused without having begun, as it stops, goes to another. What comes first is begun first.
    """

    settings_type = BalancerSettings

    def setup(self) -> None:
        """Begin with no requests."""
        super().setup()
        # A worker may still answer a request to the balancer that was here before this one.
        self._numbers = itertools.count(random.getrandbits(62))
        self._requests: dict[int, _Request] = {}
        self._waiting: OrderedDict[int, None] = OrderedDict()

    @bind_in("request", "rep", concurrency=1000, overload="reject")
    def request(self, socket: Any, received: ReceivedData) -> Envelope | Problem:
        """Pass a request on, and its answer back."""
        if is_problem(received.envelope):  # a worker takes it for an answer to its own
            return problem_of(InvalidData("a problem cannot be a request"))
        number = next(self._numbers)
        request = self._requests[number] = _Request(received)
        self._waiting[number] = None
        try:
            self._hand_out()
            return cast("Envelope | Problem", request.outcome.get())
        finally:
            self._waiting.pop(number, None)
            del self._requests[number]  # its worker may be at it, and hold it, for longer than its caller waits

    def _may_hand_out(self) -> bool:
        return True  # also when it stops: those who have asked wait

    def _hand_out(self) -> None:
        super()._hand_out()
        if self.stopping and not self.workers.credit:  # nor will there be, where workers stop with the service
            while self._waiting:
                number, _ = self._waiting.popitem(last=False)
                self._requests[number].outcome.set(problem_of(ShuttingDown(f"{self.name} is shutting down")))

    def _next_job(self, worker: bytes) -> tuple[int, Metadata, Sequence[Any]] | None:
        if not self._waiting:
            return None
        number, _ = self._waiting.popitem(last=False)
        request = self._requests[number]
        request.worker = worker
        request.attempts += 1
        return number, _metadata(number, request), request.received.envelope._frames[-3:]

    def _answered(self, worker: bytes, number: int, received: ReceivedData, problem: Problem | None) -> None:
        request = self._requests.get(number)
        if request is not None and request.worker == worker:
            request.outcome.set(Envelope(received.id, received.mimetype, received.data))

    def _returned(self, worker: bytes, number: int) -> None:
        request = self._requests.get(number)
        if request is not None and request.worker == worker:
            request.worker = None
            self._waiting[number] = None
            self._waiting.move_to_end(number, last=False)

    def _lost(self, worker: bytes, number: int, reason: str) -> None:
        request = self._requests.get(number)
        if request is not None and request.worker == worker:
            request.outcome.set(problem_of(WorkerLost(f"the worker that had this request was lost: {reason}")))


def _metadata(number: int, request: _Request) -> Metadata:
    """What a worker is told about a request."""
    received = request.received
    left = None if received.deadline is None else (received.deadline - time.monotonic()) * 1000
    sent_at = None if received.metadata is None else received.metadata.sent_at
    return Metadata(number, left, request.traceparent, request.attempts, sent_at)

"""Servers that do the jobs of a queue, or answer the requests of a balancer."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import gevent
import msgspec

from ...errors import DeclarationError, SendTimeout
from ...transport import ReceivedData
from ...transport.problems import is_problem
from ..declare import SocketDescription
from ..server import Server
from .jobserver import READY_MIMETYPE, Ready

__all__ = ["Worker"]

_INTERVAL = 1.0  # seconds between two announcements
_OPTIONS = {"sndhwm": 10_000}  # answers wait here while the queue is away, and an announcement a second


class Worker(Server):
    """Takes jobs, one after the other or several at once: subclass it, and define `work`.

    For example::

        class Builder(Worker):
            deserializer = BuildRequest

            def work(self, received):
                build(received.obj)

    Its socket `jobs` (dealer) connects to the socket `work` of a `QueueServer` or a `BalancerServer`, of one of them.
    Class attributes say what `bind_in` says of other sockets: `deserializer` (what `received.obj` is made with),
    `concurrency` and `timeout`; the latter two can be configured. It holds `concurrency` jobs, and `prefetch` more that
    wait for their turn: then the next one is there when one is done, but nobody else can have it.

    When it stops, the jobs that it has not begun go to others, and those that it has may finish.
    """

    deserializer: ClassVar[Any] = None
    concurrency: ClassVar[int] = 1
    timeout: ClassVar[float | None] = None
    prefetch: ClassVar[int] = 0
    jobs: SocketDescription

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if not isinstance(cls.prefetch, int) or cls.prefetch < 0:
            raise DeclarationError(f"{cls.__name__}.prefetch is a whole number from 0 on, not {cls.prefetch!r}")
        if "jobs" not in vars(cls):
            cls.jobs = _jobs(cls)
        super().__init_subclass__(**kwargs)

    def setup(self) -> None:
        """Begin to take jobs."""
        info = self.settings.socket_info("jobs")
        if len(info.uris) > 1:
            raise DeclarationError(
                f"server {self.name!r}, socket 'jobs': a worker has one endpoint; add another server for each other one"
            )
        if any(option.lower() in ("routing_id", "identity") for option, _ in info.option_pairs):
            raise DeclarationError(
                f"server {self.name!r}, socket 'jobs': a worker has no routing_id of its own: by a new one, the "
                "queue sees that a connection was lost, and with it what was on its way"
            )
        self.spawn(self._announce)

    def work(self, received: ReceivedData) -> Any:
        """Do a job. To be defined by subclasses.

        What it returns is the reply to who asked a balancer; a queue does not look at it. What it raises makes a queue
        try again, and is a problem to who asked a balancer. From the second time on that a job is delivered,
        `received.metadata.attempt` is more than 1.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method work(self, received)")

    def _announce(self) -> None:
        """Say that it is ready for jobs, again and again, and that it takes no more when it stops."""
        credit = self._dispatchers["jobs"].concurrency + self.prefetch
        while True:
            ready = msgspec.json.encode(Ready(0 if self.stopping else credit))
            with contextlib.suppress(SendTimeout):  # nobody has been there for hours
                self.sockets.jobs.send_frames([b"", b"", READY_MIMETYPE.encode(), ready], timeout=0)
            if self.stopping:
                gevent.sleep(_INTERVAL)
            else:
                self._told_to_stop.wait(_INTERVAL)


def _take(worker: Any, socket: Any, received: ReceivedData) -> Any:
    """Do a job, and answer that it is done."""
    if received.metadata is None or is_problem(received.envelope):
        return None  # no job: it is only to show whether we are there; or somebody does not want our answer
    result = worker.work(received)
    return b"" if result is None else result


def _jobs(cls: Any) -> SocketDescription:
    return SocketDescription(
        "jobs", "dealer", "connect", _take, cls.deserializer, _OPTIONS, cls.concurrency, cls.timeout
    )


Worker.jobs = _jobs(Worker)

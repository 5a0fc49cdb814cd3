"""Fixtures for the tests of generic servers: queues and balancers that run, and plain pyzmq peers."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dploylib import Service
from dploylib.servers.generic import BalancerServer, QueueServer
from dploylib.testing import RunningService
from dploylib.transport import Metadata

READY = b"application/vnd.dploylib.ready+json"
HEARTBEAT = b"application/vnd.dploylib.heartbeat"


def problem(kind: str, status: int = 503) -> tuple[bytes, bytes]:
    """The last two frames of an answer that is a problem."""
    body = {"type": f"urn:dploylib:{kind}", "title": kind, "status": status, "detail": "says the test"}
    return b"application/problem+json", json.dumps(body).encode()


class BareWorker:
    """A worker that is a plain DEALER, and speaks the protocol by hand."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def ready(self, credit: int) -> "BareWorker":
        self.peer.send(b"", b"", READY, b'{"credit": %d}' % credit)
        return self

    def job(self) -> list[bytes]:
        """The next message that is no heartbeat: metadata, delimiter, id, mimetype, body."""
        while True:
            frames = self.peer.receive()
            if frames[-2] != HEARTBEAT:
                return frames

    def text(self) -> str:
        """The body of the next job, which is done then."""
        job = self.job()
        self.answer(job)
        return job[-1].decode()

    def answer(self, job: list[bytes], mimetype: bytes = b"text/plain", body: bytes = b"done") -> None:
        self.peer.send(job[0], b"", job[2], mimetype, body)

    def has_job(self) -> bool:
        """Whether a job has come. To be asked when everything that could come has had its time."""
        while self.peer.zmq_socket.poll(20):
            if self.peer.receive()[-2] != HEARTBEAT:
                return True
        return False

    def close(self) -> None:
        self.peer.zmq_socket.close(0)


def attempt(job: list[bytes]) -> int:
    """How often a job was delivered, as its metadata says."""
    metadata = Metadata.find(job[:1])
    assert metadata is not None
    return metadata.attempt


@pytest.fixture
def start_queue(service_runner) -> Callable[..., RunningService]:
    """`start_queue(path=..., put={...})`: a service with a queue named `jobs`, and its settings by keyword."""

    def start(queue_class: type[QueueServer] = QueueServer, supervision: Any = None, **settings: Any) -> RunningService:
        service = Service()
        service.add_server("jobs", queue_class)
        sockets = {name: settings.pop(name, {}) for name in ("put", "work", "admin")}
        config = {"servers": {"jobs": {name: {"uri": "tcp://127.0.0.1:*"} for name in sockets}}}
        return service_runner(service, config, jobs=sockets, settings={"jobs": settings}, supervision=supervision)

    return start


@pytest.fixture
def start_balancer(service_runner) -> Callable[..., RunningService]:
    """`start_balancer(request={...})`: a service with a balancer named `front`, and its settings by keyword."""

    def start(**settings: Any) -> RunningService:
        service = Service()
        service.add_server("front", BalancerServer)
        sockets = {name: settings.pop(name, {}) for name in ("request", "work")}
        return service_runner(service, front=sockets, settings={"front": settings})

    return start


@pytest.fixture
def bare_worker(peer) -> Callable[..., BareWorker]:
    """`bare_worker(running, credit)`: a plain worker that is connected, and has said that it is ready."""

    def connect(it: RunningService, credit: int = 1, **options: Any) -> BareWorker:
        server = next(iter(it.endpoints))
        return BareWorker(peer("dealer", it.endpoint(f"{server}.work"), **options)).ready(credit)

    return connect

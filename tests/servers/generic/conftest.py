"""Fixtures for the tests of generic servers: queues and balancers that run, and plain pyzmq peers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dploylib import Service
from dploylib.servers.generic import BalancerServer, QueueServer
from dploylib.testing import RunningService
from tests.processes import Process, starter
from tests.servers.generic.bare import BareWorker


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


@pytest.fixture
def worker_process() -> Iterator[Callable[..., Process]]:
    """`worker_process("worker.py", endpoint)`: a `Worker` in a process of its own."""
    yield from starter(Path(__file__).parent / "peers")

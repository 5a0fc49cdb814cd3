"""Fixtures for the tests of clients: publishers in this process, and peers in processes of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.green

from dploylib import Server, Service, bind
from dploylib.transport import Context, Socket
from tests.processes import Process, starter

PEERS = Path(__file__).parent / "peers"
PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"


class Feed(Server):
    out = bind("out", "pub")


@pytest.fixture
def feed(leak_check) -> Iterator[Socket]:
    """The publisher of a server in this process, which never drops what a test publishes in one go."""
    with run_service(feed=Feed, options={"feed": {"out": {"sndhwm": 100_000}}}) as service:
        yield service.servers["feed"].sockets.out


@pytest.fixture
def start_service(leak_check) -> Iterator[Callable[..., Service]]:
    """`start_service(echo=Echo)`: a service that runs in this process."""
    services: list[Service] = []

    def start(**servers: type[Server]) -> Service:
        services.append(run_service(**servers))
        return services[-1]

    yield start
    for service in services:
        service.stop(0)


def run_service(options: Any = None, **servers: type[Server]) -> Service:
    service = Service()
    config: dict[str, Any] = {}
    for name, server_cls in servers.items():
        service.add_server(name, server_cls)
        config[name] = {
            socket: {"uri": ANYWHERE, "options": (options or {}).get(name, {}).get(socket, {})}
            for socket in server_cls.description.socket_names
        }
    return service.start(config_dict={"servers": config})


@pytest.fixture
def peer_socket(leak_check) -> Iterator[Callable[..., Socket]]:
    """`peer_socket("rep")`: a bound socket by itself, in a context of its own."""
    with Context.new() as context:

        def bind_socket(socket_type: str, uri: str = ANYWHERE, **options: Any) -> Socket:
            socket = context.socket(socket_type, {"linger": 0, **options})
            socket.bind(uri)
            return socket

        yield bind_socket


@pytest.fixture
def spawn(leak_check, spawn) -> Callable[..., Any]:
    """The same, and the greenlets are gone when leaks are looked for."""
    return spawn


@pytest.fixture
def run_peer(leak_check) -> Iterator[Callable[..., Process]]:
    """`run_peer("publish.py", endpoint)`: a peer in a process of its own."""
    yield from starter(PEERS)


@pytest.fixture
def bare(leak_check) -> Iterator[Callable[..., tuple[Any, str]]]:
    """`bare("router")`: a plain pyzmq socket that is bound, and its endpoint."""
    context = zmq.green.Context()

    def bind(kind: str, **options: Any) -> tuple[Any, str]:
        socket = context.socket(getattr(zmq, kind.upper()))
        for name, value in {"linger": 0, **options}.items():
            setattr(socket, name, value)
        socket.bind(ANYWHERE)
        return socket, socket.last_endpoint.decode()

    yield bind
    context.destroy(linger=0)

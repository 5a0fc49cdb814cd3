"""Fixtures for the tests of services."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dploylib.services import Service
from dploylib.transport import Socket

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def make_service(leak_check) -> Iterator[Callable[..., Service]]:
    """`make_service(echo=EchoServer)`: a service of these servers, which leaves nothing behind."""
    services: list[Service] = []

    def make(coordinator: Any = None, **servers: Any) -> Service:
        service = Service(coordinator=coordinator)
        services.append(service)
        for name, server_cls in servers.items():
            service.add_server(name, server_cls)
        return service

    yield make
    for service in services:
        service.stop(0)


@pytest.fixture
def config_for() -> Callable[..., dict[str, Any]]:
    """`config_for(service, echo={"request": {...}})`: a configuration, with a wildcard where none is given."""

    def config(service: Service, general: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        servers = {
            name: {
                socket: {"uri": ANYWHERE, **given.get(name, {}).get(socket, {})}
                for socket in server_cls.description.socket_names
            }
            for name, server_cls in service.server_classes.items()
        }
        return {"servers": servers, "general": general or {}}

    return config


@pytest.fixture
def start(make_service, config_for) -> Callable[..., Service]:
    """`start(echo=EchoServer)`: a service that runs."""

    def start(coordinator: Any = None, **servers: Any) -> Service:
        service = make_service(coordinator, **servers)
        return service.start(config_dict=config_for(service))

    return start


@pytest.fixture
def ask() -> Callable[..., str]:
    """Ask a REP for something, and return the text of the reply."""

    def ask(endpoint: str, text: str = "hello", context: Any = None) -> str:
        with Socket.connect_new("req", endpoint, context=context) as socket:
            socket.send_text(text)
            return socket.receive_envelope(timeout=PATIENCE).text

    return ask

"""Fixtures for the tests of services, which run with every coordinator that there is.

A test whose service comes from `make_service` or `start`, or that uses `coordinator`, is run for each kind: once with
servers in greenlets, once in threads, once in processes. One that cannot tell the difference uses `any_service`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dploylib import services
from dploylib.services import ServerCoordinator, Service
from dploylib.transport import Context, Socket
from tests.services.suite import Flags

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"
COORDINATORS: dict[str, type[ServerCoordinator]] = {
    kind: getattr(services, name)
    for kind, name in {
        "greenlet": "GreenletServerCoordinator",
        "thread": "ThreadedServerCoordinator",
        "process": "ProcessServerCoordinator",
    }.items()
    if hasattr(services, name)
}
LIMITS = {
    "greenlet_only": ["greenlet"],
    "one_process": ["greenlet", "thread"],
    "processes_only": ["process"],
    "own_hub": ["thread", "process"],
}
ROUNDS = {"greenlet": 50, "thread": 20, "process": 3}  # a process takes a third of a second to start


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "greenlet_only(why): the test runs with servers in greenlets of its thread only")
    config.addinivalue_line("markers", "one_process(why): the test runs with servers in its own process only")
    config.addinivalue_line("markers", "processes_only(why): the test runs with servers in processes only")
    config.addinivalue_line("markers", "own_hub(why): the test runs with servers that have hubs of their own only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = list(COORDINATORS)
        for marker, allowed in LIMITS.items():
            if metafunc.definition.get_closest_marker(marker):
                kinds = [kind for kind in kinds if kind in allowed]
        metafunc.parametrize("kind", kinds)


@pytest.fixture
def coordinator(kind: str) -> type[ServerCoordinator]:
    """The class of coordinators that the test runs with."""
    return COORDINATORS[kind]


@pytest.fixture
def rounds(kind: str) -> int:
    """How often a test that repeats something does so."""
    return ROUNDS[kind]


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    """What the servers and the test tell each other: `flags.go_on.set()`, `flags.events.lines()`."""
    directory = tmp_path / "flags"
    directory.mkdir()
    return Flags(directory)


@pytest.fixture
def any_service(leak_check) -> Iterator[Callable[..., Service]]:
    """`any_service(echo=Echo)`: a service of these servers, which leaves nothing behind, wherever its servers run."""
    made: list[Service] = []

    def make(coordinator: ServerCoordinator | None = None, **servers: Any) -> Service:
        service = Service(coordinator=coordinator)
        made.append(service)
        for name, server_cls in servers.items():
            service.add_server(name, server_cls)
        return service

    yield make
    for service in made:
        service.stop(0)


@pytest.fixture
def make_service(any_service, coordinator) -> Callable[..., Service]:
    """`make_service(echo=Echo)`: such a service with each coordinator, unless one is given."""

    def make(given: ServerCoordinator | None = None, **servers: Any) -> Service:
        return any_service(given or coordinator(), **servers)

    return make


@pytest.fixture
def config_for(flags) -> Callable[..., dict[str, Any]]:
    """`config_for(service, echo={"request": {...}})`: a configuration, with a wildcard where none is given."""

    def config(service: Service, general: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        servers = {
            name: {
                socket: {"uri": ANYWHERE, **given.get(name, {}).get(socket, {})}
                for socket in server_cls.description.socket_names
            }
            for name, server_cls in service.server_classes.items()
        }
        return {"servers": servers, "general": {"flags": str(flags.directory), **(general or {})}}

    return config


@pytest.fixture
def start(make_service, config_for) -> Callable[..., Service]:
    """`start(echo=Echo)`: a service that runs."""

    def start(given: ServerCoordinator | None = None, **servers: Any) -> Service:
        service = make_service(given, **servers)
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


@pytest.fixture
def bind_again() -> Callable[[str], None]:
    """Bind to an endpoint where a server was: an `AddressInUse` if it still is."""

    def bind(endpoint: str) -> None:
        with Context.new() as context:
            Socket.bind_new("rep", endpoint, context=context)

    return bind

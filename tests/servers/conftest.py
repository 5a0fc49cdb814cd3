"""Fixtures for the tests of servers: a server that runs, and plain pyzmq peers that know nothing of dploylib."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
import zmq
import zmq.green
from gevent.event import Event

from dploylib import servers
from dploylib.config import ServerSettings, YAMLConfigMapper
from dploylib.transport import Context
from tests.processes import Process, starter

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"
PEERS = Path(__file__).parent / "peers"


class Peer:
    """A plain pyzmq socket. What it sends and receives are frames."""

    def __init__(self, zmq_socket: Any) -> None:
        self.zmq_socket = zmq_socket

    def send(self, *frames: bytes, **options: Any) -> None:
        self.zmq_socket.send_multipart(frames, **options)

    def receive(self) -> list[bytes]:
        with gevent.Timeout(PATIENCE, TimeoutError("no message came")):
            return self.zmq_socket.recv_multipart()

    def ask(self, *frames: bytes) -> list[bytes]:
        self.send(*frames)
        return self.receive()

    def ask_text(self, text: str) -> str:
        """As a REQ: send an envelope of text, and return the text of the reply, which must be one."""
        id, mimetype, body = self.ask(b"", b"text/plain", text.encode())
        assert (id, mimetype) == (b"", b"text/plain"), body
        return body.decode()

    def ask_problem(self, *frames: bytes) -> dict[str, Any]:
        """As a REQ: send these frames, and return the problem in the reply, which must be one."""
        return self.problem_in(self.ask(*frames))

    @staticmethod
    def problem_in(frames: list[bytes]) -> dict[str, Any]:
        assert frames[-2] == b"application/problem+json", frames
        problem = json.loads(frames[-1])
        assert problem["type"].startswith("urn:dploylib:")
        return problem

    def silent(self) -> bool:
        """Whether nothing more arrives. To be asked when everything that could come has had its time."""
        return not self.zmq_socket.poll(20)


@pytest.fixture
def zmq_context() -> Iterator[Any]:
    """The context of the peers."""
    context = zmq.green.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def peer(zmq_context) -> Callable[..., Peer]:
    """`peer("req", endpoint)`: a connected plain socket, with options by keyword."""

    def connect(socket_type: str, endpoint: str, **options: Any) -> Peer:
        zmq_socket = zmq_context.socket(getattr(zmq, socket_type.upper()))
        for name, value in options.items():
            zmq_socket.set(getattr(zmq, name.upper()), value)
        zmq_socket.connect(endpoint)
        return Peer(zmq_socket)

    return connect


@pytest.fixture
def settings_for() -> Callable[..., ServerSettings]:
    """`settings_for(ServerClass, request={"timeout": 1})`: settings, with a wildcard endpoint where none is given."""

    def settings(server_cls: type[servers.Server], general: dict[str, Any] | None = None, **given: Any) -> Any:
        sockets = {name: {"uri": ANYWHERE, **given.pop(name, {})} for name in server_cls.description.socket_names}
        assert not given, f"{server_cls} has no sockets {given}"
        data = {"servers": {"tested": sockets}, "general": general or {}}
        return YAMLConfigMapper({}).process_dict(data).server_settings("tested")

    return settings


@pytest.fixture
def context() -> Iterator[Context]:
    """The context of the servers."""
    with Context.new() as context:
        yield context


class Runner:
    """Runs servers without a service, and stops them."""

    def __init__(self, context: Context, settings_for: Any) -> None:
        self._context = context
        self._settings_for = settings_for
        self._running: dict[servers.DployServer, gevent.Greenlet] = {}

    def __call__(self, server_cls: type[servers.Server], poll_loop: Any = None, **settings: Any) -> servers.Server:
        """Start a server, and return it when it is set up. Raises what its start() raised before that."""
        made: Any = server_cls("tested", self._settings_for(server_cls, **settings), None, self._context, poll_loop)
        setup, ready = made.setup, Event()

        def setup_and_tell() -> None:
            setup()
            ready.set()

        made.setup = setup_and_tell
        gevent.wait([ready, self.start(made)], timeout=PATIENCE, count=1)
        if not ready.is_set():
            self.result(made)
        return made

    def start(self, server: servers.DployServer) -> gevent.Greenlet:
        self._running[server] = greenlet = gevent.Greenlet(self._start, server)
        greenlet.start()
        return greenlet

    @staticmethod
    def _start(server: servers.DployServer) -> BaseException | None:
        try:
            server.start()
        except BaseException as error:  # noqa: BLE001 - result() raises it; the hub is not to print it
            return error
        return None

    def greenlet(self, server: servers.DployServer) -> gevent.Greenlet:
        return self._running[server]

    def result(self, server: servers.DployServer) -> None:
        """Wait until the server has ended, and raise what its start() raised."""
        error = self._running[server].get(timeout=PATIENCE)
        if error is not None:
            raise error

    def stop(self, server: servers.DployServer, graceful_timeout: float = PATIENCE) -> None:
        server.stop(graceful_timeout)
        self.result(server)

    def end(self) -> None:
        for server, greenlet in self._running.items():
            server.stop(0)
            greenlet.join(timeout=PATIENCE)
            assert greenlet.dead, f"{server} does not end"


@pytest.fixture
def serve(context, settings_for) -> Iterator[Runner]:
    """`serve(ServerClass, request={...})`: a running server, which is stopped after the test."""
    runner = Runner(context, settings_for)
    yield runner
    runner.end()


@pytest.fixture
def metadata_frame() -> Callable[..., bytes]:
    """The request frame that a caller describes its call with, made by hand."""

    def frame(**fields: Any) -> bytes:
        return b"DPL1" + msgspec.msgpack.encode(fields)

    return frame


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """`process("ask.py", endpoint)`: a peer in a process of its own."""
    yield from starter(PEERS)

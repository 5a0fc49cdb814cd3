"""The obvious loops, on `zmq` or on `zmq.green`: both have the same calls."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.servers import common


def bound(zmq: ModuleType, context: Any, socket_type: str, rcvhwm: int = 0, secret_key: bytes = b"") -> Any:
    """Make a socket that drops nothing, since it sends without a high-water mark, and bind it to a free port."""
    socket = context.socket(getattr(zmq, socket_type.upper()))
    if secret_key:
        socket.curve_secretkey, socket.curve_server = secret_key, True
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, rcvhwm)
    socket.bind(common.ANY_PORT)
    return socket


def endpoint(zmq: ModuleType, socket: Any) -> str:
    """Return where a socket is bound."""
    return str(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())


def ready(zmq: ModuleType, socket_type: str, rcvhwm: int = 0) -> Any:
    """Make a socket, and say where it is."""
    socket = bound(zmq, zmq.Context(), socket_type, rcvhwm)
    common.announce(endpoint(zmq, socket))
    return socket


def echo(zmq: ModuleType, socket_type: str, curve: bool = False) -> None:
    """Send back what comes."""
    public_key, secret_key = zmq.curve_keypair() if curve else (b"", b"")
    socket = bound(zmq, zmq.Context(), socket_type, secret_key=secret_key)
    common.announce(endpoint(zmq, socket), *filter(None, [public_key.decode()]))
    while True:
        socket.send_multipart(socket.recv_multipart())


def pull(zmq: ModuleType, count: int, rcvhwm: int) -> None:
    """Count what comes."""
    socket = ready(zmq, "pull", rcvhwm)
    while True:
        for _ in range(count):
            socket.recv_multipart()
        common.done()


def pub(zmq: ModuleType, count: int) -> None:
    """Publish what comes, or a batch."""
    context = zmq.Context()
    publisher, control = bound(zmq, context, "pub"), bound(zmq, context, "pull")
    common.announce(endpoint(zmq, publisher), endpoint(zmq, control))
    while True:
        message = control.recv_multipart()
        if message[-1] == common.BURST:
            for _ in range(count):
                publisher.send_multipart([b"", b"text/plain", common.BODY])
        else:
            publisher.send_multipart(message)


def backlog(zmq: ModuleType, count: int, gap: common.Gap) -> None:
    """Block at the first message, and count the others."""
    socket = ready(zmq, "pull")
    while True:
        socket.recv_multipart()
        common.block()
        gap.reset()
        for _ in range(count):
            socket.recv_multipart()
        gap.tick()
        common.done(gap.longest)


def objects(zmq: ModuleType, convert: Callable[[bytes], bytes]) -> None:
    """Answer a JSON object with the same object, newly encoded."""
    socket = ready(zmq, "rep")
    while True:
        identifier, mimetype, body = socket.recv_multipart()
        socket.send_multipart([identifier, mimetype, convert(body)])

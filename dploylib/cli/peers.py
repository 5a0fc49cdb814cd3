"""Sockets of the commands that talk to a running service."""

from __future__ import annotations

import contextlib
import signal
import socket as network
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .exit_codes import ExitCode
from .failures import Failure, tell

if TYPE_CHECKING:
    from ..transport import Socket

__all__ = ["connect", "peer_socket", "show_frames", "time_is_up"]

_SHOWN = 1000  # bytes of a frame that --verbose shows
_WHAT_FITS = (
    "a REP or ROUTER takes `dploylib call`, a PULL `dploylib send`, a PUB `dploylib listen`, "
    "a PUSH `dploylib listen --type pull`, a PAIR either of the two with --type pair"
)


@contextlib.contextmanager
def peer_socket(
    socket_type: str, options: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None
) -> Iterator[Socket]:
    """A socket that is closed at the end, without sending what is still queued unless its `linger` is set.

    It is a plain one, that blocks: there is nothing else to do meanwhile, and gevent prints a traceback for Ctrl-C.
    SIGTERM ends the command as Ctrl-C does, so that an ipc file is removed.
    """
    import zmq

    from ..transport import Context

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.SIGTERM))
    zmq_context = zmq.Context()
    context = Context(zmq_context)
    try:
        socket = context.socket(socket_type, options)
        socket.set_option("linger", 0)
        yield socket
    finally:
        context.close()
        zmq_context.term()


def connect(socket: Socket, uri: str, timeout: float) -> None:
    """Connect to a peer, and wait until it has shaken hands. Without one within `timeout` seconds the command ends.

    ZMQ_IMMEDIATE would tell about the connection too, but it drops a reply that came right before the peer went away.
    """
    import zmq

    monitor: Any = socket.zmq_socket.get_monitor_socket(zmq.Event.CONNECTED | zmq.Event.HANDSHAKE_SUCCEEDED)
    try:
        socket.connect(uri)
        last = _last_event(monitor, timeout)
        if last != zmq.Event.HANDSHAKE_SUCCEEDED:
            time_is_up(f"{uri}: {_why_not(socket, uri, last is not None, timeout)}")
    finally:
        socket.zmq_socket.disable_monitor()
        monitor.close()  # disable_monitor leaves that to the garbage collector, for which term() would wait


def _last_event(monitor: Any, timeout: float) -> int | None:
    """What a monitor told last in `timeout` seconds, or until the handshake has succeeded."""
    import zmq
    from zmq.utils.monitor import recv_monitor_message

    expires = time.monotonic() + timeout
    event = None
    while event != zmq.Event.HANDSHAKE_SUCCEEDED and monitor.poll(max(0.0, expires - time.monotonic()) * 1000):
        event = recv_monitor_message(monitor)["event"]
    return event


def _why_not(socket: Socket, uri: str, connected: bool, timeout: float) -> str:
    """Why there was no handshake. libzmq itself tells neither about a host without address nor about a wrong type."""
    if connected:
        return (
            f"something listens there, but did not talk to a {socket.socket_type} socket within {timeout:g} s: "
            f"{_WHAT_FITS}"
        )
    if uri.startswith("tcp://"):
        host = uri.removeprefix("tcp://").rpartition(";")[2].rpartition(":")[0].strip("[]")
        family = network.AF_UNSPEC if socket.get_option("ipv6") else network.AF_INET
        try:
            network.getaddrinfo(host, None, family)
        except (OSError, UnicodeError) as error:
            return f"the host {host!r} has no address: {getattr(error, 'strerror', None) or error}"
    return f"no connection within {timeout:g} s; is its service running?"


def time_is_up(message: str) -> NoReturn:
    """End the command since its time is up."""
    tell(Failure(ExitCode.TIMEOUT, [f"Error: {message}"]))
    sys.exit(ExitCode.TIMEOUT)


def show_frames(direction: str, frames: Sequence[bytes]) -> None:
    """Print frames to stderr, one a line: `> 'text/plain'`."""
    for frame in frames:
        rest = f"... ({len(frame)} bytes)" if len(frame) > _SHOWN else ""
        click.echo(f"{direction} {frame[:_SHOWN]!r}{rest}", err=True)

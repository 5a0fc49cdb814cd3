"""Sockets of the commands that talk to a running service."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .exit_codes import ExitCode
from .failures import Failure, tell

if TYPE_CHECKING:
    from ..security import Security
    from ..transport import Socket

__all__ = ["connected", "end_quietly_by_signals", "hint", "peer_socket", "show_frames", "time_is_up"]

_SHOWN = 1000  # bytes of a frame that --verbose shows
_WHAT_FITS = (
    "a REP or ROUTER takes `dploylib call`, a PULL `dploylib send`, a PUB `dploylib listen`, "
    "a PUSH `dploylib listen --type pull`, a PAIR either of the two with --type pair"
)


def end_quietly_by_signals() -> None:
    """Let SIGTERM end the command as Ctrl-C does, so that everything is closed, and gevent print nothing about that."""
    import gevent

    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
    gevent.sleep(0)  # the hub begins to run: a signal in the middle of that would be an error of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.SIGTERM))


@contextlib.contextmanager
def peer_socket(
    socket_type: str,
    options: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    security: Security | None = None,
) -> Iterator[Socket]:
    """A socket that is closed at the end, without sending what is still queued unless its `linger` is set."""
    from ..transport import Context

    end_quietly_by_signals()
    with Context.new(security) as context:
        socket = context.socket(socket_type, options)
        socket.set_option("linger", 0)
        yield socket


@contextlib.contextmanager
def connected(socket: Socket, uri: str, timeout: float | None) -> Iterator[None]:
    """Connect to a peer, wait until it has shaken hands, and watch the connection until the end of this.

    Without one within `timeout` seconds (None is for ever) the command ends. Raises `HandshakeFailed` when the peer
    refuses to talk to us, be it at first or later, in the middle of what is done inside.

    ZMQ_IMMEDIATE would tell about the connection too, but it drops a reply that came right before the peer went away.
    """
    import gevent
    from gevent.event import Event
    from greenlet import getcurrent

    from ..connecting import WatchedEndpoint
    from ..transport.deadlines import seconds_until

    me, began = getcurrent(), time.monotonic()
    expires = math.inf if timeout is None else began + timeout
    changed, over = Event(), Event()

    def look() -> None:
        changed.set()
        gevent.get_hub().loop.run_callback(refuse)

    def refuse() -> None:
        """Called by the hub, so that what is done inside waits for something."""
        refusal = None if over.is_set() else endpoint.refusal(time.monotonic() - began)
        if refusal is not None:
            me.throw(refusal)

    endpoint = WatchedEndpoint(socket, uri, look, "", socket.credentials)
    try:
        while not endpoint.connections:
            changed.clear()
            if not changed.wait(seconds_until(expires)):
                known = endpoint.known()
                time_is_up(f"{uri}: there was no connection within {timeout:g} s: {known}{hint(known)}")
        yield
    finally:
        over.set()
        endpoint.close()


def hint(known: str) -> str:
    """What may be wrong, where this is known of a connection; to be put behind it."""
    from ..transport import Link

    if known.startswith("something listens there"):
        return f"; {_WHAT_FITS}"
    return "; is its service running?" if known.startswith(Link.STATES["unreachable"]) else ""


def time_is_up(message: str) -> NoReturn:
    """End the command since its time is up."""
    tell(Failure(ExitCode.TIMEOUT, [f"Error: {message}"]))
    sys.exit(ExitCode.TIMEOUT)


def show_frames(direction: str, frames: Sequence[bytes]) -> None:
    """Print frames to stderr, one a line: `> 'text/plain'`."""
    for frame in frames:
        rest = f"... ({len(frame)} bytes)" if len(frame) > _SHOWN else ""
        click.echo(f"{direction} {frame[:_SHOWN]!r}{rest}", err=True)

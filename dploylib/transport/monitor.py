"""The socket monitor: what becomes of the connections of a socket, as libzmq tells it (zmq_socket_monitor(3))."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import zmq
from zmq.backend import Socket as _CSocket

from ..errors import SocketClosed, SocketStateError, TransientError
from ..statistics import Connections
from .socket import Socket

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Link", "SocketEvent", "SocketMonitor", "count_connections", "monitor_endpoint"]

_receive: Callable[..., Any] = _CSocket.recv  # below zmq.green and pyzmq's Python layer
_DONTWAIT = int(zmq.DONTWAIT)
_FORMAT = struct.Struct("=HI")  # of the first frame: event and value; the second one is the endpoint
_KINDS = {int(event): str(event.name).lower() for event in zmq.Event}  # 2 us less for each than to ask the enum
_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_MONITOR_STOPPED
)
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_COUNTED = zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | _FAILED | zmq.EVENT_MONITOR_STOPPED


class SocketEvent(NamedTuple):
    """One event of a monitor. `kind` is libzmq's own name in lowercase: `handshake_succeeded`; so is `value`."""

    kind: str
    endpoint: str
    value: int


def monitor_endpoint(socket: Socket, events: int) -> str:
    """Let libzmq tell of these events of a socket from now on, at the inproc endpoint that is returned.

    A `SocketMonitor` has to be there before anything happens: libzmq waits for it. In the thread of the socket.
    """
    # A name of its own: pyzmq makes one of the file descriptor, which may be used again before the name is free.
    endpoint = f"inproc://monitor-{uuid4().hex}"
    socket._zmq_socket.monitor(endpoint, events)  # past the property: nobody else gets to use it
    if socket.connection_count is not None:  # which was by the monitor before this one
        socket.connection_count.end()
        socket.connection_count = None
    return endpoint


class SocketMonitor:
    """Hears what becomes of the connections of one socket from now on.

    Connect and bind the socket after making it, or events are missed. There are none for inproc endpoints. It is to be
    closed before the socket is; or the socket first, by who wants to hear when libzmq is done with that: the last event
    is "monitor_stopped" then, when everything was sent, or the linger has passed.

    A socket has one monitor. One that looks at who connects needs that itself: raises `SocketStateError` for it, and a
    monitor that was there before hears "monitor_stopped" when it is bound.
    """

    def __init__(self, socket: Socket, events: int = _WATCHED) -> None:
        if socket.guard is not None:
            raise SocketStateError(f"cannot monitor {socket!r}: its monitor is needed for looking at who connects")
        self._watched: Socket | None = socket
        self._socket = _connected(monitor_endpoint(socket, events), socket.context)

    @classmethod
    def at(cls, endpoint: str, context: Context) -> SocketMonitor:
        """A monitor of what is told at a `monitor_endpoint`, in this thread. To be closed at "monitor_stopped".

        Not before: where libzmq has nobody to tell, it waits for ever, with all connections of the context.
        """
        monitor = cls.__new__(cls)
        monitor._watched = None
        monitor._socket = _connected(endpoint, context)
        monitor._socket.closes_itself = True
        return monitor

    def call_back(self, function: Callable[[], None]) -> None:
        """Call a function in the hub whenever there may be an event: see `Socket.call_back`."""
        self._socket.call_back(function)

    def receive(self, timeout: float | None = None) -> SocketEvent:
        """Wait for the next event. Raises `ReceiveTimeout`, or `SocketClosed`."""
        event, endpoint = self._socket.receive_frames(timeout)
        number, value = _FORMAT.unpack(event)
        return SocketEvent(_KINDS[number], endpoint.decode(errors="replace"), value)

    def pending(self) -> bool:
        """Whether there is an event that nobody has received yet."""
        return not self._socket.closed and self._socket.has_input()

    def drain(self) -> list[tuple[int, int]]:
        """Receive all events that are there, as libzmq's numbers and values. Raises `SocketClosed`, `TransientError`.

        For who has very many to read: 2 us each, where `receive` takes 20.
        """
        events: list[tuple[int, int]] = []
        zmq_socket = self._socket._zmq_socket
        try:
            while True:
                event = _receive(zmq_socket, _DONTWAIT)
                _receive(zmq_socket, _DONTWAIT)  # the endpoint, which comes with it
                events.append(_FORMAT.unpack(event))
        except zmq.Again:
            return events
        except zmq.ZMQError as error:
            if events:
                return events
            raise self._socket._translated(error, "receive") from error

    def forget(self) -> None:
        """Hear nothing more, where the socket has another monitor now."""
        self._watched = None
        self.close()

    def close(self) -> None:
        """Hear nothing more."""
        watched = self._watched
        # Where the socket has a guard, it is the monitor of that; and of one that is gone libzmq would wait for ever.
        if watched is not None and not (watched.closed or self._socket.closed) and watched.guard is None:
            with contextlib.suppress(zmq.ZMQError):  # the context was terminated
                watched._zmq_socket.disable_monitor()
        self._socket.close(linger=0)


def _connected(endpoint: str, context: Context) -> Socket:
    # Without a limit, since libzmq would wait where nobody reads fast enough, and all connections with it.
    socket = context.socket("pair", {"rcvhwm": 0, "linger": 0})
    socket.credentials = None
    socket.connect(endpoint)
    return socket


class _ConnectionCount:
    """Counts what becomes of the connections of a socket, as long as nobody else monitors it."""

    def __init__(self, socket: Socket, counts: Connections) -> None:
        self._counts = counts
        self._monitor = SocketMonitor(socket, _COUNTED)
        self._monitor.call_back(self._hear)

    def _hear(self) -> None:
        counts = self._counts
        try:
            events = self._monitor.drain()
        except (SocketClosed, TransientError):
            return
        for event, _ in events:
            if event == zmq.EVENT_DISCONNECTED:
                counts.closed += 1
            elif event & _FAILED:
                counts.failed += 1
            elif event != zmq.EVENT_MONITOR_STOPPED:
                counts.opened += 1

    def close(self) -> None:
        """Count no more: the socket is about to be closed."""
        self._monitor.close()

    def end(self) -> None:
        """Count no more: the socket has another monitor now, and this one was told to stop."""
        self._monitor.forget()


def count_connections(socket: Socket) -> None:
    """Let `socket.connections` count those by tcp and ipc from now on: before it is bound or connected.

    A guard goes on with that when the socket gets one. Whoever makes a `SocketMonitor` for the socket ends it.
    """
    socket.connections = counts = Connections()
    socket.connection_count = _ConnectionCount(socket, counts)


class Link:
    """What is known of the connection to one endpoint, from the events of a monitor. No I/O happens here.

    `state` is one of the keys of `STATES`, and `connections` is how often it became "ready".
    """

    STATES: Final = {
        "connecting": "there is no connection yet",
        "unreachable": "no connection can be made",
        "shaking hands": "something listens there, but has not finished the handshake of ZeroMQ",
        "ready": "connected",
        "handshake failed": "something listens there, but the handshake of ZeroMQ failed",
        "rejected": "something listens there, but did not talk to a socket of this type",
        "lost": "the connection was lost",
    }
    """What each state says to who waits for the connection in vain."""

    def __init__(self) -> None:
        self.state = "connecting"
        self.connections = 0

    def __repr__(self) -> str:
        return f"<Link {self.state}>"

    @property
    def ready(self) -> bool:
        """Whether there is a connection, and both ends have shaken hands."""
        return self.state == "ready"

    def words(self, diagnose: Callable[[], str]) -> str:
        """What is known, in words. `diagnose` is asked why nothing can be reached, if that is so."""
        words = self.STATES[self.state]
        if self.state != "unreachable":
            return words
        reason = diagnose()
        lost = "the connection was lost, and " if self.connections else ""
        return lost + words + (f": {reason}" if reason else "")

    def hear(self, event: SocketEvent) -> None:
        """Take note of an event."""
        kind = event.kind
        if kind == "handshake_succeeded":
            self.state = "ready"
            self.connections += 1
        elif kind == "connected":
            self.state = "shaking hands"
        elif kind.startswith("handshake_failed"):
            self.state = "handshake failed"
        elif kind == "disconnected":  # when the handshake failed, that was told before
            self.state = {"ready": "lost", "shaking hands": "rejected"}.get(self.state, self.state)
        elif kind == "closed" or self.state == "connecting":  # an attempt has failed, and there will be another one
            self.state = "unreachable"

"""A socket that is connected to several endpoints, each of which is watched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import gevent
from gevent.queue import Empty, Queue

from ..errors import ReceiveTimeout, SocketClosed, TransientError
from ..security import Credentials
from ..statistics import Connections
from ..transport import Socket, SocketEvent, SocketMonitor
from ..transport.receive_loop import RETRY_PAUSE
from ..transport.spawning import spawn_named
from .watching import Events, WatchedEndpoint

__all__ = ["keep_connected"]

log = logging.getLogger(__name__)


def keep_connected(socket: Socket, uris: Iterable[str], credentials: Credentials) -> None:
    """Connect a socket to endpoints, and keep it connected until it is closed. The log is told who refuses it.

    libzmq would give up a server for good that does not let it in. Raises `EndpointError` and `SecurityError`.
    """
    shared = _SharedMonitor(socket)
    try:
        for uri in uris:
            _Endpoint(socket, uri, credentials, shared)
    except BaseException:
        shared.close()
        raise


class _Endpoint:
    """One of them: tells the log when the server refuses us, and when it does not any more."""

    def __init__(self, socket: Socket, uri: str, credentials: Credentials, shared: _SharedMonitor) -> None:
        self._name = socket.name or repr(socket)
        self._told: object = None
        self._watched = WatchedEndpoint(socket, uri, self._look, "", credentials, events=shared.of(uri))

    def _look(self) -> None:
        refusal = self._watched.handshakes.refusal
        if refusal is not None and refusal != self._told:
            log.warning("%s: %s: %s", self._name, self._watched.uri, refusal.known)
        elif refusal is None and self._told is not None and self._watched.ready:
            log.info("%s: %s: connected", self._name, self._watched.uri)
        elif refusal is None and not self._watched.ready:
            return  # it is being tried again
        self._told = refusal


class _SharedMonitor:
    """The monitor of a socket, of which there is one: each endpoint gets what is its own."""

    def __init__(self, socket: Socket) -> None:
        self._monitor = SocketMonitor(socket)
        self._counts = socket.connections or Connections()
        self._events: dict[str, _EventsOfOne] = {}
        self._reader = spawn_named(f"watch the connections of {socket.name or socket!r}", self._read)

    def of(self, uri: str) -> Events:
        """The events of one endpoint."""
        self._events[uri] = events = _EventsOfOne()
        return events

    def close(self) -> None:
        """Hear nothing more."""
        self._reader.kill()

    def _read(self) -> None:
        try:
            with contextlib.suppress(SocketClosed):  # somebody closed the context
                while (event := self._next()).kind != "monitor_stopped":
                    self._count(event.kind)
                    if event.endpoint in self._events:
                        self._events[event.endpoint].put(event)
        finally:
            self._monitor.close()
            for one in self._events.values():
                one.put(None)

    def _count(self, kind: str) -> None:
        self._counts.opened += kind == "connected"
        self._counts.closed += kind == "disconnected"
        self._counts.failed += kind.startswith("handshake_failed")

    def _next(self) -> SocketEvent:
        while True:
            try:
                return self._monitor.receive()
            except TransientError:  # no memory is left, say
                gevent.sleep(RETRY_PAUSE)


class _EventsOfOne:
    """The events of one endpoint. None is their end."""

    def __init__(self) -> None:
        self._queue: Queue[SocketEvent | None] = Queue()
        self._over = False
        self.put = self._queue.put

    def receive(self, timeout: float | None = None) -> SocketEvent:
        """Wait for the next event. Raises `ReceiveTimeout`, or `SocketClosed`."""
        try:
            event = None if self._over else self._queue.get(timeout=timeout)
        except Empty:
            raise ReceiveTimeout(f"nothing happened within {timeout} s") from None
        if event is None:
            self._over = True
            raise SocketClosed("the socket was closed")
        return event

    def pending(self) -> bool:
        """Whether there is an event that nobody has received yet."""
        return not self._over and not self._queue.empty()

    def close(self) -> None:
        """Hear nothing more."""
        self._over = True

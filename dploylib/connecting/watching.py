"""Knowing whether a socket is connected to an endpoint, and connecting again where libzmq gives up."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Protocol

import gevent

from ..errors import EndpointError, HandshakeFailed, ReceiveTimeout, SocketClosed
from ..security import Credentials
from ..transport import Link, Socket, SocketEvent, SocketMonitor
from ..transport.deadlines import seconds_until
from ..transport.spawning import spawn_named
from .backoff import backoff
from .diagnosis import Diagnosis
from .handshakes import Handshakes, refusal_by_all

__all__ = ["Events", "WatchedEndpoint"]

log = logging.getLogger(__name__)

_MARGIN = 0.1  # seconds of linger beyond those that are waited for: what ends before that has sent everything
_PAUSE = 1.0  # seconds after which an endpoint that libzmq has given up is connected to again
_LOOKS = 10  # at a socket that was disconnected, until nothing is left of its connection; two would do, if in time
_BETWEEN_LOOKS = 0.003  # seconds


class Events(Protocol):
    """What happens to the connection to one endpoint: what a `SocketMonitor` tells."""

    def receive(self, timeout: float | None = None) -> SocketEvent:
        """Wait for the next event. Raises `ReceiveTimeout`, or `SocketClosed`."""

    def pending(self) -> bool:
        """Whether there is an event that nobody has received yet."""

    def close(self) -> None:
        """Hear nothing more."""


class WatchedEndpoint:
    """The connection of a socket to one endpoint, which a greenlet watches until `close`.

    `changed` is called when `ready`, or the refusal of `handshakes`, may be another one. `lost` is what a connection
    that was made again is said in the log to have cost; '' for no word about it. `leaves` is called before the socket
    is disconnected, by which it loses what it has received. `events` are those of the endpoint, where the socket has
    others, too.

    Raises `EndpointError`, `SecurityError`, or `TypeError` for a socket that blocks the thread.
    """

    def __init__(
        self,
        socket: Socket,
        uri: str,
        changed: Callable[[], None],
        lost: str,
        credentials: Credentials | None = None,
        leaves: Callable[[], None] = lambda: None,
        events: Events | None = None,
    ) -> None:
        if not socket.green:
            raise TypeError(f"a client needs a green context (Context.new()), and {socket!r} blocks")
        self.uri = uri
        self.handshakes = Handshakes(uri, credentials)
        self._socket = socket
        self._changed = changed
        self._lost = lost
        self._leaves = leaves
        self._link = Link()
        self._diagnosis = Diagnosis(uri)
        self._told = 1  # connections of which nothing has to be said, or was
        self._monitor: Events | None = None
        if uri.startswith("inproc:"):  # of which libzmq tells nothing
            self.handshakes.connect(socket)
            return
        self._monitor = events or SocketMonitor(socket)
        try:
            self.handshakes.connect(socket)
        except BaseException:
            self._monitor.close()
            raise
        self._keeper = spawn_named(f"watch the connection to {uri}", self._keep, self._monitor)

    @property
    def ready(self) -> bool:
        """Whether there is a connection, and both ends have shaken hands. Always so with inproc."""
        return self._monitor is None or self._link.ready

    @property
    def connections(self) -> int:
        """How often there was a connection."""
        return self._link.connections

    @property
    def reconnections(self) -> int:
        """How often the connection was made again."""
        return max(0, self._link.connections - 1)

    @property
    def state(self) -> str:
        """How it stands with the connection, in words."""
        if self.ready:
            return "connected"
        refusal = self.handshakes.refusal
        return Link.STATES[self._link.state] if refusal is None else refusal.known

    def refusal(self, elapsed: float = 0.0) -> HandshakeFailed | None:
        """The error of an attempt that took so many seconds, if server and client do not agree on how to talk."""
        return refusal_by_all((self.handshakes,), elapsed)

    def known(self) -> str:
        """What is known of the connection, in words. May look why there is none, for a moment."""
        if self.ready or self.handshakes.refusal is not None:
            return self.state
        return self._link.words(self._diagnosis.make)

    def close(self) -> None:
        """Watch no more. To be called before the socket is closed."""
        if self._monitor is not None:
            self._keeper.kill()
            self._monitor.close()

    def begin_closing(self, seconds: float) -> None:
        """Close the socket, which goes on sending what it has for `seconds`, and a little longer."""
        if self._monitor is not None:
            self._keeper.kill()
        self._socket.close(linger=seconds + _MARGIN)

    def wait_closed(self, seconds: float) -> bool:
        """After `begin_closing`, wait until everything was sent; False when it was not within `seconds`."""
        if self._monitor is None:  # what is sent to an inproc endpoint is with the peer at once
            return True
        expires = time.monotonic() + seconds
        try:
            while self._monitor.receive(seconds_until(expires)).kind != "monitor_stopped":
                pass
        except (ReceiveTimeout, SocketClosed):
            return False
        finally:
            self._monitor.close()
        return True

    def _keep(self, monitor: Events) -> None:
        again_at = math.inf
        with contextlib.suppress(SocketClosed):  # somebody closed the context
            while True:
                try:
                    event = monitor.receive(seconds_until(again_at))
                except ReceiveTimeout:
                    again_at = math.inf
                    self._connect_anew(monitor)
                    continue
                if event.kind == "connected" and self._link.ready:  # something was left of the connection before
                    self._connect_anew(monitor)
                    continue
                self._link.hear(event)
                self.handshakes.hear(event)
                # libzmq gives up who is lost before the handshake was done: then nothing else happens, mostly.
                failed = event.kind == "disconnected" and self._link.state != "lost"
                if failed and self.handshakes.judge(self._socket):
                    self._changed()
                    gevent.sleep(backoff(self.handshakes.failures))
                    self._connect_anew(monitor)
                again_at = time.monotonic() + _PAUSE if failed else math.inf
                if self._link.connections > self._told:
                    self._told = self._link.connections
                    if self._lost:
                        log.warning("the connection to %s was lost and made again: %s", self.uri, self._lost)
                self._changed()
        self._changed()

    def _connect_anew(self, monitor: Events) -> None:
        """Connect with what is due now, when nothing is left of the connection before.

        As long as that lingers, for the sake of a subscription, say, libzmq goes on trying with the old key, whatever
        comes of the new one. And it ends in several steps, which are taken only while somebody looks at the socket.
        """
        linger = self._socket.get_option("linger")
        self._socket.set_option("linger", 0)
        self._leaves()
        with contextlib.suppress(EndpointError):  # libzmq has forgotten it
            self._socket.disconnect(self.uri)
        self._socket.set_option("linger", linger)
        for _ in range(_LOOKS):
            gevent.sleep(_BETWEEN_LOOKS)
            self._socket.has_input()
            self._socket.look()  # the one before may have taken away what others wait for
        while monitor.pending():
            self._link.hear(monitor.receive(0))
        if self._link.ready:  # libzmq does not tell of what we have ended ourselves
            self._link.state = "lost"
            self._changed()
        self.handshakes.connect(self._socket)

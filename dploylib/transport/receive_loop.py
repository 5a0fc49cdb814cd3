"""The receive loop: one greenlet a socket, which feeds that socket's messages to its handler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import gevent
from gevent.event import Event

from ..errors import ServiceStateError
from .socket import Socket

__all__ = ["Loop", "ReceiveLoop", "SocketHandler"]

SocketHandler = Callable[[Socket], None]
"""Called with a socket whenever there is a message to receive on it."""

log = logging.getLogger(__name__)

_TURN_SECONDS = 0.002
_PAUSE = 1e-9  # more than nothing: a pause of 0 would let timers and file descriptors starve for 50 turns on end


class Loop(Protocol):
    """What `ReceiveLoop` and `PollLoop` share: what a server needs."""

    def register(self, socket: Socket, handler: SocketHandler) -> None:
        """Call `handler(socket)` whenever there is a message to receive on the socket."""

    def run(self) -> None:
        """Do so until `stop`, or until a handler raises: then raise that."""

    def stop(self) -> None:
        """Read nothing more, and let `run` return once the handlers that run have returned."""

    def kill(self) -> None:
        """Stop, and throw `GreenletExit` into the handlers that still run."""


class ReceiveLoop:
    """Feeds sockets to their handlers, each in a greenlet of its own: a slow handler never holds up another socket.

    A greenlet waits only when there is nothing to read. Otherwise it reads on without switching, and lets the others
    run after 2 ms.
    """

    def __init__(self) -> None:
        self._registered: list[tuple[Socket, SocketHandler]] = []
        self._feeds: list[_Feed] = []
        self._stopping = Event()
        self._running = False

    def register(self, socket: Socket, handler: SocketHandler) -> None:
        """Call `handler(socket)` whenever there is a message to receive on the socket. Works while it runs, too.

        Raises `TypeError` for a socket that would block the thread.
        """
        if not socket.green:
            raise TypeError(f"a ReceiveLoop needs sockets of a green context (Context.new()), and {socket!r} blocks")
        self._registered.append((socket, handler))
        if self._running:
            self._feed(socket, handler)

    def run(self) -> None:
        """Feed until `stop`, or until a handler raises: then raise that."""
        if self._running:
            raise ServiceStateError("this loop runs already")
        self._running = True
        self._feeds = []
        try:
            for socket, handler in self._registered:
                self._feed(socket, handler)
            self._stopping.wait()
            self.stop()  # where a failure set the event
            # At once: a handler of another socket may take long, and `kill` ends it.
            failed = next((feed.failure for feed in gevent.iwait(self._feeds) if feed.failure is not None), None)
        except gevent.GreenletExit:
            self.kill()
            gevent.joinall(self._feeds)
            raise
        finally:
            self._stopping = Event()
            self._running = False
        if failed is not None:
            raise failed

    def stop(self) -> None:
        """Read nothing more, and let `run` return once the handlers that run have returned."""
        self._stopping.set()
        for feed in self._feeds:
            gevent.get_hub().loop.run_callback(feed.interrupt)

    def kill(self) -> None:
        """Stop, and throw `GreenletExit` into the handlers that still run."""
        if self._running:
            self._stopping.set()
        gevent.killall(self._feeds, block=False)

    def _feed(self, socket: Socket, handler: SocketHandler) -> None:
        feed = _Feed(socket, handler, self._stopping)
        self._feeds.append(feed)
        feed.start()


class _Feed(gevent.Greenlet):  # type: ignore[type-arg]  # generic only in the stubs
    """The greenlet of one socket."""

    def __init__(self, socket: Socket, handler: SocketHandler, stopping: Event) -> None:
        super().__init__()
        self.name = f"receive {getattr(handler, 'name', socket)}"
        self.failure: BaseException | None = None
        self._socket = socket
        self._handler = handler
        self._stopping = stopping
        self._waiting = True  # it holds no message

    def interrupt(self) -> None:
        """End it if it waits. Called by the hub itself: a scheduled `kill` could come when a handler runs again."""
        if self._waiting:
            self.throw(gevent.GreenletExit)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - run() raises it, be it a gevent.Timeout or a SystemExit
            if not (isinstance(error, gevent.GreenletExit) and self._stopping.is_set()):
                self.failure = error
            self._stopping.set()

    def _loop(self) -> None:
        socket, handler, stopped = self._socket, self._handler, self._stopping.is_set
        self._waiting = False
        turn_ends = monotonic() + _TURN_SECONDS
        while not stopped():
            if not socket.readable():
                self._wait()
                turn_ends = monotonic() + _TURN_SECONDS
            handler(socket)
            if monotonic() > turn_ends:  # 45 ns a message
                if stopped():
                    return
                gevent.sleep(_PAUSE)
                turn_ends = monotonic() + _TURN_SECONDS

    def _wait(self) -> None:
        self._waiting = True
        while self._waiting:
            try:
                self._socket.wait_readable()
                self._waiting = False
            except (gevent.GreenletExit, gevent.Timeout) as stray:
                if self._stopping.is_set():
                    raise
                # Of a handler that has returned: the next messages are none the worse.
                log.warning("%s: ignoring a %s that came too late for its handler", self.name, type(stray).__name__)

"""The poll loop: the older way of feeding sockets to handlers, for code that wants to poll."""

from __future__ import annotations

import math
from typing import Any

import gevent
import zmq
import zmq.green

from ..errors import ServiceStateError
from .receive_loop import SocketHandler
from .socket import Socket

__all__ = ["PollLoop"]

_STOP_CHECK = 0.1  # seconds; a poll cannot be interrupted, so this is how late a stop may be noticed


class PollLoop:
    """Polls sockets and calls the handler of each that is readable, one after the other in the calling greenlet.

    `poller` is a `zmq.green.Poller`, or a plain `zmq.Poller`, which blocks the thread. `ReceiveLoop` is faster, and
    there a slow handler holds up nobody.
    """

    def __init__(self, poller: zmq.Poller) -> None:
        self._poller = poller
        self._handlers: dict[Any, tuple[Any, SocketHandler]] = {}
        self._stopping = False
        self._runner: Any = None

    @classmethod
    def new(cls) -> PollLoop:
        """A poll loop with a `zmq.green.Poller`, which lets other greenlets run while it waits."""
        return cls(zmq.green.Poller())

    def register(self, socket: Any, handler: SocketHandler) -> None:
        """Call `handler(socket)` for each poll that finds a message on the socket.

        The socket may also be one of pyzmq's, or a file descriptor.
        """
        pollable = socket.zmq_socket if isinstance(socket, Socket) else socket
        self._handlers[pollable] = (socket, handler)
        self._poller.register(pollable, zmq.POLLIN)

    def poll(self, timeout: float | None = None) -> int:
        """Poll once, for at most `timeout` seconds (None: until something is readable), and call the handlers.

        Returns how many were called.
        """
        # A message that was read ahead (`wait_readable`) is no longer in the socket, where the poller would see it.
        ahead = [entry for entry in self._handlers.values() if isinstance(entry[0], Socket) and entry[0]._next]
        if ahead:
            timeout = 0
        events = self._poller.poll(None if timeout is None else math.ceil(timeout * 1000))
        for socket, _ in self._handlers.values():
            if isinstance(socket, Socket):
                socket._waiter.wake()  # the poller reads events past zmq.green
        polled = [self._handlers[pollable] for pollable, event in events if event & zmq.POLLIN]
        readable = ahead + [entry for entry in polled if entry not in ahead]
        for socket, handler in readable:
            handler(socket)
        return len(readable)

    def run(self) -> None:
        """Poll until `stop`, or until a handler raises: then raise that."""
        if self._runner is not None:
            raise ServiceStateError("this loop runs already")
        self._runner = gevent.getcurrent()
        try:
            while not self._stopping:
                self.poll(_STOP_CHECK)
        except gevent.GreenletExit:
            if not self._stopping:
                raise
        finally:
            self._runner = None
            self._stopping = False

    def stop(self) -> None:
        """Poll no more, and let `run` return once the handler that runs has returned."""
        self._stopping = True

    def kill(self) -> None:
        """Stop, and throw `GreenletExit` into the handler that still runs."""
        self._stopping = True
        if self._runner is not None:
            gevent.get_hub().loop.run_callback(self._end, self._runner)

    def _end(self, runner: Any) -> None:
        """Throw into the greenlet that runs, unless `run` has returned meanwhile. Called by the hub itself."""
        if runner is self._runner:
            runner.throw(gevent.GreenletExit)

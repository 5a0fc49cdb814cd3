"""The poll loop: the older way of feeding sockets to handlers, for code that wants to poll."""

from __future__ import annotations

import contextvars
import logging
import math
from typing import Any

import gevent
import zmq
import zmq.green
from gevent.pool import Pool

from ..errors import ServiceStateError
from ..handling import forget
from .receive_loop import SocketHandler
from .socket import Socket

__all__ = ["PollLoop"]

log = logging.getLogger(__name__)

_STOP_CHECK = 0.1  # seconds; a poll cannot be interrupted, so this is how late a stop may be noticed


class PollLoop:
    """Polls sockets and calls the handler of each that is readable, one after the other in the calling greenlet.

    `poller` is a `zmq.green.Poller`, or a plain `zmq.Poller`, which blocks the thread. `ReceiveLoop` is faster, and
    there a slow handler holds up nobody.
    """

    def __init__(self, poller: zmq.Poller) -> None:
        self._poller = poller
        self._handlers: dict[Any, tuple[Any, SocketHandler]] = {}
        self._pools: list[Pool] = []
        self._failure: BaseException | None = None  # of a handler that ran in a pool
        self._stopping = False
        self._handling = False  # else it polls
        self._runner: Any = None

    @classmethod
    def new(cls) -> PollLoop:
        """A poll loop with a `zmq.green.Poller`, which lets other greenlets run while it waits."""
        return cls(zmq.green.Poller())

    def register(self, socket: Any, handler: SocketHandler, concurrency: int = 1) -> None:
        """Call `handler(socket)` for each poll that finds a message on the socket.

        The socket may also be one of pyzmq's, or a file descriptor. With a `concurrency` above 1, that many handlers
        of the socket run at once, each in a greenlet of its own; nothing is polled while all of them are busy.
        """
        pollable = socket.zmq_socket if isinstance(socket, Socket) else socket
        if concurrency > 1:
            handler = self._in_pool(handler, concurrency)
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
        self._handling = True
        for socket, handler in readable:
            contextvars.copy_context().run(handler, socket)  # so that no message knows what another one has set
        self._handling = False
        forget()  # the last message: this greenlet may be that of the user
        self._raise_failure()
        return len(readable)

    def run(self) -> None:
        """Poll until `stop`, or until a handler raises: then raise that."""
        if self._runner is not None:
            raise ServiceStateError("this loop runs already")
        self._runner = gevent.getcurrent()
        try:
            while not self._stopping:
                self._handling = False
                try:
                    self.poll(_STOP_CHECK)
                except gevent.Timeout:
                    if self._handling:
                        raise
                    log.warning("ignoring a Timeout that came too late for its handler")
        except gevent.GreenletExit:
            if not self._stopping:
                self._kill_pools(0)
                raise
        finally:
            self._runner = None
            self._stopping = False
            for pool in self._pools:
                pool.join()
        self._raise_failure()

    def stop(self) -> None:
        """Poll no more, and let `run` return once the handlers that run have returned."""
        self._stopping = True

    def kill(self, timeout: float = 0.0) -> None:
        """Stop, throw `GreenletExit` into the handlers that still run, and give them `timeout` seconds to end."""
        if self._runner is not None:
            self._stopping = True
            gevent.get_hub().loop.run_callback(self._end, self._runner)
        self._kill_pools(timeout)

    def _end(self, runner: Any) -> None:
        """Throw into the greenlet that runs, unless it polls no more. Called by the hub itself."""
        if runner is self._runner:
            runner.throw(gevent.GreenletExit)

    def _kill_pools(self, timeout: float) -> None:
        handlers = [greenlet for pool in self._pools for greenlet in pool]
        gevent.killall(handlers, block=False)
        gevent.joinall(handlers, timeout)

    def _in_pool(self, handler: SocketHandler, concurrency: int) -> SocketHandler:
        """A handler that lets this one run in a greenlet, as soon as one of `concurrency` is free."""
        pool = Pool(concurrency)
        self._pools.append(pool)

        def handle(socket: Socket) -> None:
            pool.spawn(self._try, handler, socket).name = f"receive {getattr(handler, 'name', socket)}"
            gevent.sleep(0)  # until it has received its message, which the next poll would find again
            pool.wait_available()

        return handle

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _try(self, handler: SocketHandler, socket: Socket) -> None:
        try:
            handler(socket)
        except gevent.GreenletExit:
            pass
        except BaseException as error:  # noqa: BLE001 - run() raises it
            self._failure = error

"""How a socket waits until it can receive or send: by switching to the hub, or by blocking the thread.

`Socket` tries everything without waiting first, and comes here only when libzmq says EAGAIN. A message is always sent
or received whole by one attempt, with nothing in between its frames: libzmq mixes messages up if it learns of a lost
peer there (lb_t::pipe_terminated and fq_t::pipe_terminated with three peers), and every look at the events tells it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import zmq
import zmq.green
from gevent.lock import BoundedSemaphore

__all__ = ["BlockingWaiter", "GreenWaiter", "TimeIsUp", "Waiter", "waiter_for"]


_SIGNAL_CHECK = 1.0  # seconds


class TimeIsUp(Exception):
    """What a `Waiter` raises: an exception of its own, so that a `TimeoutError` of the caller's passes through."""


class Waiter(Protocol):
    """Calls `attempt` until it returns True, and waits in between.

    `receiving` and `sending` count who is in here. `timeout` is in seconds, None for ever; when it passes, `TimeIsUp`
    is raised and no attempt has succeeded. An attempt must not `wake` when it returns False.
    """

    receiving: int
    sending: int

    def receive(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to receive a message."""

    def send(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to send a message."""

    def wake(self) -> None:
        """Let who waits look again, since the caller may have taken away the event that was waited for."""


class GreenWaiter:
    """Waits on a `zmq.green` socket, so that only the greenlet waits.

    zmq.green takes one waiter a direction (pyzmq #1154): the others queue on a semaphore. Its file descriptor is
    edge-triggered (pyzmq #199): any call on the socket may consume the edge that somebody waits for in here, so
    whoever calls libzmq past zmq.green must `wake` those who wait, or they sleep for up to 11.6 s.
    """

    def __init__(self, zmq_socket: Any) -> None:
        # Its `_wait_read` and `_wait_write` are what its recv() and send() wait with, and there for 10 years.
        self._socket = zmq_socket
        self._receive_turn = BoundedSemaphore(1)
        self._send_turn = BoundedSemaphore(1)
        self.receiving = 0
        self.sending = 0

    def receive(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to receive a message."""
        self.receiving += 1
        try:
            with _time_limit(timeout), self._receive_turn:
                while not attempt():
                    if self.sending:
                        self._wake_soon()
                    self._socket._wait_read()
        finally:
            self.receiving -= 1

    def send(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to send a message."""
        self.sending += 1
        try:
            with _time_limit(timeout), self._send_turn:
                while not attempt():
                    self._wake_soon()  # alone too: a PAIR lets go of a lost peer only when somebody looks at its events
                    self._socket._wait_write()
        finally:
            self.sending -= 1

    def wake(self) -> None:
        """Read the events through zmq.green, which tells those who wait for them."""
        if self.receiving or self.sending:
            with contextlib.suppress(zmq.ZMQError):  # closed, or its context terminated: zmq.green tells who waits
                self._socket.get(zmq.EVENTS)

    def _wake_soon(self) -> None:
        """Wake the others once the caller waits: the attempt that failed may have taken away their event."""
        gevent.get_hub().loop.run_callback(self.wake)


class BlockingWaiter:
    """Waits on a plain `zmq.Socket`, which blocks the thread. Such a socket is for one thread at a time."""

    receiving = 0
    sending = 0

    def __init__(self, zmq_socket: zmq.Socket[bytes]) -> None:
        self._socket = zmq_socket

    def receive(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to receive a message."""
        self._wait(attempt, zmq.POLLIN, timeout)

    def send(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Attempt to send a message."""
        self._wait(attempt, zmq.POLLOUT, timeout)

    def wake(self) -> None:
        """Nobody else waits here."""

    def _wait(self, attempt: Callable[[], bool], event: int, timeout: float | None) -> None:
        expires = math.inf if timeout is None else time.monotonic() + timeout
        while not attempt():
            left = expires - time.monotonic()
            if left <= 0:
                raise TimeIsUp
            # Not all of it at once: a signal that came just before poll() is handled only when that returns.
            self._socket.poll(math.ceil(min(left, _SIGNAL_CHECK) * 1000), event)


def waiter_for(zmq_socket: Any) -> Waiter:
    """The waiter that fits a socket. Raises `TypeError` for sockets whose calls return futures (zmq.asyncio)."""
    if isinstance(zmq_socket, zmq.green.Socket):
        return GreenWaiter(zmq_socket)
    if isinstance(zmq_socket, zmq.Socket) and not hasattr(zmq_socket, "_shadow_sock"):
        return BlockingWaiter(zmq_socket)
    raise TypeError(f"expected a socket of zmq.green or of a plain zmq.Context, got {zmq_socket!r}")


def _time_limit(seconds: float | None) -> gevent.Timeout:
    return gevent.Timeout(None if seconds == math.inf else seconds, TimeIsUp)

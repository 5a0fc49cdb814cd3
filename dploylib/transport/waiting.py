"""How a socket waits until it can receive or send: by switching to the hub, or by blocking the thread.

`Socket` tries everything without waiting first, and comes here only when libzmq says EAGAIN.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Protocol

import gevent
import zmq
import zmq.green
from gevent.lock import BoundedSemaphore

__all__ = ["BlockingWaiter", "GreenWaiter", "TimeIsUp", "Waiter", "waiter_for"]


class TimeIsUp(Exception):
    """What a `Waiter` raises: an exception of its own, so that a `TimeoutError` of the caller's passes through."""


class Waiter(Protocol):
    """Receives or sends the first frame of a message, however long that takes.

    `receiving` and `sending` count who is in here. `timeout` is in seconds, None for ever; when it passes, `TimeIsUp`
    is raised and nothing was received or sent.
    """

    receiving: int
    sending: int

    def receive_first(self, timeout: float | None) -> bytes:
        """The first frame of the next message."""

    def send_first(self, frame: Any, flags: int, timeout: float | None) -> None:
        """Send the first frame of a message."""

    def wake(self) -> None:
        """Let who waits look again, since the caller may have taken away the event that was waited for."""


class GreenWaiter:
    """Waits on a `zmq.green` socket, so that only the greenlet waits.

    zmq.green takes one waiter a direction (pyzmq #1154): the others queue on a semaphore. Its file descriptor is
    edge-triggered (pyzmq #199): any call on the socket may consume the edge that somebody waits for in here, so
    whoever calls libzmq past zmq.green must `wake` those who wait, or they sleep for up to 11.6 s.
    """

    def __init__(self, zmq_socket: zmq.Socket[bytes]) -> None:
        self._socket = zmq_socket
        self._receive_turn = BoundedSemaphore(1)
        self._send_turn = BoundedSemaphore(1)
        self.receiving = 0
        self.sending = 0

    def receive_first(self, timeout: float | None) -> bytes:
        """The first frame of the next message."""
        self.receiving += 1
        try:
            with _time_limit(timeout), self._receive_turn:
                if self.sending:
                    self._wake_soon()
                return self._socket.recv()
        finally:
            self.receiving -= 1

    def send_first(self, frame: Any, flags: int, timeout: float | None) -> None:
        """Send the first frame of a message."""
        self.sending += 1
        try:
            with _time_limit(timeout), self._send_turn:
                if self.receiving:
                    self._wake_soon()
                self._socket.send(frame, flags)
        finally:
            self.sending -= 1

    def wake(self) -> None:
        """Read the events through zmq.green, which tells those who wait for them."""
        if (self.receiving or self.sending) and not self._socket.closed:
            with contextlib.suppress(zmq.ZMQError):  # the context was terminated: who waits is told by zmq.green
                self._socket.get(zmq.EVENTS)

    def _wake_soon(self) -> None:
        """Wake the other direction once the caller waits: finding out that it must wait may take an event away."""
        gevent.get_hub().loop.run_callback(self.wake)


class BlockingWaiter:
    """Waits on a plain `zmq.Socket`, which blocks the thread. Such a socket is for one thread at a time."""

    receiving = 0
    sending = 0

    def __init__(self, zmq_socket: zmq.Socket[bytes]) -> None:
        self._socket = zmq_socket

    def receive_first(self, timeout: float | None) -> bytes:
        """The first frame of the next message."""
        expires = _expiry(timeout)
        while True:  # a poll may find a message that recv then discards: a reply to no request of this REQ
            self._poll(zmq.POLLIN, expires)
            with contextlib.suppress(zmq.Again):
                return self._socket.recv(zmq.DONTWAIT)

    def send_first(self, frame: Any, flags: int, timeout: float | None) -> None:
        """Send the first frame of a message."""
        expires = _expiry(timeout)
        while True:
            self._poll(zmq.POLLOUT, expires)
            with contextlib.suppress(zmq.Again):
                self._socket.send(frame, flags | zmq.DONTWAIT)
                return

    def wake(self) -> None:
        """Nobody else waits here."""

    def _poll(self, event: int, expires: float) -> None:
        left = expires - time.monotonic()
        if not self._socket.poll(None if left == math.inf else max(0, math.ceil(left * 1000)), event):
            raise TimeIsUp


def waiter_for(zmq_socket: Any) -> Waiter:
    """The waiter that fits a socket. Raises `TypeError` for sockets whose calls return futures (zmq.asyncio)."""
    if isinstance(zmq_socket, zmq.green.Socket):
        return GreenWaiter(zmq_socket)
    if isinstance(zmq_socket, zmq.Socket) and not hasattr(zmq_socket, "_shadow_sock"):
        return BlockingWaiter(zmq_socket)
    raise TypeError(f"expected a socket of zmq.green or of a plain zmq.Context, got {zmq_socket!r}")


def _expiry(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout


def _time_limit(seconds: float | None) -> gevent.Timeout:
    return gevent.Timeout(None if seconds == math.inf else seconds, TimeIsUp)

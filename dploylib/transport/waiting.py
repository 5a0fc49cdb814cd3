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
from greenlet import getcurrent, greenlet
from zmq.backend import Socket as _CSocket

from ..errors import SocketClosed, SocketStateError

__all__ = ["BlockingWaiter", "GreenWaiter", "TimeIsUp", "Waiter", "waiter_for"]


_SIGNAL_CHECK = 1.0  # seconds
_DISTRUST = 10.0  # seconds after which a green socket is looked at although libzmq says that nothing happened
_NO_LIMIT = contextlib.nullcontext()

_get: Callable[..., Any] = _CSocket.get  # below zmq.green, which would look twice
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)


class TimeIsUp(Exception):
    """What a `Waiter` raises: an exception of its own, so that a `TimeoutError` of the caller's passes through."""


class Waiter(Protocol):
    """Waits, and then calls `attempt`, until it returns True.

    The caller has attempted in vain, unless others wait, whom it must not overtake. `receiving` and `sending` count who
    is in here. `timeout` is in seconds, None for ever; when it passes, `TimeIsUp` is raised and no attempt has
    succeeded.
    """

    receiving: int
    sending: int
    shared: bool  # whether others may have the socket of pyzmq

    def receive(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Wait for a message, and attempt to receive it."""

    def send(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Wait for room, and attempt to send a message."""

    def wake(self) -> None:
        """Let who waits look again, since the caller may have taken away the event that was waited for."""


class _Callback:
    """Stands for a reader where there is none: a function to be called."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.switch = function


class GreenWaiter:
    """Waits on a `zmq.green` socket, so that only the greenlet waits.

    zmq.green has one waiter a direction (pyzmq #1154): the others queue on a semaphore. Its file descriptor is
    edge-triggered (pyzmq #199): any call on the socket may consume the edge that somebody waits for in here, so
    whoever calls libzmq must `wake` those who wait, or they sleep until the next event.

    It takes over the watcher of that file descriptor, since zmq.green's own way costs 13 us more a wait: it starts a
    timeout for each, against edges that were lost, and notifies by another turn of the loop. Here one timer does for
    the life of the socket. Where the socket is `shared` with code that uses it itself, zmq.green gets to know of the
    events as ever.
    """

    def __init__(self, zmq_socket: Any) -> None:
        self.receiving = 0
        self.sending = 0
        self.shared = True
        self._socket = zmq_socket
        self._receive_turn = BoundedSemaphore(1)
        self._send_turn = BoundedSemaphore(1)
        self._reader: greenlet | _Callback | None = None
        self._writer: greenlet | None = None
        self._looks_soon = False
        self._hub = gevent.get_hub()
        self._watcher = zmq_socket._state_event
        self._soon: Callable[..., Any] = self._watcher.loop.run_callback
        self._tell_zmq_green = self._watcher.callback
        self._watcher.stop()
        self._watcher.start(self._look)
        zmq_socket._state_event = self  # which zmq.green stops when the socket is closed
        self._distrust = self._watcher.loop.timer(_DISTRUST, _DISTRUST, ref=False)
        self._distrust.start(self._look)

    def receive(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Wait for a message, and attempt to receive it."""
        self._check_thread()
        queues = self.receiving > 0
        self.receiving += 1
        try:
            with _time_limit(timeout), self._receive_turn:
                if queues and attempt():
                    return
                while True:
                    self._reader = getcurrent()
                    if self._writer is not None:  # whose event the attempt may have taken away
                        self.wake()
                    try:
                        self._hub.switch()
                    finally:
                        self._reader = None
                    if attempt():
                        return
        finally:
            self.receiving -= 1

    def send(self, attempt: Callable[[], bool], timeout: float | None) -> None:
        """Wait for room, and attempt to send a message."""
        self._check_thread()
        queues = self.sending > 0
        self.sending += 1
        try:
            with _time_limit(timeout), self._send_turn:
                if queues and attempt():
                    return
                while True:
                    self._writer = getcurrent()
                    self.wake()  # alone too: a PAIR lets go of a lost peer only when somebody looks at its events
                    try:
                        self._hub.switch()
                    finally:
                        self._writer = None
                    if attempt():
                        return
        finally:
            self.sending -= 1

    def call_back(self, function: Callable[[], None], delay: float = 0.0) -> None:
        """Call a function in the hub whenever there may be a message, instead of letting somebody wait for one.

        It must read until there is none, or `wake` again, and must not raise. Whoever sends must `wake` afterwards;
        with a `delay` (seconds) such a look comes only then, and who sends all the time pays for few (3 us each).
        """
        self._check_thread()
        if delay:
            self._soon = self._watcher.loop.timer(delay, ref=False).start
        self._reader = _Callback(function)
        self.wake()

    def wake(self) -> None:
        """Look at the events for those who wait, as soon as the caller lets the hub run."""
        if not self._looks_soon and (self._reader is not None or self._writer is not None):
            self._looks_soon = True
            self._soon(self._look, True)

    def stop(self) -> None:
        """Watch no more: the socket was closed, as zmq.green tells us, or its context terminated.

        libzmq reads its file descriptor no more then, which would be readable for ever.
        """
        self._watcher.stop()
        self._distrust.stop()
        if isinstance(self._reader, _Callback):  # who is woken by every look would be so for ever
            self._reader = None
        self.wake()

    def _check_thread(self) -> None:
        if gevent.get_hub() is not self._hub:
            raise SocketStateError(f"cannot wait on {self._socket!r} here: it belongs to the thread that made it")

    def _look(self, woken: bool = False) -> None:
        """Switch to who waits for what has happened. Called by the hub: on an event, or after none for long.

        Only the call that `wake` has asked for lets it ask again: while busy, the hub takes few of these calls a round,
        and would have thousands before it, and seconds of them, if each event that comes first brought another one.
        """
        if woken:
            self._looks_soon = False
        if self.shared:  # 3 us; first, since that too may take an event away
            self._tell_zmq_green()
        try:
            events = _get(self._socket, _EVENTS)
        except zmq.ZMQError as error:  # so their attempts will tell
            if error.errno in (zmq.ETERM, zmq.ENOTSOCK):  # else it passes
                self.stop()
            events = _POLLIN | _POLLOUT
        if events & _POLLIN and self._reader is not None:
            self._reader.switch()
        if events & _POLLOUT and self._writer is not None:
            self._writer.switch()


class BlockingWaiter:
    """Waits on a plain `zmq.Socket`, which blocks the thread. Such a socket is for one thread at a time."""

    receiving = 0
    sending = 0
    shared = True

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
        while not attempt():  # which costs nothing here, and a wait of no time is none
            left = expires - time.monotonic()
            if left <= 0:
                raise TimeIsUp
            # Not all of it at once: a signal that came just before poll() is handled only when that returns.
            self._socket.poll(math.ceil(min(left, _SIGNAL_CHECK) * 1000), event)


def waiter_for(zmq_socket: Any) -> Waiter:
    """The waiter that fits a socket, the same one for the same green socket.

    Raises `TypeError` for sockets whose calls return futures (zmq.asyncio), `SocketClosed` for one that was closed.
    """
    if getattr(zmq_socket, "closed", False):
        raise SocketClosed("cannot wrap a socket that was closed")
    if isinstance(zmq_socket, zmq.green.Socket):
        watcher = zmq_socket._state_event
        return watcher if isinstance(watcher, GreenWaiter) else GreenWaiter(zmq_socket)
    if isinstance(zmq_socket, zmq.Socket) and not hasattr(zmq_socket, "_shadow_sock"):
        return BlockingWaiter(zmq_socket)
    raise TypeError(f"expected a socket of zmq.green or of a plain zmq.Context, got {zmq_socket!r}")


def _time_limit(seconds: float | None) -> contextlib.AbstractContextManager[Any]:
    if seconds is None or seconds == math.inf:
        return _NO_LIMIT  # a Timeout of no time at all costs 850 ns
    return gevent.Timeout(seconds, TimeIsUp)

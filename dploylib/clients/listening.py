"""The client of publishers: it receives what they publish under some ids."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from greenlet import getcurrent

from ..connecting import WatchedEndpoint
from ..errors import (
    ConnectTimeout,
    MalformedEnvelope,
    ReceiveTimeout,
    SocketClosed,
    TransientError,
)
from ..security import Security
from ..transport import Context, ReceivedData
from ..transport.codecs import ObjectDecoder
from ..transport.deadlines import seconds_until
from ..transport.envelope import adopt
from ..transport.options import Options
from ..transport.publishing import subscription_id
from ..transport.reading import is_confirmation, read_message
from ..transport.receive_loop import RETRY_PAUSE
from .base import Client, options_of

__all__ = ["ListeningClient"]

log = logging.getLogger(__name__)

_OPTIONS = {"sndhwm": 0}  # of subscriptions, which libzmq would drop beyond that
_CONFIRMATION_PATIENCE = 1.0  # seconds for which a publisher that is connected may take to confirm
_ASK_AGAIN = 0.3  # seconds after which it is asked once more: it confirms only so many at once
_COMPLAINT_INTERVAL = 1.0  # seconds between two lines in the log about messages that could not be used


class ListeningClient(Client):
    """Receives what a publisher publishes under ids that begin with `id`: a str, or several; '' is everything.

    For example::

        with ListeningClient("tcp://127.0.0.1:5001", "weather") as client:
            client.wait_connected()
            for received in client:
                print(received.id, received.text)

    `obj` is what `received.obj` is made with, as in `bind_in`. `context` is the context to make the socket in, a new
    one if none is given. `options` are socket options. `security` is how to prove who one is, and to know the
    publisher: as the context is secured, if not given.

    When the connection is lost, it is made again, and so are the subscriptions. What was published in between is lost,
    and there is a warning in the log. Any number of greenlets may use one client: each message goes to one of them. It
    belongs to the thread that made it.
    """

    def __init__(
        self,
        uri: str,
        id: str | Iterable[str] = "",
        obj: Any = None,
        context: Context | None = None,
        options: Options | None = None,
        security: Security | None = None,
    ) -> None:
        self._decoder = None if obj is None else ObjectDecoder(obj)
        self._ready = Event()
        self._turn = Semaphore(1)  # of who reads
        self._early: deque[list[Any]] = deque()  # what came while only a confirmation was waited for
        self._awaited: dict[bytes, Event] = {}  # what publishers were asked to confirm
        self._iterating: set[Any] = set()  # greenlets that wait for the next message of their iteration
        self._refusable: set[Any] = set()  # greenlets that are not to wait when the publisher refuses to talk to us
        self._stopped = False
        self._untold = 0  # what went wrong since the log last had a line about it
        self._complains_from = 0.0  # on the clock of time.monotonic
        super().__init__(context, security)
        try:
            self._socket = self._context.socket("sub", options_of(_OPTIONS, options))
        except BaseException:
            self._close_context()
            raise
        try:
            self._socket._read = read_message  # confirmations too, which a SUB of ours leaves out
            for topic in [id] if isinstance(id, str) else id:
                self._socket.subscribe(topic)
            lost = "what was published meanwhile is lost"
            self._endpoint = WatchedEndpoint(self._socket, uri, self._look, lost, self._credentials, self._save)
        except BaseException:
            self._socket.close()
            self._close_context()
            raise
        self._look()

    # Receiving ---------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> ReceivedData:
        """The next message. `timeout` is in seconds, None for as long as it takes.

        Raises `ReceiveTimeout`; `HandshakeFailed`, at once, when the publisher refused to talk to this client when it
        was tried last; `SocketClosed` when the client is closed; `MalformedEnvelope` for what is none.
        """
        began = time.monotonic()
        expires = math.inf if timeout is None else began + timeout
        frames, me = None, getcurrent()
        self._refusable.add(me)
        try:
            if self._turn.acquire(timeout=seconds_until(expires)):
                try:
                    frames = self._early.popleft() if self._early else self._next(expires)
                finally:
                    self._turn.release()
        except _Refused:
            pass
        finally:
            self._refusable.discard(me)
        if frames is None:
            raise self._endpoint.refusal(time.monotonic() - began) or self._nothing_came(timeout)
        return ReceivedData(adopt(frames), self._decoder)

    def __iter__(self) -> Iterator[ReceivedData]:
        """The messages, until `stop` or `close`. One that is no envelope is logged, and left out.

        Raises `HandshakeFailed` as `receive` does; then the next one may be asked for again.
        """
        return self

    def __next__(self) -> ReceivedData:
        me = getcurrent()
        while not self._stopped:
            self._iterating.add(me)
            try:
                return self.receive()
            except (MalformedEnvelope, TransientError) as error:
                problem = error
            except (SocketClosed, _Stop):
                break
            finally:
                self._iterating.discard(me)
            self._complain(problem)
            if isinstance(problem, TransientError):
                gevent.sleep(RETRY_PAUSE)
        raise StopIteration

    def listen(self, handler: Callable[[ReceivedData], Any]) -> None:
        """Call `handler(received)` with one message after the other, until `stop` or `close`.

        What the handler raises is raised here, and ends it; `HandshakeFailed` likewise. A message that is no envelope
        is logged, and left out.
        """
        for received in self:
            handler(received)

    def stop(self) -> None:
        """End all iterations and `listen`, for good, and let handlers that run finish. `receive` goes on working.

        May be called by a handler, or by any greenlet.
        """
        self._stopped = True
        for greenlet in self._iterating:
            gevent.get_hub().loop.run_callback(self._end_iteration, greenlet)

    # Subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, id: str) -> None:
        """Receive what is published under ids that begin with this one, too."""
        self._socket.subscribe(id)

    def unsubscribe(self, id: str) -> None:
        """Take back one subscription to this id. What has been received is not lost."""
        self._socket.unsubscribe(id)

    def wait_connected(self, timeout: float = 30.0) -> bool:
        """Wait until the publisher has taken the subscriptions: from then on, nothing is missed.

        True when it has said so, as the publishers of servers do. False when there is a connection, but no such word
        for a second, as with other publishers, or within `timeout` seconds. Messages that come meanwhile are kept.
        Raises `ConnectTimeout` when there is no connection, or `HandshakeFailed` as `receive` does.
        """
        began = time.monotonic()
        expires = began + timeout
        while True:
            if not self._wait_ready(seconds_until(expires)):
                elapsed, endpoint = time.monotonic() - began, self._endpoint
                raise endpoint.refusal(elapsed) or ConnectTimeout(endpoint.uri, elapsed, endpoint.known())
            if self._socket.closed:
                raise SocketClosed(f"{self!r} was closed")
            connections = self._endpoint.connections
            confirmed = self._wait_confirmed(min(expires, time.monotonic() + _CONFIRMATION_PATIENCE))
            if self.connected and self._endpoint.connections == connections:  # else the subscriptions are made again
                return confirmed

    def _wait_ready(self, seconds: float | None) -> bool:
        """Wait until there is a connection, or it was closed. False when it is time, or the publisher refuses."""
        if self._endpoint.refusal() is not None:
            return self._ready.is_set()
        me = getcurrent()
        self._refusable.add(me)
        try:
            return bool(self._ready.wait(seconds))
        except _Refused:
            return False
        finally:
            self._refusable.discard(me)

    def _wait_confirmed(self, expires: float) -> bool:
        """Ask the publisher for a confirmation, and wait for it."""
        confirmed = Event()
        ids: list[bytes] = []
        try:
            while not confirmed.is_set() and time.monotonic() < expires and self.connected:
                ids.append(subscription_id().encode())
                self._awaited[ids[-1]] = confirmed
                self._socket.subscribe(ids[-1])
                self._read_until(confirmed, min(expires, time.monotonic() + _ASK_AGAIN))
        finally:
            for id in ids:
                del self._awaited[id]
                if not self._socket.closed:
                    self._socket.unsubscribe(id)
        return confirmed.is_set()

    def _read_until(self, confirmed: Event, expires: float) -> None:
        """Read, in turn with those who wait for messages, until this has happened."""
        while not confirmed.is_set():
            left = expires - time.monotonic()
            if left <= 0:
                return
            gevent.wait([confirmed, self._turn], timeout=left, count=1)
            if confirmed.is_set() or not self._turn.acquire(blocking=False):
                continue
            try:
                frames = self._next(expires, confirmed)
                if frames is not None:
                    self._early.append(frames)
            except MalformedEnvelope as error:
                self._complain(error)
            finally:
                self._turn.release()

    # What it knows -----------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """The endpoint of the publisher."""
        return self._endpoint.uri

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the publisher. Of inproc endpoints this is not known: always so."""
        return self._endpoint.ready and not self._socket.closed

    @property
    def closed(self) -> bool:
        """Whether the client, or its context, was closed."""
        return self._socket.closed

    @property
    def state(self) -> str:
        """How it stands with the connection, in words."""
        return self._endpoint.state

    @property
    def reconnections(self) -> int:
        """How often the connection was lost and made again. Each time, what was published in between is lost."""
        return self._endpoint.reconnections

    def __repr__(self) -> str:
        return f"<ListeningClient {self._endpoint.uri}>"

    # The end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close it. Iterations end; who waits in `receive` gets `SocketClosed`. Closing it again does nothing."""
        self._endpoint.close()
        self._socket.close()
        self._ready.set()
        self._close_context()

    # Underneath --------------------------------------------------------------------------------------------------

    def _next(self, expires: float, confirmed: Event | None = None) -> list[Any] | None:
        """The frames of the next message of the socket; None when it is time, or this has happened.

        It does not wait for a publisher that refuses.
        """
        if self._endpoint.handshakes.refusal is not None:
            expires = -math.inf
        while confirmed is None or not confirmed.is_set():
            try:
                frames = self._socket.receive_frames(max(0.0, expires - time.monotonic()), copy=False)
            except ReceiveTimeout:
                return None
            if not is_confirmation(frames):
                return frames
            awaited = self._awaited.get(frames[0])
            if awaited is not None:  # else nobody waits any more, or it is for somebody else
                awaited.set()
        return None

    def _save(self) -> None:
        """Keep what has come, which libzmq would drop with its connection. Who reads has had it already."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            frames: list[Any] | None = []
            while frames is not None:
                try:
                    frames = self._next(-math.inf)
                except MalformedEnvelope as error:
                    self._complain(error)
                    continue
                if frames is not None:
                    self._early.append(frames)
        finally:
            self._turn.release()

    def _nothing_came(self, timeout: float | None) -> ReceiveTimeout:
        return ReceiveTimeout(f"{self._endpoint.uri}: nothing came within {timeout} s: {self._endpoint.state}")

    def _look(self) -> None:
        """Let those go on who wait for a connection, if there is one, or if it is known that there will be none."""
        if self._endpoint.ready or self._socket.closed:
            self._ready.set()
        else:
            self._ready.clear()
        if self._endpoint.refusal() is not None:
            for greenlet in self._refusable:
                gevent.get_hub().loop.run_callback(self._refuse, greenlet)

    def _refuse(self, greenlet: Any) -> None:
        """Called by the hub, as `_end_iteration` is."""
        if greenlet in self._refusable and self._endpoint.refusal() is not None:
            greenlet.throw(_Refused)

    def _end_iteration(self, greenlet: Any) -> None:
        """Called by the hub, so that the greenlet does not run: if it still waits in an iteration, nothing is lost."""
        if greenlet in self._iterating:
            greenlet.throw(_Stop)

    def _complain(self, error: MalformedEnvelope | TransientError) -> None:
        """Log why nothing came of a message, now and then while that lasts."""
        self._untold += 1
        now = time.monotonic()
        if now >= self._complains_from:
            self._complains_from = now + _COMPLAINT_INTERVAL
            log.warning("%s: %s (%d times)", self._endpoint.uri, error, self._untold)
            self._untold = 0


class _Stop(BaseException):
    """Thrown into a greenlet that waits for the next message of an iteration. Nobody else gets to see it."""


class _Refused(BaseException):
    """Thrown into a greenlet that waits for a publisher that refuses. Nobody else gets to see it."""

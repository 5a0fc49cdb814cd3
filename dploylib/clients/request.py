"""The client of request sockets: many greenlets share it, and each gets the reply to its own request."""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import gevent
from gevent.event import Event
from gevent.pool import Pool

from ..connecting import backoff, known_of, refusal_by_all
from ..errors import (
    ConnectionLost,
    DeadlineExceeded,
    HandshakeFailed,
    MalformedEnvelope,
    Overloaded,
    RemoteError,
    RequestTimeout,
    SendTimeout,
    ShuttingDown,
    SocketClosed,
    SocketStateError,
    TransientError,
)
from ..handling import traceparent
from ..security import Security
from ..tracing import spans
from ..transport import (
    BYTES_MIMETYPE,
    JSON_MIMETYPE,
    MSGPACK_MIMETYPE,
    TEXT_MIMETYPE,
    Context,
    Envelope,
    Metadata,
    Problem,
    ReceivedData,
)
from ..transport.codecs import ObjectDecoder
from ..transport.deadlines import handler_deadline, seconds_until, set_handler_deadline
from ..transport.envelope import adopt
from ..transport.options import Options
from ..transport.problems import type_of
from ..transport.receive_loop import RETRY_PAUSE
from .base import Client, checked_timeout, endpoints_of
from .connection import Call, Connection
from .encoding import envelope_of
from .retrying import RetryBudget

__all__ = ["DEFAULT_TIMEOUT", "EndpointStatus", "RequestClient"]

DEFAULT_TIMEOUT = 30.0
"""Seconds that a caller waits, unless it says otherwise."""

# Problems whose senders have not begun to do what they were asked to, so that somebody else may be asked.
_UNAVAILABLE = 503
_TEXT = TEXT_MIMETYPE.encode()
_NO_PROBLEM = frozenset(  # mimetypes that need no closer look, which costs 1 us
    one.encode() for one in (TEXT_MIMETYPE, JSON_MIMETYPE, BYTES_MIMETYPE, MSGPACK_MIMETYPE)
)
_OVERLOADED, _DEADLINE_EXCEEDED, _SHUTTING_DOWN = map(type_of, (Overloaded, DeadlineExceeded, ShuttingDown))


class EndpointStatus(NamedTuple):
    """How things stand with one endpoint.

    `connection` is one of `Link.STATES`, or "draining" when the service has said that it shuts down. `circuit` is
    "closed", "open" or "half-open" (see `Circuit`), and `failures` how often it failed in a row. `outstanding` requests
    wait for their reply, `late` replies came when nobody waited for them any more, and `connections` is how often it
    was connected.
    """

    connection: str
    circuit: str
    failures: int
    outstanding: int
    late: int
    connections: int


class RequestClient(Client):
    """Asks REP and ROUTER sockets, of dploylib or of anybody who knows envelopes.

    For example::

        with RequestClient("tcp://127.0.0.1:5000") as client:
            print(client.request("hello").text)

    `uri` is an endpoint, or several of which any may be asked: then dead ones are skipped, and come back by themselves.
    `context` is the context to make sockets in, a new one if none is given. `obj` is what `received.obj` of the replies
    is made with, as in `bind_in`. `timeout` is how many seconds a call takes at most, `math.inf` for as long as it
    takes. `retries` is how often a request is sent again where that is safe. `options` are socket options. `security`
    is how to prove who one is, and to know the server: as the context is secured, if not given.

    Any number of greenlets may use one client. It belongs to the thread that made it.
    """

    def __init__(
        self,
        uri: str | Iterable[str],
        context: Context | None = None,
        obj: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 3,
        options: Options | None = None,
        security: Security | None = None,
    ) -> None:
        uris = endpoints_of(uri)
        if retries < 0:
            raise ValueError(f"retries are a number from 0 on, not {retries!r}")
        self.timeout = checked_timeout(timeout)
        self.retries = retries
        self._decoder = None if obj is None else ObjectDecoder(obj)
        super().__init__(context, security)
        self._hub = gevent.get_hub()
        self._pid = os.getpid()
        self._numbers = itertools.count(random.getrandbits(63))  # of the calls; those of other clients are elsewhere
        self._budget = RetryBudget()
        self._calling = 0  # how many calls are in progress
        self._turn = 0
        self._closed = False
        self._over = False  # it, or its context, was closed
        self._some_ready = Event()  # or there is no use in waiting
        self._connections: list[Connection] = []
        try:
            for one in uris:
                self._connections.append(Connection(one, self._context, options, self._look, self._credentials))
        except BaseException:
            self.close()
            raise
        self._look()

    # Calls -------------------------------------------------------------------------------------------------------

    def request(
        self, message: Any, timeout: float | None = None, id: str = "", idempotent: bool = False
    ) -> ReceivedData:
        """Send a request, and return the reply.

        A str is sent as text, bytes as they are, an `Envelope` as it is, and anything else as JSON. `id` is the id of
        the envelope. `timeout` is in seconds, None for that of the client. An `idempotent` request is one that may be
        handled twice: it is sent again when the connection is lost, or the service says that it cannot (503).

        Raises `RequestTimeout`; `HandshakeFailed`, at once, when all endpoints refused to talk to this client when
        they were tried last; `ConnectionLost`, at once, when it may have been handled; `RemoteError` when the reply is
        a problem; `MalformedEnvelope` when it is no envelope; `SocketClosed` when the client is closed.
        """
        if self._hub is not gevent.get_hub() or self._pid != os.getpid():
            raise SocketStateError(f"cannot use {self!r} here: it belongs to the thread, and process, that made it")
        call = Call(_frames_of(message, id), self.timeout if timeout is None else checked_timeout(timeout))
        making = spans()
        if making is None:
            call.traceparent = traceparent()
            return self._request(call, idempotent)
        with making.calling("request", "CLIENT", self._connections[0].uri, len(call.frames[-1])) as call.traceparent:
            return self._request(call, idempotent)

    def _request(self, call: Call, idempotent: bool) -> ReceivedData:
        self._calling += 1
        try:
            return self._ask(call)
        except (ConnectionLost, RemoteError) as error:
            if not _may_retry(error, idempotent):
                raise
            return self._ask_again(call, error, idempotent)
        finally:
            self._calling -= 1

    def imap(
        self,
        messages: Iterable[Any],
        concurrency: int = 100,
        timeout: float | None = None,
        idempotent: bool = False,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Send a request for each message, and yield the replies in the order of the messages.

        At most `concurrency` of them are on their way at once, and no more messages are taken than that before their
        replies are. `timeout` is for each. What `request` would raise is raised in its turn, and ends it; with
        `return_exceptions`, it is yielded in the place of the reply.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is a number from 1 on, not {concurrency!r}")
        deadline = handler_deadline()

        def ask(message: Any) -> Any:
            set_handler_deadline(deadline)
            try:
                return self.request(message, timeout, idempotent=idempotent)
            except Exception as error:  # noqa: BLE001 - raised, or yielded, where the replies are taken
                return _Failure(error)

        pool = Pool(concurrency)
        outcomes: deque[gevent.Greenlet[..., Any]] = deque()
        source = iter(messages)
        try:
            while True:
                for message in itertools.islice(source, concurrency - len(outcomes)):
                    outcomes.append(pool.spawn(ask, message))
                if not outcomes:
                    return
                outcome = outcomes.popleft().get()
                if isinstance(outcome, _Failure):
                    if not return_exceptions:
                        raise outcome.error
                    outcome = outcome.error
                yield outcome
        finally:
            pool.kill()

    def request_many(self, messages: Iterable[Any], **how: Any) -> list[Any]:
        """The replies to all messages, in their order. The arguments are those of `imap`, and so is what it raises."""
        return list(self.imap(messages, **how))

    # What it knows -----------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> dict[str, EndpointStatus]:
        """How things stand with each endpoint."""
        return {
            one.uri: EndpointStatus(
                one.state,
                one.circuit.state,
                one.circuit.failures,
                len(one.calls),
                one.late,
                one.link.connections,
            )
            for one in self._connections
        }

    @property
    def connected(self) -> bool:
        """Whether there is a connection to one of the endpoints, at least."""
        return any(one.ready for one in self._connections)

    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until there is a connection. Requests do so by themselves.

        Raises `RequestTimeout`, or `HandshakeFailed` as `request` does.
        """
        self._connection(Call([], self.timeout if timeout is None else checked_timeout(timeout)))

    def __repr__(self) -> str:
        return f"<RequestClient {', '.join(one.uri for one in self._connections)}>"

    # The end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close it. Whoever waits for a reply gets `SocketClosed`. Closing it again does nothing."""
        if self._closed:
            return
        self._closed = True
        for one in self._connections:
            one.close()
        self._close_context()

    # One attempt -------------------------------------------------------------------------------------------------

    def _ask(self, call: Call) -> ReceivedData:
        """Send the request to one endpoint, and return its reply."""
        while True:
            connection = call.asked = self._connection(call)
            call.frame, sent_before = self._new_frame(call), call.sent
            try:
                frames = connection.exchange(call)
            except SendTimeout as error:
                raise self._timed_out(call, [connection], "connected, but it reads nothing") from error
            except SocketClosed:
                gevent.sleep(0)  # its keeper has to get to know, if somebody closed the context
                continue  # the connection was lost before anything was sent; or the client was closed
            except TransientError:
                gevent.sleep(RETRY_PAUSE)
                continue
            if frames is None:
                connection.circuit.failed()
                raise self._timed_out(call, [connection])
            try:
                return self._reply(connection, frames)
            except RemoteError as error:
                if error.type == _DEADLINE_EXCEEDED and time.monotonic() >= call.expires:
                    raise self._timed_out(call, [connection]) from error  # that of the service came first, by chance
                if error.type != _SHUTTING_DOWN:
                    raise
                connection.drain()
                if not self.retries:
                    raise
                call.sent = sent_before  # as if it had not been: it waits for who can be asked

    def _connection(self, call: Call) -> Connection:
        """The connection to send a request on. Waits until there is one."""
        while not self._over:
            chosen = self._choose(call.asked)
            if chosen is not None and call.expires > time.monotonic():
                return chosen
            refusal = None if chosen is not None else self._refusal(time.monotonic() - call.began)
            if refusal is not None:
                raise refusal
            if chosen is not None or not self._some_ready.wait(seconds_until(call.expires)):
                raise self._timed_out(call, self._connections)
        raise SocketClosed(f"{self!r}, or its context, was closed")

    def _refusal(self, elapsed: float = 0.0) -> HandshakeFailed | None:
        """The error for those who would wait in vain, when nobody agrees with this client on how to talk."""
        return refusal_by_all((one.handshakes for one in self._connections), elapsed)

    def _choose(self, not_again: Connection | None) -> Connection | None:
        connections = self._connections
        if len(connections) == 1:
            return connections[0] if connections[0].ready else None
        # In turn where there is nothing to choose by; not the one that has just failed, or one that fails all the time.
        self._turn += 1
        there = [one for one in connections if one.ready]
        there = [one for one in there if one.circuit.allows()] or there
        there = [one for one in there if one is not not_again] or there
        start = self._turn % len(there) if there else 0
        return min(there[start:] + there[:start], key=_load, default=None)

    def _new_frame(self, call: Call) -> bytes:
        """A request frame that no other call has, which says how long somebody waits for the reply."""
        expires = call.expires if call.handler_deadline is None else min(call.expires, call.handler_deadline)
        left = None if expires == math.inf else (expires - time.monotonic()) * 1000
        return Metadata(next(self._numbers), left, call.traceparent, sent_at=time.time()).to_frame()

    def _reply(self, connection: Connection, frames: list[Any]) -> ReceivedData:
        """What was received, without the frame that was ours. Raises `RemoteError`, or `MalformedEnvelope`."""
        try:
            envelope = _envelope_in(frames)
        except MalformedEnvelope:
            connection.circuit.succeeded()
            raise
        problem = None if frames[-2] in _NO_PROBLEM else Problem.from_envelope(envelope)
        if problem is None:
            connection.circuit.succeeded()
            return ReceivedData(envelope, self._decoder)
        if problem.status == _UNAVAILABLE and problem.type != _SHUTTING_DOWN:
            connection.circuit.failed()
        else:
            connection.circuit.succeeded()
        raise RemoteError(connection.uri, problem.type, problem.title, problem.status, problem.detail)

    def _timed_out(self, call: Call, connections: list[Connection], known: str = "") -> RequestTimeout:
        endpoint = ", ".join(one.uri for one in connections)
        elapsed = time.monotonic() - call.began
        if not known:
            known = known_of((one.uri, one.known()) for one in connections)
        return RequestTimeout(endpoint, elapsed, call.sent, known)

    # More attempts -----------------------------------------------------------------------------------------------

    def _ask_again(self, call: Call, error: Exception, idempotent: bool) -> ReceivedData:
        """Send the request again, some time after it failed with this error, and some times. Raises the last error."""
        for tries in range(1, self.retries + 1):
            pause = backoff(tries)
            left = call.expires - time.monotonic() - pause
            if left <= 0:
                break
            gevent.sleep(pause)
            if not self._budget.take(self._calling, max(0.0, left)):
                break
            try:
                return self._ask(call)
            except (ConnectionLost, RemoteError) as failure:
                error = failure
                if not _may_retry(error, idempotent):
                    break
            except HandshakeFailed as refusal:  # which is not to hide that it may have been handled
                raise error from refusal
            finally:
                self._budget.give_back()
        raise error

    def _look(self) -> None:
        """Let those go on who wait for a connection, if there is one, or if it is known that there will be none."""
        self._over = any(one.closed for one in self._connections)
        if self._over or self.connected or self._refusal() is not None:
            self._some_ready.set()
        else:
            self._some_ready.clear()


class _Failure(NamedTuple):
    error: Exception


def _frames_of(message: Any, id: str) -> list[Any]:
    """The frames to send behind the one that is ours: the delimiter at last, and the envelope."""
    if type(message) is str:  # mostly; the envelope that would be made of it, and taken apart again, costs 1 us
        return [b"", id.encode(), _TEXT, message.encode()]
    frames = envelope_of(message, id)._frames
    return frames if len(frames) > 3 else [b"", *frames]


def _envelope_in(frames: list[Any]) -> Envelope:
    """The envelope in a reply, behind the frame that is ours."""
    if len(frames) > 1 and not frames[1]:  # the delimiter, as it was sent
        return adopt(frames[2:])
    if len(frames) == 4:
        raise MalformedEnvelope("no empty delimiter between the request frame and the envelope", frames)
    return adopt(frames[1:])


def _may_retry(error: Exception, idempotent: bool) -> bool:
    """Whether it is safe to send a request again that has failed so."""
    if isinstance(error, RemoteError):
        return error.type == _OVERLOADED or (idempotent and error.status == _UNAVAILABLE)
    return idempotent


def _load(connection: Connection) -> int:
    return len(connection.calls)

"""The client of services that broadcast what becomes of a request."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any
from uuid import uuid4

import gevent
from gevent.event import AsyncResult
from gevent.queue import Empty, SimpleQueue

from ..errors import FollowTimeout, HandshakeFailed, PeerError, RemoteFailure, SocketClosed
from ..security import Security
from ..transport import Context, Envelope, ReceivedData
from ..transport.deadlines import handler_deadline, set_handler_deadline
from ..transport.spawning import spawn_named
from .base import Client, checked_timeout
from .encoding import envelope_of
from .listening import ListeningClient
from .request import DEFAULT_TIMEOUT, RequestClient

__all__ = ["Following", "ObservableServiceClient"]

_REPLIED: Any = object()
"""What a `Following` is told when there is a reply."""


class ObservableServiceClient(Client):
    """Sends requests, and follows what is broadcast about each, under an id of its own, until it is completed.

    For example::

        with ObservableServiceClient("tcp://127.0.0.1:5000", "tcp://127.0.0.1:5001") as client:
            for received in client.follow({"app": "shop"}):
                print(received.json)

    `request_uri` is a REP or ROUTER, or several, and `broadcast_uri` a PUB. `context` is the context to make sockets
    in, a new one if none is given. `obj` is what `received.obj` of the broadcasts is made with, as in `bind_in`, and
    `reply_obj` that of the replies. `timeout` is how many seconds may pass without a sign of a request. `security` is
    how to prove who one is, and to know both servers: as the context is secured, if not given.

    Any number of greenlets may use one client. It belongs to the thread that made it.
    """

    def __init__(
        self,
        request_uri: Any,
        broadcast_uri: str,
        context: Context | None = None,
        obj: Any = None,
        reply_obj: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
        security: Security | None = None,
    ) -> None:
        self.timeout = checked_timeout(timeout)
        self._followed: dict[str, list[Following]] = {}  # by id
        super().__init__(context, security)
        try:
            self._requests = RequestClient(request_uri, self._context, reply_obj, security=security)
            try:
                self._broadcasts = ListeningClient(broadcast_uri, (), obj, self._context, security=security)
            except BaseException:
                self._requests.close()
                raise
        except BaseException:
            self._close_context()
            raise
        self._distributing = spawn_named(f"distribute what {broadcast_uri} broadcasts", self._distribute)

    def follow(
        self,
        message: Any,
        id: str | None = None,
        timeout: float | None = None,
        until: Callable[[ReceivedData], Any] | None = None,
    ) -> Following:
        """Send a request, and return what iterates over the broadcasts with its id, from the first to the last one.

        The message is encoded as by `RequestClient.request`. `id` is the id of its envelope, which the service uses for
        the broadcasts: a new one if none is given. `until` tells the last one; without it, that is a status of
        `completed`, or of `error`, which is raised as a `RemoteFailure`. `timeout` is how many seconds may pass without
        a sign, be it a broadcast or the reply; None is that of the client.

        The request is sent when the subscription is in place. Raises `ConnectTimeout` when the publisher is not there,
        or `HandshakeFailed`, at once, when it refused to talk to this client when it was tried last.
        """
        id = str(uuid4()) if id is None else id
        if not id:
            raise ValueError("the id to follow is empty, and would be that of every broadcast")
        request = envelope_of(message, id)
        following = Following(self, id, self.timeout if timeout is None else checked_timeout(timeout), until)
        self._followed.setdefault(id, []).append(following)
        try:
            self._broadcasts.subscribe(id)
            self._broadcasts.wait_connected(following.timeout)
        except BaseException:
            following.close()
            raise
        following._send(request)
        return following

    def close(self) -> None:
        """Close it. Whoever follows something gets `SocketClosed`. Closing it again does nothing."""
        self._broadcasts.close()
        self._requests.close()
        self._distributing.join()
        self._close_context()

    def __repr__(self) -> str:
        return f"<ObservableServiceClient {', '.join(self._requests.endpoints)} and {self._broadcasts.endpoint}>"

    # Underneath --------------------------------------------------------------------------------------------------

    def _distribute(self) -> None:
        while not self._broadcasts.closed:
            try:
                self._broadcasts.listen(self._hand_out)
            except HandshakeFailed as refusal:
                self._tell_all(refusal)
                self._broadcasts._ready.wait()  # until there is a connection, or the end
        self._tell_all(SocketClosed(f"{self!r} was closed"))

    def _tell_all(self, error: Exception) -> None:
        for followers in list(self._followed.values()):
            for following in list(followers):
                following._hear(error)

    def _hand_out(self, received: ReceivedData) -> None:
        """Give a broadcast to those who follow its id. A subscription also gets ids that only begin so."""
        for following in self._followed.get(received.id, ()):
            following._hear(received)

    def _forget(self, following: Following) -> None:
        followers = self._followed.get(following.id, [])
        if following in followers:
            followers.remove(following)
            if not followers:
                del self._followed[following.id]
            if not self._broadcasts.closed:
                self._broadcasts.unsubscribe(following.id)


class Following:
    """What `ObservableServiceClient.follow` returns: an iterator over the broadcasts with one id.

    It ends after the last one, or raises: the `RemoteError` of a problem as the reply, or what else the request raises;
    `HandshakeFailed` when the publisher refuses to talk to this client; `RemoteFailure`; `FollowTimeout`. Broadcasts
    that nobody has taken yet wait in memory. `broadcasts` counts those that were taken. Who does not iterate to the end
    should `close` it, or use it as a context manager.
    """

    def __init__(
        self,
        client: ObservableServiceClient,
        id: str,
        timeout: float,
        until: Callable[[ReceivedData], Any] | None,
    ) -> None:
        self.id = id
        self.timeout = timeout
        self.broadcasts = 0
        self._client = client
        self._until = until
        self._heard: Any = SimpleQueue()  # broadcasts, exceptions, or `_REPLIED`
        self._reply: AsyncResult[ReceivedData] = AsyncResult()
        self._asking: gevent.Greenlet[..., None] | None = None
        self._last: ReceivedData | None = None
        self._ended = False
        self._reconnections = client._broadcasts.reconnections

    @property
    def reply(self) -> ReceivedData:
        """The reply to the request, for which this waits. Raises what the request raises, or `FollowTimeout`."""
        self._reply.wait(_seconds(self.timeout))
        if not self._reply.ready():
            raise self._silence()
        return self._reply.get(block=False)  # type: ignore[return-value]  # it is never None

    def __iter__(self) -> Following:
        return self

    def __next__(self) -> ReceivedData:
        while not self._ended:
            try:
                heard = self._heard.get(timeout=_seconds(self.timeout))
            except Empty:
                self.close()
                raise self._silence() from None
            if heard is _REPLIED:
                continue
            if isinstance(heard, BaseException):
                self.close()
                raise heard
            self.broadcasts += 1
            self._last = heard
            if self._is_last(heard):
                self._end()
            return heard  # type: ignore[no-any-return]
        raise StopIteration

    def close(self) -> None:
        """Follow it no longer, and wait for no reply."""
        self._end()
        if self._asking is not None:
            self._asking.kill()
        if not self._reply.ready():
            self._reply.set_exception(SocketClosed(f"{self!r} was closed before there was a reply"))

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Following {self.id}>"

    # Underneath --------------------------------------------------------------------------------------------------

    def _send(self, request: Envelope) -> None:
        self._asking = spawn_named(f"ask for {self.id}", self._ask, request, handler_deadline())

    def _ask(self, request: Envelope, deadline: float | None) -> None:
        """Send the request, and wait for the reply for as long as there are signs of it."""
        set_handler_deadline(deadline)
        try:
            self._reply.set(self._client._requests.request(request, math.inf))
        except Exception as error:  # noqa: BLE001 - raised where the broadcasts, or the reply, are taken
            self._reply.set_exception(error)
            self._hear(error)
        else:
            self._hear(_REPLIED)

    def _hear(self, what: Any) -> None:
        self._heard.put(what)

    def _is_last(self, received: ReceivedData) -> bool:
        """Whether this is the last broadcast. Raises `RemoteFailure`."""
        if self._until is not None:
            return bool(self._until(received))
        status, detail = _status_in(received)
        if status == "error":
            self.close()
            raise RemoteFailure(self.id, detail)
        return status == "completed"

    def _end(self) -> None:
        self._ended = True
        self._client._forget(self)

    def _silence(self) -> FollowTimeout:
        client = self._client
        seen = f"{self.broadcasts} broadcasts" + (f", the last one {self._last!r}" if self._last is not None else "")
        replied = "the reply" if self._reply.successful() else "no reply"
        asked = "; ".join(f"{one.uri}: {one.words}" for one in client._requests._connections)
        lost = client._broadcasts.reconnections - self._reconnections
        return FollowTimeout(
            f"{self.id}: no sign of it for {self.timeout:g} s, after {replied} and {seen} ({asked}; "
            f"{client._broadcasts.endpoint}: {'lost and made again' if lost else client._broadcasts.state})"
        )


def _status_in(received: ReceivedData) -> tuple[str, str]:
    """The type and the text of the status in a `BroadcastMessage` of dploy; ('', '') where there is none."""
    try:
        message = received.json
    except PeerError:
        return "", ""
    if not isinstance(message, dict) or message.get("type") != "status":
        return "", ""
    body = message.get("body")
    return (str(body.get("type")), str(body.get("data") or "")) if isinstance(body, dict) else ("", "")


def _seconds(timeout: float) -> float | None:
    return None if timeout == math.inf else timeout

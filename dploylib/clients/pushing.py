"""The client of PULL sockets: it hands messages over, and knows whether it could."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from gevent.event import Event

from ..connecting import WatchedEndpoint, known_of, refusal_by_all
from ..errors import ConnectTimeout, HandshakeFailed, SendTimeout, SocketClosed
from ..handling import traceparent
from ..security import Security
from ..tracing import spans
from ..transport import DEFAULT_LINGER, Context, Metadata, Socket
from ..transport.deadlines import seconds_until
from ..transport.options import Options
from .base import Client, checked_timeout, endpoints_of, options_of
from .encoding import envelope_of

__all__ = ["PushClient"]

log = logging.getLogger(__name__)

_TURN = 0.02  # seconds for which one of several peers is waited for before the others are looked at again


class PushClient(Client):
    """Hands messages over to PULL sockets, of dploylib or of anybody who knows envelopes.

    For example::

        with PushClient("tcp://127.0.0.1:5002") as client:
            client.push({"job": 1})

    `uri` is an endpoint, or several: then each message goes to one of those that are connected, in turn. `context` is
    the context to make sockets in, a new one if none is given. `options` are socket options; `sndhwm` is how many
    messages may wait for a peer, 1000 unless set. `timeout` is how many seconds a push takes at most, and the close.
    `security` is how to prove who one is, and to know the peers: as the context is secured, if not given. With
    `passes_trace`, what is pushed where a message is handled that belongs to a trace has a request frame that says so.

    A message that was pushed is in the queue of a peer that was connected. It is sent when this peer reads, or when it
    has come back after its connection was lost. What was on its way at that moment is lost, and so is all that a peer
    has received and not handled when it dies: nobody acknowledges anything. `sent` counts the messages.

    Any number of greenlets may use one client. It belongs to the thread that made it.
    """

    def __init__(
        self,
        uri: str | Iterable[str],
        context: Context | None = None,
        options: Options | None = None,
        timeout: float = 30.0,
        security: Security | None = None,
        passes_trace: bool = True,
    ) -> None:
        uris = endpoints_of(uri)
        self.timeout = checked_timeout(timeout)
        self.passes_trace = passes_trace
        self.sent = 0
        self._turn = 0
        self._closed = False
        self._some_ready = Event()  # or there is no use in waiting
        self._peers: list[_Peer] = []
        super().__init__(context, security)
        try:
            for one in uris:
                self._peers.append(_Peer(one, self._context, options, self))
        except BaseException:
            self._closed = True
            for peer in self._peers:
                peer.close()
            self._close_context(linger=None)
            raise
        self._look()

    def push(self, message: Any, id: str = "", timeout: float | None = None) -> None:
        """Hand a message over to a peer that is connected, and has room for it in its queue. Waits for such a one.

        A str is sent as text, bytes as they are, an `Envelope` or what was received as it is, and anything else as
        JSON. `timeout` is in seconds, None for that of the client.

        Raises `SendTimeout`, and then nothing was sent; `HandshakeFailed`, at once, when all peers refused to talk to
        this client when they were tried last; `TransientError`; `SocketClosed` when the client is closed; and
        `TypeError` for what cannot be encoded.
        """
        frames = envelope_of(message, id)._frames
        making = spans() if self.passes_trace else None
        if making is None:
            self._push(frames, traceparent() if self.passes_trace else None, timeout)
            return
        with making.calling("send", "PRODUCER", self._peers[0].endpoint.uri, len(frames[-1])) as place:
            self._push(frames, place, timeout)

    def _push(self, frames: list[Any], place: str | None, timeout: float | None) -> None:
        if place is not None:
            frames = [Metadata(traceparent=place).to_frame(), *([b""] if len(frames) == 3 else []), *frames]
        began = time.monotonic()
        expires = began + (self.timeout if timeout is None else max(0.0, timeout))
        while True:
            ready = self._ready()
            if any(peer.send(frames, 0) for peer in ready):
                break
            if not ready:
                self._raise_refusal(began)
            left = expires - time.monotonic()
            if left <= 0:
                raise self._not_sent(time.monotonic() - began)
            if not ready:
                self._some_ready.wait(seconds_until(expires))
            elif ready[0].send(frames, left if len(self._peers) == 1 else min(left, _TURN)):
                break
        self.sent += 1

    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until there is a connection. `push` does so by itself.

        Raises `ConnectTimeout`, or `HandshakeFailed` as `push` does.
        """
        began = time.monotonic()
        expires = began + (self.timeout if timeout is None else timeout)
        while not self._ready():
            self._raise_refusal(began)
            if not self._some_ready.wait(seconds_until(expires)):
                raise ConnectTimeout(self._uris, time.monotonic() - began, self._known())

    @property
    def endpoints(self) -> dict[str, bool]:
        """Whether there is a connection, for each endpoint."""
        return {peer.endpoint.uri: peer.endpoint.ready and not self._closed for peer in self._peers}

    @property
    def connected(self) -> bool:
        """Whether there is a connection to one of the endpoints, at least."""
        return any(self.endpoints.values())

    def __repr__(self) -> str:
        return f"<PushClient {self._uris}>"

    # The end -----------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Close it, and wait until what was pushed has left this process. Closing it again does nothing.

        Who waits in `push` gets `SocketClosed`. `timeout` is in seconds, None for that of the client. Raises
        `SendTimeout` when peers have not taken everything by then: the rest is lost.
        """
        if self._closed:
            return
        self._closed = True
        self._some_ready.set()
        began = time.monotonic()
        expires = began + (self.timeout if timeout is None else timeout)
        try:
            for peer in self._peers:
                peer.endpoint.begin_closing(max(0.0, expires - time.monotonic()) if peer.socket.sent else 0.0)
            late = [
                peer
                for peer in self._peers
                if not peer.endpoint.wait_closed(max(0.0, expires - time.monotonic())) and peer.socket.sent
            ]
        finally:
            self._close_context(linger=None)
        if late:
            uris = ", ".join(peer.endpoint.uri for peer in late)
            raise SendTimeout(
                f"{uris}: not all of the {sum(peer.socket.sent for peer in late)} messages that were pushed were taken "
                f"within {time.monotonic() - began:.3g} s, and the rest is lost: {self._known()}"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(min(self.timeout, DEFAULT_LINGER))
        except SendTimeout as timeout:  # which is not to hide what happened first
            log.warning("%s", timeout)

    # Underneath --------------------------------------------------------------------------------------------------

    def _ready(self) -> list[_Peer]:
        """The peers that are connected, the one whose turn it is first."""
        if self._closed or any(peer.socket.closed for peer in self._peers):
            raise SocketClosed(f"{self!r}, or its context, was closed")
        ready = [peer for peer in self._peers if peer.endpoint.ready]
        self._turn += 1
        start = self._turn % len(ready) if ready else 0
        return ready[start:] + ready[:start]

    def _refusal(self, elapsed: float = 0.0) -> HandshakeFailed | None:
        """The error for those who would wait in vain, when no peer agrees with this client on how to talk."""
        return refusal_by_all((peer.endpoint.handshakes for peer in self._peers), elapsed)

    def _raise_refusal(self, began: float) -> None:
        refusal = self._refusal(time.monotonic() - began)
        if refusal is not None:
            raise refusal

    def _look(self) -> None:
        """Let those go on who wait for a connection, if there is one, or if it is known that there will be none."""
        ready = any(peer.endpoint.ready or peer.socket.closed for peer in self._peers)
        if self._closed or ready or self._refusal() is not None:
            self._some_ready.set()
        else:
            self._some_ready.clear()

    @property
    def _uris(self) -> str:
        return ", ".join(peer.endpoint.uri for peer in self._peers)

    def _known(self) -> str:
        return known_of((peer.endpoint.uri, peer.endpoint.known()) for peer in self._peers)

    def _not_sent(self, elapsed: float) -> SendTimeout:
        full = ", but it takes no more messages: its queue is full" if self.connected else ""
        return SendTimeout(f"{self._uris}: nothing was sent within {elapsed:.3g} s: {self._known()}{full}")


class _Peer:
    """One endpoint, with a socket of its own: what waits for a peer that is gone waits for its return.

    With the option `immediate` libzmq would drop that, and with one socket for all it would queue for all of them.
    """

    def __init__(self, uri: str, context: Context, options: Options | None, client: PushClient) -> None:
        self.socket: Socket = context.socket("push", options_of({}, options))
        try:
            self.endpoint = WatchedEndpoint(
                self.socket, uri, client._look, "what was on its way may be lost", client._credentials
            )
        except BaseException:
            self.socket.close(linger=0)
            raise

    def send(self, frames: list[Any], timeout: float) -> bool:
        """Hand a message over; False when there was no room for it."""
        with contextlib.suppress(SendTimeout):
            self.socket.send_frames(frames, timeout)
            return True
        return False

    def close(self) -> None:
        """Close it, with nothing to send."""
        self.endpoint.close()
        self.socket.close(linger=0)

"""Who comes in to the bound sockets of a context: answers what libzmq asks.

libzmq asks at `inproc://zeromq.zap.01` of its context about everybody who wants to connect (ZAP, ZeroMQ RFC 27), one
handler for all sockets, which it tells apart by their domains. pyzmq's own handlers are not used: they know addresses
but no networks, one list of keys but no groups, tell nobody whom they refused, and log passwords.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from typing import TYPE_CHECKING, Any

import gevent

from ..errors import SecurityError, SocketClosed, TransientError, TransportError
from ..security import Gate
from ..security.authorized import Rosters
from .complaints import Complaints
from .guard import EVENTS, Guard, RemoteGuard
from .monitor import SocketMonitor, monitor_endpoint
from .receive_loop import RETRY_PAUSE
from .spawning import call_in_hub, spawn_named

if TYPE_CHECKING:
    from .context import Context
    from .socket import Socket

__all__ = ["Authenticator"]

log = logging.getLogger(__name__)

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_POLL_INTERVAL = 0.25  # seconds between two looks at the lists; a change counts when two looks have seen the same


class Authenticator:
    """Decides who may connect to the sockets of one context. Its work is done in the thread that made it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hub: Any = gevent.get_hub()
        self._guards: dict[bytes, Guard] = {}
        self.rosters = Rosters()
        self._told_of: list[Guard] = []  # also those of closed sockets, with which libzmq is not done
        self._zap: Socket | None = None
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._numbers = itertools.count(1)  # which threads may share
        self._complaints = Complaints(log)

    def guard(self, socket: Socket, gate: Gate) -> Guard:
        """Let this gate decide who may connect to a socket, from before its first bind on until it is closed.

        May be called in any thread. Raises `SecurityError` when somebody else answers for this context already.
        """
        name = socket.name or f"{socket.socket_type} socket"
        seconds = socket.get_option("handshake_ivl") / 1000 or math.inf  # 0 is for ever
        domain = f"{name}#{next(self._numbers)}".encode()
        guard = Guard(name, domain, gate, self._complaints, seconds)
        endpoint = monitor_endpoint(socket, EVENTS)
        if gevent.get_hub() is self._hub:
            self._take(guard, endpoint)
        else:
            call_in_hub(self._hub, self._take, guard, endpoint)
        return guard

    def remote_guard(self, name: str, gate: Gate) -> RemoteGuard:
        """Let this gate say who sent messages that somebody else has let in. May be called in any thread."""
        guard = RemoteGuard(name, f"{name}#{next(self._numbers)}".encode(), gate, self._complaints)
        if gevent.get_hub() is self._hub:
            self._take_remote(guard)
        else:
            call_in_hub(self._hub, self._take_remote, guard)
        return guard

    def release(self, guard: Guard) -> None:
        """Forget a socket that was closed. May be called in any thread."""
        self._guards.pop(guard.domain, None)

    def close(self, patience: float = 0.0) -> None:
        """Answer no more, until a socket is guarded again: nobody can connect. Called in its own thread.

        Waits for so many seconds, at most, until libzmq is done with the sockets: while it tells of them, who goes on
        with the context must not close it.
        """
        self._zap = None  # which the context has closed
        for greenlet in self._greenlets:
            greenlet.kill(block=False)
        self._greenlets = []
        self._guards.clear()
        self._complaints.close()
        gevent.wait([guard.over for guard in self._told_of], timeout=patience)

    def _take(self, guard: Guard, endpoint: str) -> None:
        if self._zap is None:
            self._start()
        guard.watch(SocketMonitor.at(endpoint, self._context))
        self._told_of = [one for one in self._told_of if not one.over.is_set()] + [guard]
        self._guards[guard.domain] = guard

    def _take_remote(self, guard: RemoteGuard) -> None:
        if self._zap is None:
            self._start()
        self._guards[guard.domain] = guard

    def _start(self) -> None:
        zap = self._context.socket("rep", {"linger": 0})
        zap.credentials = None
        try:
            zap.bind(_ZAP_ENDPOINT)
        except TransportError as error:
            zap.close(linger=0)
            raise SecurityError(
                "somebody else decides in this context who may connect (a ZAP handler of pyzmq, say): give the service "
                "a context of its own"
            ) from error
        self._zap = zap
        self._greenlets = [
            spawn_named("authenticate who connects", self._answer, zap),
            spawn_named("look who may still connect", self._look_again),
        ]

    # ZAP ---------------------------------------------------------------------------------------------------------

    def _answer(self, zap: Socket) -> None:
        with contextlib.suppress(SocketClosed):
            while True:
                try:
                    request = zap.receive_frames()
                except TransientError:  # no memory is left, say
                    gevent.sleep(RETRY_PAUSE)
                    continue
                reply = self._reply_to(request)
                while not self._has_sent(zap, reply):
                    gevent.sleep(RETRY_PAUSE)

    def _has_sent(self, zap: Socket, reply: list[bytes]) -> bool:
        with contextlib.suppress(TransientError):
            zap.send_frames(reply)
            return True
        return False

    def _reply_to(self, request: list[bytes]) -> list[bytes]:
        """The reply to a request of libzmq, which has always at least these frames."""
        version, number, domain, address, _, mechanism, *credentials = request
        guard = self._guards.get(domain)
        if guard is None or version != _VERSION:  # its socket was just closed
            return [_VERSION, number, b"400", b"no such domain", b"", b""]
        try:
            id = guard.admit(address.decode(errors="replace"), mechanism.decode(errors="replace"), credentials)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one is to be answered
            text = f"{guard.name}: cannot decide who may connect: {error!r}"
            self._complaints.tell(f"{guard.name}: cannot decide", text)
            return [_VERSION, number, b"500", b"internal error", b"", b""]
        if id is None:
            return [_VERSION, number, b"400", b"not authorized", b"", b""]
        return [_VERSION, number, b"200", b"OK", id.encode(), b""]

    def _look_again(self) -> None:
        while True:
            gevent.sleep(_POLL_INTERVAL)
            try:
                self._look_at_all()
            except Exception:
                log.exception("cannot look who may still connect; trying again")

    def _look_at_all(self) -> None:
        guards = list(self._guards.values())
        for guard in guards:
            if guard.ends_handshakes:
                guard.end_handshakes()
        used = {guard.gate.roster for guard in guards}
        for roster, before in self.rosters.look_again(used, self._complain_about_list):
            for guard in guards:
                if guard.gate.roster is roster:
                    guard.close_revoked(before)

    def _complain_about_list(self, problem: str) -> None:
        self._complaints.tell(problem, problem)

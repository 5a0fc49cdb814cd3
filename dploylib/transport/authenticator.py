"""Who comes in to the bound sockets of a context: answers ZAP requests, and knows the connections.

libzmq asks at `inproc://zeromq.zap.01` of its context about everybody who wants to connect (ZAP, ZeroMQ RFC 27), one
handler for all sockets, which it tells apart by their domains. pyzmq's own handlers are not used: they know addresses
but no networks, one list of keys but no groups, tell nobody whom they refused, and log passwords.

libzmq cannot close one connection of a bound socket. Its descriptor can be shut down, and libzmq then closes it. Which
descriptors there are is told by the socket's monitor; whose each of them is, by nobody. But ZAP names an address, and
of the connections from there that may not have finished their handshake it must be one. So a connection is known by all
the ids that it may belong to, and when one of these is revoked, it is closed: too many rather than one too few. Mostly
there is but one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import socket as sockets
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
import gevent.monkey
import zmq
from gevent.event import AsyncResult

from ..errors import ReceiveTimeout, SecurityError, SocketClosed, TransientError, TransportError
from ..security import Gate, Peer
from .complaints import Complaints
from .monitor import SocketEvent, SocketMonitor, monitor_endpoint
from .receive_loop import RETRY_PAUSE
from .spawning import spawn_named

if TYPE_CHECKING:
    from .context import Context
    from .socket import Socket

__all__ = ["Authenticator", "Guard"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_POLL_INTERVAL = 0.25  # seconds between two looks at the lists; a change counts when two looks have seen the same
_STILL_THERE = 60.0  # seconds
_MOST_REFUSALS = 1000  # kinds of them that are counted apart
_TURN_SECONDS = (
    0.002  # for which connections are heard of, before others get to run: strangers make as many as they like
)
_PAUSE = 1e-9  # more than nothing, or timers and file descriptors would starve (see `receive_loop`)
_PEERCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred (unix(7))
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_MONITOR_STOPPED
)
_NO_ZEROMQ = "its handshake is none of ZeroMQ"
_WENT_AWAY = "it went away during the handshake"
_FAILURES: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it wants another mechanism",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "its messages cannot be decrypted: it may have a wrong server key",
}


class Authenticator:
    """Decides who may connect to the sockets of one context. Its work is done in the thread that made it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hub: Any = gevent.get_hub()
        self._guards: dict[bytes, Guard] = {}
        self._zap: Socket | None = None
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._answering = False
        self._numbers = itertools.count(1)  # which threads may share
        self._complaints = Complaints(log)

    def guard(self, socket: Socket, gate: Gate) -> Guard:
        """Let this gate decide who may connect to a socket, from before its first bind on until it is closed.

        May be called in any thread. Raises `TransportError` when somebody else answers for this context already.
        """
        name = socket.name or f"{socket.socket_type} socket"
        seconds = socket.get_option("handshake_ivl") / 1000 or math.inf  # 0 is for ever
        domain = f"{name}#{next(self._numbers)}".encode()
        guard = Guard(name, domain, gate, self._complaints, seconds, self._is_asked)
        endpoint = monitor_endpoint(socket, _EVENTS)
        self._call_in_hub(self._take, guard, endpoint)
        return guard

    def release(self, guard: Guard) -> None:
        """Forget a socket that was closed. May be called in any thread."""
        self._guards.pop(guard.domain, None)

    def close(self) -> None:
        """Answer no more: nobody can connect any more. Called in its own thread."""
        for greenlet in self._greenlets:
            greenlet.kill(block=False)
        self._greenlets = []
        self._guards.clear()
        self._complaints.close()

    def _take(self, guard: Guard, endpoint: str) -> None:
        if self._zap is None:
            self._start()
        guard.watch(SocketMonitor.at(endpoint, self._context))
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

    def _call_in_hub(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function in the hub of the authenticator, and wait for that."""
        if gevent.get_hub() is self._hub:
            function(*args)
            return
        done: AsyncResult[None] = AsyncResult()

        def call() -> None:
            try:
                function(*args)
                done.set(None)
            except BaseException as error:  # noqa: BLE001 - who waits gets it
                done.set_exception(error)

        self._hub.loop.run_callback_threadsafe(gevent.spawn, call)
        while not done.ready():  # with a timeout, since nothing else may keep this hub from giving up
            done.wait(_STILL_THERE)
        done.get()

    # ZAP ---------------------------------------------------------------------------------------------------------

    def _answer(self, zap: Socket) -> None:
        with contextlib.suppress(SocketClosed):
            while True:
                try:
                    request = zap.receive_frames()
                except TransientError:  # no memory is left, say
                    gevent.sleep(RETRY_PAUSE)
                    continue
                self._answering = True
                reply = self._reply_or_error(request)
                self._answering = False
                while not self._has_sent(zap, reply):
                    gevent.sleep(RETRY_PAUSE)

    def _has_sent(self, zap: Socket, reply: list[bytes]) -> bool:
        with contextlib.suppress(TransientError):
            zap.send_frames(reply)
            return True
        return False

    def _is_asked(self) -> bool:
        """Whether there is a request without a reply, of somebody who may be gone."""
        return self._answering or (self._zap is not None and not self._zap.closed and self._zap.has_input())

    def _reply_or_error(self, request: list[bytes]) -> list[bytes]:
        try:
            return self._reply_to(request)
        except Exception as error:  # noqa: BLE001 - or nobody could come in any more
            text = f"cannot decide about somebody who wants to connect: {traceback.format_exc()}"
            self._complaints.tell(type(error).__name__, text)
            return [_VERSION, *request[1:2], b"500", b"cannot decide", b"", b""]

    def _reply_to(self, request: list[bytes]) -> list[bytes]:
        """The reply to a request of libzmq, which has always at least these frames."""
        version, number, domain, address, _, mechanism, *credentials = request
        guard = self._guards.get(domain)
        if guard is None or version != _VERSION:  # its socket was just closed
            return [_VERSION, number, b"400", b"no such domain", b"", b""]
        id = guard.admit(address.decode(errors="replace"), mechanism.decode(errors="replace"), credentials)
        if id is None:
            return [_VERSION, number, b"400", b"not authorized", b"", b""]
        return [_VERSION, number, b"200", b"OK", id.encode(), b""]

    def _look_again(self) -> None:
        while True:
            gevent.sleep(_POLL_INTERVAL)
            for guard in list(self._guards.values()):
                try:
                    guard.look_again()
                except Exception:
                    log.exception("%s: cannot look who may still connect", guard.name)


class _Connection:
    """One connection to a bound socket: where it is from, and the ids that it may belong to."""

    __slots__ = ("accepted", "address", "ids", "settled", "signature")

    def __init__(self, address: str, signature: object) -> None:
        self.address = address
        self.signature = signature
        self.accepted = time.monotonic()
        self.ids: set[str] = set()
        self.settled = False  # whether it has certainly finished its handshake, so that who comes in later is another


class _Place:
    """The connections from one address. Of those that are not settled, at least `admitted` were let in."""

    __slots__ = ("admitted", "connections")

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.admitted = 0

    def admit(self, id: str, settled_before: float, is_here: bool) -> None:
        """Note that one of the connections belongs to this id; not one that was accepted before then, if it can be.

        `is_here` is whether it is certainly one of them, and not one that is gone.
        """
        for one in self.connections:
            if not one.settled and one.accepted < settled_before:
                self._settle(one)
        unsettled = [one for one in self.connections if not one.settled]
        for one in unsettled or self.connections:  # the second when our account was wrong: it may be any of them
            one.ids.add(id)
        self.admitted += is_here
        if self.admitted >= len(unsettled):
            for one in unsettled:
                one.settled = True
            self.admitted = 0

    def forget(self, connection: _Connection) -> None:
        """Take out a connection, which is gone."""
        self.connections.discard(connection)
        if not connection.settled:
            self._settle(connection)

    def _settle(self, connection: _Connection) -> None:
        connection.settled = True
        self.admitted = max(0, self.admitted - 1)  # which it may have been one of


class Guard:
    """Watches over who comes in to one bound socket: the connections that it has, and whom its gate refused.

    `refusals` counts them, by reason and address: '' for who was gone before anybody could see where from he came. Of
    too many different ones the rest is under the address "others". `revoked` are the ids of those who were put out, and
    have not come in again.
    """

    def __init__(
        self,
        name: str,
        domain: bytes,
        gate: Gate,
        complaints: Complaints,
        handshake_seconds: float,
        is_asked: Callable[[], bool],
    ) -> None:
        self.name = name
        self.domain = domain
        self.gate = gate
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.revoked: set[str] = set()
        self._monitor: SocketMonitor | None = None
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._places: dict[str, _Place] = {}  # by address, without its zone: a socket has none
        self._is_asked = is_asked
        self._is_owed = False  # whether somebody is gone who may still be let in: who hangs up at once, say
        self._hears_on = False  # in a greenlet
        self._early: dict[str, set[str]] = {}  # by address, the ids that may be of a connection not yet heard of
        # libzmq closes those that have not finished by then; it may be late, so that twice as long is certain.
        self._settles_after = 2 * handshake_seconds
        self._failure = ""  # of the handshake, of a connection that is about to be told of
        self._complaints = complaints

    def watch(self, monitor: SocketMonitor) -> None:
        """Hear from this monitor of the connections."""
        self._monitor = monitor
        monitor.call_back(self._hear_what_there_is)

    def admit(self, address: str, mechanism: str, credentials: list[bytes]) -> str | None:
        """The id of somebody who wants to connect, or None when he may not."""
        heard = self._hear()  # the connection itself was told of before
        verdict = self.gate.admit(address, mechanism, credentials)
        if verdict.id is None:
            self._refused(verdict.reason, address, verdict.who)
            return None
        self.revoked.discard(verdict.id)
        address = address.partition("%")[0]
        if not heard and self.gate.names_peers:
            self._early.setdefault(address, set()).add(verdict.id)
        if (place := self._places.get(address)) is not None:  # else it is gone already, or not yet heard of
            place.admit(verdict.id, time.monotonic() - self._settles_after, heard and not self._is_owed)
        return verdict.id

    def peer(self, frame: Any) -> Peer:
        """Who sent this `zmq.Frame`. In its metadata, libzmq lets nothing that a peer says stand for these two."""
        return self.gate.peer(_property(frame, "User-Id"), _property(frame, "Peer-Address"))

    def has_put_out(self, frame: Any) -> bool:
        """Whether who sent this `zmq.Frame` may not connect any more. What he sent before may still be in queues."""
        return _property(frame, "User-Id") in self.revoked

    def look_again(self) -> None:
        """See who may not come in any more, and close his connections."""
        revoked = self.gate.revoked(lambda problem: self._complaints.tell(problem, f"{self.name}: {problem}"))
        if not revoked:
            return
        self.revoked |= revoked
        closed = 0
        for descriptor, connection in list(self._connections.items()):
            if connection.ids & revoked:
                closed += _cut(descriptor, connection)
        log.warning(
            "%s: %d who might connect may not any more, and %d connections were closed", self.name, len(revoked), closed
        )

    # What becomes of the connections: called by the hub ----------------------------------------------------------

    def _hear_what_there_is(self) -> None:
        self._hear()

    def _hear_on(self) -> None:
        try:
            while not self._hear():
                gevent.sleep(_PAUSE)
        finally:
            self._hears_on = False

    def _hear(self) -> bool:
        """Hear what becomes of the connections, for a moment. False when there is more, which is heard later."""
        ends = time.monotonic() + _TURN_SECONDS
        with contextlib.suppress(ReceiveTimeout, TransientError, SocketClosed):
            while (monitor := self._monitor) is not None:
                event = monitor.receive(0)
                if event.kind == "monitor_stopped":
                    monitor.close()
                    self._monitor = None
                else:
                    self._take(event)
                if time.monotonic() > ends:
                    if not self._hears_on:
                        self._hears_on = True
                        spawn_named(f"{self.name}: hear of connections", self._hear_on)
                    return False
        self._early.clear()
        with contextlib.suppress(SocketClosed):
            self._is_owed = self._is_owed and self._is_asked()
        return True

    def _take(self, event: SocketEvent) -> None:
        if event.kind == "accepted":
            self._accepted(event.value)
        elif event.kind.startswith("handshake_failed"):
            # Of the same thread of libzmq, right before it tells which connection that was.
            protocol = event.kind == "handshake_failed_protocol"
            self._failure = _FAILURES.get(event.value, _NO_ZEROMQ) if protocol else _WENT_AWAY
        else:
            self._gone(event.value)

    def _accepted(self, descriptor: int) -> None:
        self._gone(descriptor)  # of which nobody has told, if there was one
        with _duplicate(descriptor) as connection:
            if connection is None:  # it is gone already, and what was wrong with it is told next
                found = _Connection("", None)
            else:
                found = _Connection(_address_of(connection), _signature_of(connection))
        self._connections[descriptor] = found
        address = found.address
        place = self._places.setdefault(address, _Place())
        place.connections.add(found)
        found.ids |= self._early.get(address, set())
        if found.ids & self.revoked:  # he was put out before he was heard of
            _cut(descriptor, found)
        if address and len(place.connections) > self.gate.max_connections:
            self._refused("too many connections from this address", address)
            _cut(descriptor, found)

    def _gone(self, descriptor: int) -> None:
        failure, self._failure = self._failure, ""
        connection = self._connections.pop(descriptor, None)
        if connection is None:
            return
        address, settled = connection.address, connection.settled
        place = self._places[address]
        place.forget(connection)
        self._is_owed |= not settled
        if not place.connections:
            del self._places[address]
        if failure and not settled:
            self._refused(failure, address)

    def _refused(self, reason: str, address: str, who: str = "") -> None:
        key = (reason, address)
        if key not in self.refusals and len(self.refusals) >= _MOST_REFUSALS:
            key = (reason, "others")
        self.refusals[key] += 1
        text = f"{self.name} refused {who and f'{who} at '}{address or 'somebody'}: {reason}"
        self._complaints.tell(f"{self.name} {reason}", text)


def _property(frame: Any, name: str) -> str:
    """What libzmq knows of the connection of a frame: '' for inproc, which has nothing of the kind."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


# Descriptors -----------------------------------------------------------------------------------------------------
#
# They are libzmq's, which may close one at any moment, and then it may be another file of this process. A duplicate
# stays what it is: it is looked at, and then used.


@contextlib.contextmanager
def _duplicate(descriptor: int) -> Iterator[sockets.socket | None]:
    """The connection behind a descriptor of libzmq's, for a moment; None when there is none any more.

    Where there is no descriptor left for a duplicate it is libzmq's own: whom nobody knows, nobody can put out.
    """
    number = descriptor
    try:
        number = os.dup(descriptor)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            yield None
            return
    connection = None
    try:
        with contextlib.suppress(OSError):  # it is no socket: the number is another file's by now
            connection = _Original(fileno=number)
        yield connection
    finally:
        if connection is not None:
            connection.detach()
        if number != descriptor:
            os.close(number)


_Original: Any = gevent.monkey.get_original("socket", "socket")  # one of gevent would make the descriptor non-blocking


def _address_of(connection: sockets.socket) -> str:
    """Where a connection is from, as ZAP has it."""
    if connection.family == sockets.AF_UNIX:
        pid, uid, gid = _credentials_of(connection)
        return f"localhost:{uid}:{gid}:{pid}"
    with contextlib.suppress(OSError):
        return str(connection.getpeername()[0])
    return ""


def _signature_of(connection: sockets.socket) -> object:
    """What tells a connection from others."""
    with contextlib.suppress(OSError):
        if connection.family == sockets.AF_UNIX:
            return connection.getsockname(), _credentials_of(connection)
        return connection.getsockname(), connection.getpeername()
    return None


def _credentials_of(connection: sockets.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the process at the other end of an ipc connection."""
    with contextlib.suppress(OSError, AttributeError):
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _PEERCRED.size))
        return pid, uid, gid
    return -1, -1, -1


def _cut(descriptor: int, known: _Connection) -> bool:
    """Shut a connection down, if the descriptor still is that connection; then libzmq closes it."""
    with _duplicate(descriptor) as connection:
        if connection is None or _signature_of(connection) != known.signature:
            return False
        with contextlib.suppress(OSError):  # the peer was quicker
            connection.shutdown(sockets.SHUT_RDWR)
        return True

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
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
import gevent.monkey
import zmq
from gevent.event import AsyncResult, Event

from ..errors import SecurityError, SocketClosed, TransientError, TransportError
from ..security import Gate, Identity, Peer
from ..security.authorized import Rosters
from .complaints import Complaints
from .monitor import SocketMonitor, monitor_endpoint
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
_TURN = 0.001  # seconds for which events are looked at before others may run
_PAUSE = 0.0002  # seconds for which these may
_MOST_NAMES = 20  # in one line of the log
_MOST_REFUSALS = 1000  # kinds of them that are counted apart
_PEERCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred (unix(7))
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked of struct tcp_info (linux/tcp.h), since Linux 4.1
_KNOWS_PROGRESS = sys.platform == "linux"
_BEFORE_READY = 64 + 170 + 12  # octets that libzmq sends before a READY: greeting, WELCOME, ERROR (ZeroMQ RFC 26)
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
        self.rosters = Rosters()
        self._told_of: list[Guard] = []  # also those of closed sockets, with which libzmq is not done
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
                reply = self._reply_to(request)
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


class _Connection:
    """One connection to a bound socket: where it is from, and the ids that it may belong to."""

    __slots__ = ("accepted", "address", "finished", "ids", "settled", "signature")

    def __init__(self, address: str, signature: object) -> None:
        self.address = address
        self.signature = signature
        self.accepted = time.monotonic()
        self.ids: set[str] = set()
        self.finished = False  # whether libzmq has finished the handshake, as far as we looked
        self.settled = False  # whether it has certainly finished its handshake, so that who comes in later is another


class _Place:
    """The connections from one address. Of those that are not settled, at least `admitted` were let in."""

    __slots__ = ("admitted", "connections")

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.admitted = 0

    def admit(self, id: str, settled_before: float, is_here: bool, looks: bool) -> None:
        """Note that one of the connections belongs to this id; not one that was accepted before then, if it can be.

        `is_here` is whether it is certainly one of them, and not one that is gone; `looks` whether those are looked at,
        and `finished` is known of them.
        """
        for one in self.connections:
            if not one.settled and one.accepted < settled_before and (one.finished or not looks):
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
        self.over = Event()  # nothing more is told of the connections
        self._monitor: SocketMonitor | None = None
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._places: dict[str, _Place] = {}  # by address, without its zone
        self._is_asked = is_asked
        self._is_owed = False  # whether somebody is gone who may still be let in: who hangs up at once, say
        self._handshake_seconds = handshake_seconds
        # Whether it ends those that take too long, over TCP. By ipc, and with other mechanisms, libzmq does.
        self.ends_handshakes = _KNOWS_PROGRESS and gate.mechanism == "curve" and handshake_seconds < math.inf
        # libzmq closes those that have not finished by then; it may be late, so that twice as long is certain.
        self._settles_after = 2 * handshake_seconds
        self._failure = ""  # of the handshake, of a connection that is about to be told of
        self._complaints = complaints
        self._untold: deque[tuple[int, int]] = deque()  # events that nobody has taken note of
        self._noted = 0
        self._is_behind = False

    def watch(self, monitor: SocketMonitor) -> None:
        """Hear from this monitor of the connections."""
        self._monitor = monitor
        monitor.call_back(self._hear)

    def admit(self, address: str, mechanism: str, credentials: list[bytes]) -> str | None:
        """The id of somebody who wants to connect, or None when he may not. Lets others run meanwhile."""
        self.catch_up()  # the connection itself was told of before
        verdict = self.gate.admit(address, mechanism, credentials)
        if verdict.id is None:
            self._refused(verdict.reason, address, verdict.who)
            return None
        self.revoked.discard(verdict.id)
        if (place := self._places.get(_without_zone(address))) is not None:  # else it is gone already
            settled_before = time.monotonic() - self._settles_after
            place.admit(verdict.id, settled_before, not self._is_owed, self.ends_handshakes)
        return verdict.id

    def peer(self, frame: Any) -> Peer:
        """Who sent this `zmq.Frame`. In its metadata, libzmq lets nothing that a peer says stand for these two."""
        return self.gate.peer(_property(frame, "User-Id"), _property(frame, "Peer-Address"))

    def has_put_out(self, frame: Any) -> bool:
        """Whether who sent this `zmq.Frame` may not connect any more. What he sent before may still be in queues."""
        return _property(frame, "User-Id") in self.revoked

    def close_revoked(self, before: Mapping[str, Identity]) -> None:
        """Close the connections of those who may not come in any more, of those who might when this was in the list."""
        revoked = self.gate.revoked(before)
        if not revoked:
            return
        self.revoked |= revoked.keys()
        closed = 0
        for descriptor, connection in list(self._connections.items()):
            if connection.ids & revoked.keys():
                closed += _cut(descriptor, connection)
        names = sorted({known.name for known in revoked.values()})
        if len(names) > _MOST_NAMES:
            names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} others"]
        log.warning("%s: revoked %s; connections closed: %d", self.name, ", ".join(names), closed)

    def end_handshakes(self) -> None:
        """Cut those that have not finished their handshakes in time."""
        began_by = time.monotonic() - self._handshake_seconds
        for descriptor, connection in list(self._connections.items()):
            if connection.finished or connection.accepted > began_by:
                continue
            with _duplicate(descriptor) as found:
                if found is None or _where_from(found)[1] != connection.signature:
                    continue
                connection.finished = _has_finished(found)
                if not connection.finished:
                    _shut_down(found)

    # What becomes of the connections ------------------------------------------------------------------------------
    #
    # Ten thousand of them may come and go at once, and requests are not to wait for that.

    def catch_up(self) -> None:
        """Take note of all that was told until now, and let others run now and then."""
        self._read()
        due = self._noted + len(self._untold)
        while self._noted < due:
            self._note_some()
            if self._noted < due:
                gevent.sleep(_PAUSE)

    def _hear(self) -> None:
        """Take note of what was told. Called by the hub: if that is much, a greenlet goes on with it."""
        self._read()
        self._note_some()
        if self._untold and not self._is_behind:
            self._is_behind = True
            spawn_named(f"{self.name}: look who connects", self._go_on)

    def _go_on(self) -> None:
        try:
            while self._untold:
                gevent.sleep(_PAUSE)
                self._note_some()
        finally:
            self._is_behind = False

    def _read(self) -> None:
        if self._monitor is not None:
            with contextlib.suppress(SocketClosed, TransientError):
                self._untold.extend(self._monitor.drain())

    def _note_some(self) -> None:
        until = time.monotonic() + _TURN
        untold = self._untold
        while untold:
            self._noted += 1
            self._note(*untold.popleft())
            if time.monotonic() > until:
                return
        with contextlib.suppress(SocketClosed):
            self._is_owed = self._is_owed and self._is_asked()

    def _note(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accepted(value)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            # Of the same thread of libzmq, right before it tells which connection that was.
            self._failure = _FAILURES.get(value, _NO_ZEROMQ)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failure = _WENT_AWAY
        elif event == zmq.EVENT_MONITOR_STOPPED:
            self._end()
        else:
            self._gone(value)

    def _end(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self.over.set()

    def _accepted(self, descriptor: int) -> None:
        self._gone(descriptor)  # of which nobody has told, if there was one
        with _duplicate(descriptor) as connection:
            # It may be gone already, and what was wrong with it is told next.
            found = _Connection(*(("", None) if connection is None else _where_from(connection)))
            self._connections[descriptor] = found
            address = found.address
            place = self._places.setdefault(_without_zone(address), _Place())
            place.connections.add(found)
            if connection is not None and len(place.connections) > self.gate.max_connections:
                self._refused("too many connections from this address", address)
                _shut_down(connection)

    def _gone(self, descriptor: int) -> None:
        failure, self._failure = self._failure, ""
        connection = self._connections.pop(descriptor, None)
        if connection is None:
            return
        address, settled = connection.address, connection.settled
        place = self._places[_without_zone(address)]
        place.forget(connection)
        self._is_owed |= not settled
        if not place.connections:
            del self._places[_without_zone(address)]
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


def _without_zone(address: str) -> str:
    """An IPv6 address without the interface that it is at, of which ZAP knows and the descriptor does not."""
    return address.partition("%")[0]


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
            # Or of another family: to look costs three calls, and their addresses fit where those of this one do.
            connection = _Original(sockets.AF_UNIX, sockets.SOCK_STREAM, 0, number)
        yield connection
    finally:
        if connection is not None:
            connection.detach()
        if number != descriptor:
            os.close(number)


_Original: Any = gevent.monkey.get_original("socket", "socket")  # one of gevent would make the descriptor non-blocking


def _where_from(connection: sockets.socket) -> tuple[str, object]:
    """Where a connection is from, as ZAP has it, and what tells it from others."""
    try:
        peer = connection.getpeername()
    except OSError:  # it is over
        return "", None
    if isinstance(peer, tuple):
        return str(peer[0]), peer
    pid, uid, gid = _credentials_of(connection)
    return f"localhost:{uid}:{gid}:{pid}", (pid, uid, gid)


def _credentials_of(connection: sockets.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the process at the other end of an ipc connection."""
    with contextlib.suppress(OSError, AttributeError):
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _PEERCRED.size))
        return pid, uid, gid
    return -1, -1, -1


def _cut(descriptor: int, known: _Connection) -> bool:
    """Shut a connection down, if the descriptor still is that connection; then libzmq closes it."""
    with _duplicate(descriptor) as connection:
        if connection is None or _where_from(connection)[1] != known.signature:
            return False
        _shut_down(connection)
        return True


def _has_finished(connection: sockets.socket) -> bool:
    """Whether libzmq has finished the handshake of CURVE: then the peer has received more than a WELCOME, or an ERROR.

    Which it cannot pretend. By ipc there is no such count, and libzmq looks after these itself.
    """
    if connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_DOMAIN) == sockets.AF_UNIX:
        return True
    try:
        told = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _BYTES_ACKED.size)
    except OSError:  # it is over
        return True
    return len(told) < _BYTES_ACKED.size or _BYTES_ACKED.unpack(told)[0] > _BEFORE_READY


def _shut_down(connection: sockets.socket) -> None:
    with contextlib.suppress(OSError):  # the peer was quicker
        connection.shutdown(sockets.SHUT_RDWR)

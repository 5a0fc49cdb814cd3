"""Who is connected to one bound socket: its connections, and whose each of them is.

libzmq cannot close one connection of a bound socket. Its descriptor can be shut down, and libzmq then closes it. Which
descriptors there are is told by the socket's monitor; whose each of them is, by nobody. But ZAP names an address, and
of the connections from there that may not have finished their handshake it must be one. So a connection is known by all
the ids that it may belong to, and when one of these is revoked, it is closed: too many rather than one too few. Mostly
there is but one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import zmq
from gevent.event import Event

from ..errors import SocketClosed, TransientError
from ..security import Gate, Identity, Peer
from .complaints import Complaints
from .descriptors import KNOWS_PROGRESS, duplicate, has_finished, shut_down, where_from
from .monitor import SocketMonitor
from .spawning import spawn_named

__all__ = ["EVENTS", "Guard"]

log = logging.getLogger(__name__)

_TURN = 0.001  # seconds for which events are looked at before others may run
_PAUSE = 0.0002  # seconds for which these may
_MOST_NAMES = 20  # in one line of the log
_MOST_REFUSALS = 1000  # kinds of them that are counted apart
EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_MONITOR_STOPPED
)
"""What a guard has to be told."""

_NO_ZEROMQ = "its handshake is none of ZeroMQ"
_WENT_AWAY = "it went away during the handshake"
_FAILURES: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it wants another mechanism",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "its messages cannot be decrypted: it may have a wrong server key",
}


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
        self.ends_handshakes = KNOWS_PROGRESS and gate.mechanism == "curve" and handshake_seconds < math.inf
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
            with duplicate(descriptor) as found:
                if found is None or where_from(found)[1] != connection.signature:
                    continue
                connection.finished = has_finished(found)
                if not connection.finished:
                    shut_down(found)

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
        with duplicate(descriptor) as connection:
            # It may be gone already, and what was wrong with it is told next.
            found = _Connection(*(("", None) if connection is None else where_from(connection)))
            self._connections[descriptor] = found
            address = found.address
            place = self._places.setdefault(_without_zone(address), _Place())
            place.connections.add(found)
            if connection is not None and len(place.connections) > self.gate.max_connections:
                self._refused("too many connections from this address", address)
                shut_down(connection)

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


def _cut(descriptor: int, known: _Connection) -> bool:
    """Shut a connection down, if the descriptor still is that connection; then libzmq closes it."""
    with duplicate(descriptor) as connection:
        if connection is None or where_from(connection)[1] != known.signature:
            return False
        shut_down(connection)
        return True

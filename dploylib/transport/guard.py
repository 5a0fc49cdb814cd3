"""Who is connected to one bound socket: its connections, and whose each of them is.

libzmq cannot close one connection of a bound socket. Its descriptor can be shut down, and libzmq then closes it. Which
descriptors there are is told by the socket's monitor; whose each of them is, by nobody. But ZAP names an address, and
who is asked about is one of the connections from there that have not finished their handshake. Which have finished it
is known of TCP: libzmq has sent more to them than it sends before. So a connection is known by all the ids that it may
belong to, and when one of these is revoked, it is closed: too many rather than one too few. Mostly there is but one. By
ipc, the address is a process, and all its connections are taken for one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

import gevent
import msgspec
import zmq
from gevent.event import Event

from ..errors import SocketClosed, TransientError
from ..security import Gate, Identity, Peer
from ..statistics import Connections
from .complaints import Complaints
from .descriptors import COUNTS_OCTETS, duplicate, octets_sent, shut_down, where_from
from .monitor import SocketMonitor
from .reading import LARGE
from .spawning import spawn_named

__all__ = ["EVENTS", "Guard", "RemoteGuard"]

log = logging.getLogger(__name__)

_TURN = 0.001  # seconds for which events are looked at before others may run
_PAUSE = 0.0002  # seconds for which these may
_VALID = 0.25  # seconds for which it is good that somebody had not finished his handshake
_MOST_NAMES = 20  # in one line of the log
_MOST_REFUSALS = 1000  # kinds of them that are counted apart
# Octets that libzmq sends before a READY, by mechanism: its greeting, a WELCOME, an ERROR (ZeroMQ RFC 23, 24 and 26).
_BEFORE_READY = {"none": 64 + 12, "plain": 64 + 10 + 12, "curve": 64 + 170 + 12}
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
_WENT_AWAY = "went away during the handshake"
_FAILURES: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it wants another mechanism",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "its messages cannot be decrypted: it may have a wrong server key",
}


class _Connection:
    """One connection to a bound socket: where it is from, and the ids that it may belong to."""

    __slots__ = ("address", "descriptor", "due", "finished", "ids", "looked_at", "signature")

    def __init__(self, descriptor: int, address: str, signature: object, due: float) -> None:
        self.descriptor = descriptor
        self.address = address
        self.signature = signature
        self.due = due  # when its handshake has to be finished
        self.finished = False  # certainly, so that whom libzmq asks about now is another one
        self.looked_at = -math.inf
        self.ids: set[str] = set()


class Guard:
    """Watches over who comes in to one bound socket: the connections that it has, and whom its gate refused.

    `refusals` counts them, by reason and address: '' for who was gone before anybody could see where from he came. Of
    too many different ones the rest is under the address "others". `revoked` are the ids of those who were put out, and
    have not come in again. `connections` counts what became of them.
    """

    def __init__(self, name: str, domain: bytes, gate: Gate, complaints: Complaints, handshake_seconds: float) -> None:
        self.name = name
        self.domain = domain
        self.gate = gate
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.revoked: set[str] = set()
        self.over = Event()  # nothing more is told of the connections
        self.connections = Connections()
        self._monitor: SocketMonitor | None = None
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._places: dict[str, set[_Connection]] = {}  # by address, without its zone
        self._handshake_seconds = handshake_seconds
        self.ends_handshakes = COUNTS_OCTETS and handshake_seconds < math.inf  # over TCP, instead of libzmq
        self._before_ready = _BEFORE_READY[gate.mechanism]
        self._failure = ""  # of the handshake, of a connection that is about to be told of
        self._complaints = complaints
        self._untold: deque[tuple[int, int]] = deque()  # events that nobody has taken note of
        self._early: dict[str, set[str]] = {}  # by address, who was let in before his connection was noted
        self._is_behind = False

    def watch(self, monitor: SocketMonitor) -> None:
        """Hear from this monitor of the connections."""
        self._monitor = monitor
        monitor.call_back(self._hear)

    def admit(self, address: str, mechanism: str, credentials: list[bytes]) -> str | None:
        """The id of somebody who wants to connect, or None when he may not."""
        self._hear()  # the connection itself was told of before
        verdict = self.gate.admit(address, mechanism, credentials)
        if verdict.id is None:
            self._refused(verdict.reason, address, verdict.who)
            return None
        self.revoked.discard(verdict.id)
        address = _without_zone(address)
        if self._untold:  # where it may be among others, of which there are many
            self._early.setdefault(address, set()).add(verdict.id)
        for one in self._places.get(address, ()):
            if not self._has_finished(one):
                one.ids.add(verdict.id)
        return verdict.id

    def take_sender(self, frames: list[Any]) -> Any:
        """What the other methods want of a message to say whose it is: here, its last frame, which is then bytes."""
        frame = frames[-1]
        if len(frame) < LARGE:
            frames[-1] = frame.bytes
        return frame

    def peer(self, frame: Any) -> Peer:
        """Who sent this `zmq.Frame`. In its metadata, libzmq lets nothing that a peer says stand for these two."""
        return self.gate.peer(_property(frame, "User-Id"), _property(frame, "Peer-Address"))

    def has_put_out(self, frame: Any) -> bool:
        """Whether who sent this `zmq.Frame` may not connect any more. What he sent before may still be in queues."""
        return bool(self.revoked) and _property(frame, "User-Id") in self.revoked

    def told(self, frame: Any) -> bytes:
        """What tells a `RemoteGuard` who sent this `zmq.Frame`."""
        return msgspec.msgpack.encode((_property(frame, "User-Id"), _property(frame, "Peer-Address")))

    def close_revoked(self, before: Mapping[str, Identity]) -> None:
        """Close the connections of those who may not come in any more, of those who might when this was in the list."""
        revoked = self.gate.revoked(before)
        if not revoked:
            return
        self.revoked |= revoked.keys()
        closed = 0
        for one in [one for one in self._connections.values() if one.ids & revoked.keys()]:
            with _as_it_was(one) as found:
                if found is not None:
                    shut_down(found)
                    closed += 1
        names = sorted({known.name for known in revoked.values()})
        if len(names) > _MOST_NAMES:
            names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} others"]
        log.warning("%s: revoked %s; connections closed: %d", self.name, ", ".join(names), closed)

    def end_handshakes(self) -> None:
        """Cut those that have not finished their handshakes in time."""
        now = time.monotonic()
        for one in [one for one in self._connections.values() if one.due < now]:
            one.due = math.inf
            with _as_it_was(one) as found:
                sent = None if found is None else octets_sent(found)
                if sent is not None and found is not None and sent <= self._before_ready:
                    shut_down(found)

    def _has_finished(self, one: _Connection) -> bool:
        """Whether a connection has certainly finished its handshake. That of a moment ago will do."""
        now = time.monotonic()
        # Who has no id yet has not been let in.
        if one.ids and not one.finished and now - one.looked_at > _VALID:
            one.looked_at = now
            with _as_it_was(one) as found:
                sent = None if found is None else octets_sent(found)
                one.finished = sent is not None and sent > self._before_ready
        return one.finished

    # What becomes of the connections ------------------------------------------------------------------------------
    #
    # Ten thousand of them may come and go at once, and requests are not to wait for that.

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
            self._note(*untold.popleft())
            if time.monotonic() > until:
                return
        self._early.clear()

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
        due = time.monotonic() + self._handshake_seconds
        with duplicate(descriptor) as connection:
            # It may be gone already, and what was wrong with it is told next.
            address, signature = ("", None) if connection is None else where_from(connection)
            self._connections[descriptor] = found = _Connection(descriptor, address, signature, due)
            self.connections.opened += 1
            place = self._places.setdefault(_without_zone(address), set())
            place.add(found)
            found.ids |= self._early.get(_without_zone(address), set())
            too_many = len(place) > self.gate.max_connections
            if connection is not None and (too_many or found.ids & self.revoked):
                self._refused("too many connections from this address" if too_many else "revoked meanwhile", address)
                shut_down(connection)

    def _gone(self, descriptor: int) -> None:
        failure, self._failure = self._failure, ""
        connection = self._connections.pop(descriptor, None)
        if connection is None:
            return
        self.connections.closed += 1
        address = connection.address
        place = self._places[_without_zone(address)]
        place.discard(connection)
        if not place:
            del self._places[_without_zone(address)]
        if failure:
            self._refused(failure, address)

    def _refused(self, reason: str, address: str, who: str = "") -> None:
        key = (reason, address)
        if key not in self.refusals and len(self.refusals) >= _MOST_REFUSALS:
            key = (reason, "others")
        self.refusals[key] += 1
        self.connections.failed += 1
        somebody = f"{who and f'{who} at '}{address or 'somebody'}"
        # Whoever looks whether the port is open goes away like that, too.
        text, level = f"{self.name} refused {somebody}: {reason}", logging.WARNING
        if reason == _WENT_AWAY:
            text, level = f"{self.name}: {somebody} {reason}", logging.INFO
        self._complaints.tell(f"{self.name} {reason} {somebody}", text, level)


class RemoteGuard(Guard):
    """Knows whose a message is that somebody else's guard has let in, and that tells so with each message.

    It has no connections, and looks at the lists by itself: who is not in there any more is put out here, too, so that
    what he sent is not handled. `sender` is what was told with the message that was read last.
    """

    sender: bytes = b""

    def __init__(self, name: str, domain: bytes, gate: Gate, complaints: Complaints) -> None:
        super().__init__(name, domain, gate, complaints, math.inf)
        self.over.set()

    def take_sender(self, frames: list[Any]) -> Any:
        """What was told of the message that was read last."""
        return self.sender

    def peer(self, sender: Any) -> Peer:
        """Who is the sender that was told."""
        return self.gate.peer(*_told(sender))

    def has_put_out(self, sender: Any) -> bool:
        """Whether the sender that was told may not connect any more. Nobody may of whom nothing was told."""
        return not self.gate.admits(_told(sender)[0]) if sender else True

    def close_revoked(self, before: Mapping[str, Identity]) -> None:
        """Nothing: who has the connections closes them."""


def _told(sender: bytes) -> tuple[str, str]:
    try:
        return _sender_decoder.decode(sender)
    except msgspec.DecodeError:
        return "", ""


_sender_decoder = msgspec.msgpack.Decoder(tuple[str, str])


def _property(frame: Any, name: str) -> str:
    """What libzmq knows of the connection of a frame: '' for inproc, which has nothing of the kind."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def _without_zone(address: str) -> str:
    """An IPv6 address without the interface that it is at, of which ZAP knows and the descriptor does not."""
    return address.partition("%")[0]


@contextlib.contextmanager
def _as_it_was(known: _Connection) -> Iterator[Any]:
    """The connection, if its descriptor still is that one; else None."""
    with duplicate(known.descriptor) as found:
        yield found if found is not None and where_from(found)[1] == known.signature else None

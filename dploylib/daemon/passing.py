"""Passing messages between the clients of one socket and the workers: what a front does, for each of its lanes.

The hub calls `_turn`, which does all of it without ever waiting: it reads what the workers have sent, and then as many
messages of clients as workers take. There is no greenlet for a message, and no queue: what no worker has room for stays
in the socket, and ZeroMQ's high-water mark holds up the clients.

A message is *held* by a worker from when it was sent there until it is answered, or said to be done. When a worker
goes, it is known of each message that it held whether the worker may have begun it; see `_settle`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import msgspec

from ..errors import (
    Forbidden,
    MalformedEnvelope,
    Overloaded,
    PeerError,
    ShuttingDown,
    SocketClosed,
    TransientError,
    TransportError,
    Unroutable,
    WorkerLost,
)
from ..security import Credentials, Security
from ..servers.declare import SocketDescription
from ..servers.dispatch import socket_statistics
from ..servers.fronted import BYE, DONE, GONE, HELLO, READY, VERSION, Ready, numbers_in, pack, unpack
from ..statistics import SocketStatistics
from ..transport import PROBLEM_MIMETYPE, Context, Socket
from ..transport.complaints import Complaints
from ..transport.envelope import Envelope, adopt
from ..transport.problems import is_problem, problem_of
from ..transport.spawning import spawn_named
from .deaths import Deaths
from .lane import Lane

__all__ = ["MOST_PREFETCH", "Passing"]

log = logging.getLogger(__name__)

MOST_PREFETCH = 32
"""Messages that a worker has at most beyond those that it handles at once, so that it need not wait for the next one.

What waits behind a slow handler could be with another worker. So it gets as many as it has lately handled in 2.5 ms,
but at least one.
"""

_TURN_SECONDS = 0.002
_BATCH = 64  # messages of one side before the other one has its turn
_LIKELY = 2  # messages in a row after which another one is likely
_SOON = 1e-9  # seconds; a callback of the hub's would let file descriptors starve
_RETRY_PAUSE = 0.02  # seconds
_PERIOD = 0.01  # seconds, in which it is counted what workers handle
_PART = 4  # of which they are to have as many in advance
_MOST_DEATHS = 3  # of workers that had one and the same message
_QUIET = 0.05  # seconds
_SETTLING = 2.0  # seconds for which that is waited for, where somebody else keeps its connection open
_PATIENCE = 5.0  # seconds for which a reply may wait for a client that reads nothing
_MOST_WAITING = 1000  # replies for one such client
_MOST_DEAF = 10_000  # clients that are remembered for not reading
_MOST_PATIENCE = 1.0  # seconds for which a lane that closes goes on to answer those who ask
_CLOSING_LINGER = 1.0  # seconds


class Counts:
    """What came of the messages of one lane, in numbers since the front was started.

    `received` from clients, and sent `again` to another worker. `answered` to clients, by workers or the front.
    `overloaded`, `malformed`, `forbidden`, `lost` with a worker, and `closed` are the problems that the front answered
    with, or might have. `unmatched` replies were for no request; `gone` and `undelivered` ones for clients that were
    gone or did not read.
    """

    __slots__ = (
        "again",
        "answered",
        "closed",
        "forbidden",
        "gone",
        "lost",
        "malformed",
        "overloaded",
        "received",
        "undelivered",
        "unmatched",
    )

    again: int
    answered: int
    closed: int
    forbidden: int
    gone: int
    lost: int
    malformed: int
    overloaded: int
    received: int
    undelivered: int
    unmatched: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)


_PROBLEMS = {  # and what clients are told, by the last part of the type of a problem
    "closed": "shutting-down",
    "forbidden": "forbidden",
    "lost": "worker-lost",
    "malformed": "malformed-envelope",
    "overloaded": "overloaded",
}
_DROPPED = ("gone", "undelivered", "unmatched")
_FIXED = ("socket_type", "backend", "options", "security", "max_frames")  # which a lane has for its life


class _Worker:
    """One DEALER of a worker, by its routing id."""

    __slots__ = (
        "concurrency",
        "credit",
        "deaths",
        "died",
        "handled",
        "held",
        "id",
        "instance",
        "leaving",
        "pid",
        "prefetch",
        "replied",
        "routes",
        "sent",
    )

    def __init__(self, id: bytes, ready: Ready) -> None:
        self.id = id
        self.pid = ready.pid
        self.instance = ready.instance
        self.concurrency = self.credit = ready.concurrency
        self.prefetch = 1
        self.handled = 0  # messages, in this period
        self.leaving = False
        self.died: Callable[[], None] | None = None
        self.sent = 0  # messages; each is known by its number
        self.held: dict[int, list[Any]] = {}
        self.routes: dict[Any, Any] = {}  # the number by the route of the reply, or the list of several
        self.replied: set[int] = set()  # of `router`: messages to which there was a reply, and that may not be done
        self.deaths: dict[int, int] = {}  # of workers that had the message before


class Passing:
    """One lane at work."""

    def __init__(self, lane: Lane, context: Context, deaths: Deaths, descriptors: Mapping[str, int]) -> None:
        """Bind the sockets. Raises what `Socket` raises, and `SecurityError`; then nothing is left open."""
        self.lane = lane
        self.counts = Counts()
        self._deaths = deaths
        self._workers: dict[bytes, _Worker] = {}
        self._ready: list[_Worker] = []  # those that take messages, who had one last at the end
        self._waiting: deque[tuple[list[Any], int]] = deque()  # messages for whoever is free, and how many died of each
        self._slow: dict[bytes, deque[list[Any]]] = {}  # replies to clients that do not read
        self._deaf: set[bytes] = set()
        self._in_a_row = 0
        self._turns_away = self._is_closing = False
        self._drained = 0  # how often nothing was left of what workers had sent
        self._complaints = Complaints(log)
        self._complain = self._complaints.tell
        self._answers = lane.socket_type != "pull"
        self._matches = lane.socket_type == "rep"
        self._clients = self._bind_clients(lane, context, descriptors)
        self._guard = self._clients.guard
        try:
            self._backend = context.socket("router", {"router_mandatory": 1, "sndhwm": 0, "linger": 0})
            try:
                self._backend.credentials = None
                if lane.socket_type != "router":  # which can send more than it is asked to
                    self._backend.set_option("rcvhwm", 0)
                self._backend.bind(lane.backend)
            except BaseException:
                self._backend.close(linger=0)
                raise
        except BaseException:
            self._clients.close(linger=0)
            raise
        self._clients.max_frames = lane.max_frames
        loop = gevent.get_hub().loop
        self._soon: Any = loop.timer(_SOON)
        self._later: Any = loop.timer(_RETRY_PAUSE)
        self._pace: Any = loop.timer(_PERIOD, _PERIOD)
        self._backend.call_back(self._turn)
        self._clients.call_back(self._turn)

    @staticmethod
    def _bind_clients(lane: Lane, context: Context, descriptors: Mapping[str, int]) -> Socket:
        description = SocketDescription(
            lane.socket, lane.socket_type, "bind", _no_handler, concurrency=lane.concurrency
        )
        credentials = None if lane.security == Security() else Credentials(lane.security)
        return description.create_socket(
            context, list(lane.uris), lane.options, lane.concurrency, credentials, lane.name, descriptors, counts=True
        )

    def __repr__(self) -> str:
        return f"<Passing {self.lane.name}>"

    # What its owners want of it --------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many messages the workers hold."""
        return sum(len(worker.held) for worker in self._workers.values())

    def status(self) -> dict[str, Any]:
        """What it has done, and who is there, for people and for JSON."""
        counts = self.counts
        guard = self._clients.guard
        return {
            "endpoints": self._clients.endpoints,
            "received": counts.received,
            "answered": counts.answered,
            "again": counts.again,
            "in_flight": self.in_flight,
            "waiting": len(self._waiting),
            "full": self._free_worker() is None,
            "problems": {name: getattr(counts, name) for name in _PROBLEMS},
            "dropped": {name: getattr(counts, name) for name in _DROPPED},
            "refused_connections": 0 if guard is None else sum(guard.refusals.values()),
            "workers": [
                {
                    "pid": worker.pid,
                    "state": "leaving" if worker.leaving else "ready",
                    "credit": worker.credit,
                    "in_flight": len(worker.held),
                }
                for worker in self._workers.values()
            ],
        }

    def statistics(self) -> SocketStatistics:
        """What the workers do not know: who is connected, and what came of messages that no worker has got."""
        counts, clients = self.counts, self._clients
        problems = {name: n for field, name in _PROBLEMS.items() if (n := getattr(counts, field))}
        unseen = counts.malformed + counts.forbidden + counts.overloaded + counts.closed
        found = socket_statistics(clients, self.lane.socket_type)
        return msgspec.structs.replace(
            found,
            concurrency=0,
            received=unseen,
            handled=unseen,
            sent=0,
            replied=0,
            malformed=counts.malformed,
            refused=counts.forbidden,
            rejected=counts.overloaded + counts.closed,
            undelivered=counts.gone + counts.undelivered,
            dropped=counts.unmatched,
            bytes_received=0,
            bytes_sent=0,
            problems=problems,
        )

    def flaw_of(self, lane: Lane) -> str | None:
        """Why it cannot become this lane; None when it can."""
        other = [name for name in _FIXED if getattr(lane, name) != getattr(self.lane, name)]
        if not other:
            return None
        return f"{lane.name}: to change {', '.join(other)} needs a restart; it stays as it was"

    def become(self, lane: Lane, descriptors: Mapping[str, int], seconds: float) -> list[str]:
        """Take over what is other in this lane. Endpoints that are not in it are left when what came there is answered.

        That may take so many seconds. Returns what did not work.
        """
        errors = []
        old = self.lane.uris
        now = [uri for uri in old if uri in lane.uris]
        for uri in (uri for uri in lane.uris if uri not in old):
            try:
                self._clients.bind(uri, descriptors.get(uri))
                now.append(uri)
            except TransportError as error:
                errors.append(f"{lane.name}: {error}")
        gone = [uri for uri in old if uri not in now]
        self.lane = msgspec.structs.replace(lane, uris=tuple(now))
        for worker in self._workers.values():
            worker.credit = self._credit_for(worker)
        if gone:
            spawn_named(f"{lane.name}: leave endpoints", self._unbind, gone, seconds)
        self._look_soon()
        return errors

    def begin_to_close(self) -> None:
        """Take no new messages: whoever asks is told so, and nobody can push any more. To be closed soon.

        Workers that leave get what was pushed before.
        """
        self._is_closing = True
        if self._answers:
            self._turns_away = True
        else:
            self.leave_endpoints()
        self._look_soon()

    def leave_endpoints(self) -> None:
        """Let nobody connect any more: others listen there, and go on."""
        for uri in self.lane.uris:
            self._leave(uri)

    def close(self, seconds: float) -> None:
        """Take no new messages, wait for so many seconds, at most, until the others are answered, and close."""
        ends = time.monotonic() + seconds
        name = self.lane.name
        if not self._is_closing:
            self.begin_to_close()
        self._wait_until_idle(ends)
        if self._answers:  # those who had their replies, and ask again before they can know that they should not
            self._wait_until_quiet(min(time.monotonic() + _MOST_PATIENCE, max(ends, time.monotonic() + _QUIET)))
        for worker in list(self._workers.values()):
            for frames in worker.held.values():
                self._lose(frames, f"the front of {name} was closed before it was answered")
            self._tell(worker.id, BYE)
        while self._waiting:
            self._lose(self._waiting.popleft()[0], f"the front of {name} was closed before anybody handled it")
        lost = 0 if self._answers else self._discard()
        if lost:
            log.error("%s: %d messages that were received were given to nobody before the end", name, lost)
        self._end(_CLOSING_LINGER)

    def _end(self, linger: float) -> None:
        for timer in (self._soon, self._later, self._pace):
            timer.stop()
            timer.close()
        for worker in self._workers.values():
            if worker.died is not None:
                self._deaths.forget(worker.pid, worker.died)
        self._workers.clear()
        self._ready.clear()
        self._complaints.close()
        self._backend.close(linger)
        self._clients.close(linger)

    def _unbind(self, uris: list[str], seconds: float) -> None:
        ends = time.monotonic() + seconds
        held = {id(frames): frames for worker in self._workers.values() for frames in worker.held.values()}
        while held and time.monotonic() < ends:
            now = {id(frames) for worker in self._workers.values() for frames in worker.held.values()}
            now |= {id(frames) for frames, _ in self._waiting}
            held = {key: frames for key, frames in held.items() if key in now}
            gevent.sleep(_RETRY_PAUSE)
        if seconds:
            gevent.sleep(_QUIET)  # so that libzmq has sent the last replies
        for uri in uris:
            self._leave(uri)

    def _leave(self, uri: str) -> None:
        try:
            self._clients.unbind(uri)
        except TransportError as error:  # it was closed meanwhile
            log.debug("%s: %s", self.lane.name, error)

    def _wait_until_idle(self, ends: float) -> None:
        """Wait until no worker has anything any more, nor could have."""
        while time.monotonic() < ends:
            waits = self._is_wanted()
            if not waits:
                for worker in [one for one in self._ready if one.leaving and not one.held]:
                    self._let_go(worker)
            if not (self.in_flight or waits or self._slow):
                return
            gevent.sleep(_RETRY_PAUSE)

    def _wait_until_quiet(self, ends: float) -> None:
        seen = -1
        while seen != self.counts.received and time.monotonic() < ends:
            seen = self.counts.received
            gevent.sleep(_QUIET)

    def _discard(self) -> int:
        count = 0
        try:
            while self._clients.readable():
                count += 1
                with contextlib.suppress(MalformedEnvelope):
                    self._clients.receive_frames(copy=False)
        except TransportError as error:
            log.debug("%s: %s", self.lane.name, error)
        return count

    # What the hub calls ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Pass on what there is, for no longer than others can wait. Never waits, nor raises.

        The last look at each socket comes after all that was sent over it: to send may take away the event that would
        have told the hub of a message (see `waiting`).
        """
        ends = time.monotonic() + _TURN_SECONDS
        try:
            while self._hear_workers() | self._serve_clients():
                if time.monotonic() > ends:
                    self._look_soon()
                    return
        except SocketClosed:
            return
        except TransientError as error:
            self._complain("transient", f"{self.lane.name}: {error}; trying again until it works")
            self._look_later()
        except Exception:
            log.exception("%s: a mistake of ours, in spite of which it goes on", self.lane.name)
            self._look_later()

    def _look_soon(self) -> None:
        if not self._clients.closed:
            self._soon.start(self._turn)

    def _look_later(self) -> None:
        if not self._clients.closed:
            self._later.start(self._turn)

    # From clients to workers -----------------------------------------------------------------------------------

    def _serve_clients(self) -> bool:
        """Read as many messages as workers take, and give them out. Returns whether there were any."""
        clients, waiting = self._clients, self._waiting
        room = sum(max(0, worker.credit - len(worker.held)) for worker in self._ready)
        takes_all = self._turns_away or (self.lane.rejects and self._ready)
        count = 0
        while count < _BATCH and (takes_all or len(waiting) < room):
            if not clients.readable(self._in_a_row > _LIKELY):
                self._in_a_row = 0
                break
            self._in_a_row += 1
            count += 1
            self.counts.received += 1
            try:
                frames = clients.receive_frames(copy=False)
            except MalformedEnvelope as error:
                self.counts.malformed += 1
                self._refuse(error.frames, error)
                self._complain("malformed", f"{self.lane.name} received a {error}")
                continue
            if self._turns_away:
                self.counts.closed += 1
                self._refuse(frames, ShuttingDown(f"the service of {self.lane.name} is shutting down"))
            elif len(waiting) < room:
                waiting.append((frames, 0))
            else:
                self._reject(frames)
        while waiting and (worker := self._free_worker()) is not None:
            self._give(worker, *waiting.popleft())
            count += 1
        return count > 0

    def _free_worker(self) -> _Worker | None:
        """The worker that has the smallest share of what it takes; of several, who had a message longest ago."""
        found, least = None, 1.0
        for worker in self._ready:
            held = len(worker.held)
            if not held:
                return worker
            share = held / worker.credit
            if share < least:
                found, least = worker, share
        return found

    def _give(self, worker: _Worker, frames: list[Any], deaths: int) -> None:
        """Send a message to a worker. When that does not work, it waits for another one."""
        guard = self._guard
        if guard is None:
            packed = pack(frames)
        elif guard.has_put_out(frames[-1]):
            self.counts.forbidden += 1
            self._refuse(frames, Forbidden(f"who has sent this to {self.lane.name} may not connect any more"))
            return
        else:
            packed = pack([guard.told(frames[-1]), *frames])
        try:
            if not self._backend.send_at_once([worker.id, *packed]):
                raise TransientError(f"no room for a message to worker {worker.pid}")
        except Unroutable:
            self._waiting.appendleft((frames, deaths))
            self._lose_link(worker)
            return
        except TransientError:
            self._waiting.appendleft((frames, deaths))
            raise
        worker.sent = number = worker.sent + 1
        worker.held[number] = frames
        if deaths:
            worker.deaths[number] = deaths
        if self._answers:
            route = _route(frames)
            other = worker.routes.setdefault(route, number)
            if other is not number:
                if type(other) is list:
                    other.append(number)
                else:
                    worker.routes[route] = [other, number]
        if not self._pace.active:
            self._pace.start(self._set_credits)
        ready = self._ready
        if ready[-1] is not worker:
            ready.remove(worker)
            ready.append(worker)

    def _reject(self, frames: list[Any]) -> None:
        name = self.lane.name
        self.counts.overloaded += 1
        self._refuse(frames, Overloaded(f"all workers of {name} are busy; try again later"))
        self._complain("rejected", f"{name} rejected a message since all workers are busy")

    # From workers to clients -----------------------------------------------------------------------------------

    def _hear_workers(self) -> bool:
        """Hear what workers have sent, and send their replies. Returns whether there was anything."""
        replies: list[list[Any]] = []
        try:
            return self._read_workers(replies)
        finally:
            for frames in replies:  # one after the other: libzmq's thread then wakes up once for several
                self._send(frames)

    def _read_workers(self, replies: list[list[Any]]) -> bool:
        backend, workers, matches = self._backend, self._workers, self._matches
        count = 0
        while count < _BATCH:
            if not backend.readable(count > _LIKELY):
                self._drained += 1
                break
            count += 1
            id, *packed = backend.receive_frames(copy=False)
            worker = workers.get(id)
            if not packed[0]:
                self._hear(worker, id, *packed)
                continue
            try:
                frames = unpack(packed)
            except msgspec.MsgspecError as error:
                self._complain("odd", f"{self.lane.name}: a worker sends what is no message: {error}")
                continue
            if worker is None or not self._answers:
                self.counts.unmatched += 1
                continue
            number = self._answered(worker, frames)
            if not matches:
                if number is not None:
                    worker.replied.add(number)
            elif number is None:
                self.counts.unmatched += 1
                continue
            else:
                self._release(worker, number)
            replies.append(frames)
        return count > 0

    def _answered(self, worker: _Worker, frames: list[Any], done: int | None = None) -> Any:
        """The number of the request that this is the reply to; None where there is none, or it was answered before.

        Who sends several by one route tells their replies apart by the ids of the envelopes, or by their order. What a
        `router` sends under another id is no reply: it may send what nobody has asked for. That a request is `done`,
        these being its frames, is known by its number.
        """
        routes, route = worker.routes, _route(frames)
        numbers = routes.pop(route, None)
        if numbers is None or (self._matches and type(numbers) is not list):
            return numbers
        several = numbers if type(numbers) is list else [numbers]
        id = _id_of(frames)
        of_this_id = (one for one in several if _id_of(worker.held[one]) == id)
        answered = done or next(of_this_id, several[0] if self._matches else None)
        if answered is not None:
            several.remove(answered)
        if several:
            routes[route] = several if len(several) > 1 else several[0]
        return answered

    def _release(self, worker: _Worker, number: int) -> None:
        """Take note that a message is done with."""
        if worker.held.pop(number, None) is None:
            return
        worker.handled += 1
        if worker.deaths:
            worker.deaths.pop(number, None)
        if worker.leaving and not worker.held and not (self._is_closing and self._is_wanted()):
            self._let_go(worker)

    def _hear(self, worker: _Worker | None, id: bytes, _: bytes, verb: bytes = b"", word: Any = b"", *__: Any) -> None:
        """Hear what a worker says besides messages."""
        try:
            if not verb:  # it is just connected
                self._tell(id, HELLO, b"1" if self._guard is not None else b"0")
            elif verb == READY:
                self._welcome(worker, id, msgspec.msgpack.decode(word, type=Ready))
            elif verb == DONE and worker is not None:
                for number in numbers_in(word):
                    if self._answers and number in worker.held and number not in worker.replied:
                        self._answered(worker, worker.held[number], number)  # it gets no reply
                    worker.replied.discard(number)
                    self._release(worker, number)
            elif verb == BYE:
                self._dismiss(worker, id)
            elif verb == GONE and worker is not None:
                self._settle(worker, int(word), f"worker {worker.pid} has ended")
        except (ValueError, msgspec.MsgspecError) as error:
            self._complain("odd", f"{self.lane.name}: a worker says what cannot be understood: {error}")

    def _welcome(self, worker: _Worker | None, id: bytes, ready: Ready) -> None:
        if ready.version != VERSION:
            self._complain(
                "version",
                f"{self.lane.name}: worker {ready.pid} speaks version {ready.version} of the protocol of the front, "
                f"which speaks {VERSION}: it gets no messages until the front is restarted",
            )
            return
        if worker is not None:
            return
        for other in list(self._workers.values()):
            if other.instance == ready.instance:  # its connection broke, and this is the next one
                self._lose_link(other)
        worker = _Worker(id, ready)
        worker.credit = self._credit_for(worker)
        worker.died = died = lambda: self._lose_link(worker)
        self._workers[id] = worker
        self._ready.append(worker)
        self._deaths.watch(ready.pid, died)
        log.debug("%s: worker %d is ready", self.lane.name, ready.pid)

    def _credit_for(self, worker: _Worker) -> int:
        return worker.concurrency + (0 if self.lane.rejects else worker.prefetch)

    def _set_credits(self) -> None:
        """Let workers that have handled more, or less, lately have more, or less, in advance. Called by the hub."""
        busy = False
        for worker in self._workers.values():
            now = max(1, worker.handled // _PART, worker.prefetch // 2)
            worker.prefetch = min(now, MOST_PREFETCH)
            busy |= worker.prefetch > 1 or worker.handled > 0
            worker.handled = 0
            worker.credit = self._credit_for(worker)
        if not busy:
            self._pace.stop()

    def _dismiss(self, worker: _Worker | None, id: bytes) -> None:
        """Give a worker nothing more, and tell it when all that it has is done."""
        if worker is None:
            self._tell(id, BYE)
            return
        worker.leaving = True
        if self._is_closing and self._is_wanted():  # it has its time, and nobody comes after it
            return
        self._take_no_more(worker)
        if not worker.held:
            self._let_go(worker)

    def _let_go(self, worker: _Worker) -> None:
        self._take_no_more(worker)
        self._tell(worker.id, BYE)

    def _is_wanted(self) -> bool:
        """Whether there is something for workers to do that nobody has been given."""
        return bool(self._waiting) or (not self._answers and self._clients.has_input())

    def _take_no_more(self, worker: _Worker) -> None:
        if worker in self._ready:
            self._ready.remove(worker)

    # When a worker goes ----------------------------------------------------------------------------------------

    def _lose_link(self, worker: _Worker) -> None:
        """Settle what a worker held that has died, or cannot be reached any more, when all that it sent has come in."""
        self._take_no_more(worker)
        if worker.died is not None:
            self._deaths.forget(worker.pid, worker.died)
            worker.died = None
            spawn_named(f"{self.lane.name}: see to what worker {worker.pid} had", self._settle_soon, worker)

    def _settle_soon(self, worker: _Worker) -> None:
        ends = time.monotonic() + _SETTLING
        backend = self._backend
        while time.monotonic() < ends and not backend.closed:
            # A connection that was closed is one that libzmq has no more, and what came over it can be read.
            drained = None if self._tell(worker.id, BYE) else self._drained
            gevent.sleep(_QUIET)
            if drained is not None and self._drained > drained:
                break
        self._settle(worker, None, f"worker {worker.pid} is gone")

    def _settle(self, worker: _Worker, begun: int | None, why: str) -> None:
        """Decide about what a worker held that is no more.

        What it has not begun, another one gets. It may have begun, and not finished, what came before: of a lane of
        idempotent messages another one gets that too, unless so many workers have died with it that it may be why they
        did. Of others, it is said that it was lost.
        """
        if self._workers.pop(worker.id, None) is None:
            return
        self._take_no_more(worker)
        if worker.died is not None:
            self._deaths.forget(worker.pid, worker.died)
            worker.died = None
        for number, frames in worker.held.items():
            if number in worker.replied:
                continue
            deaths = worker.deaths.get(number, 0)
            if begun is None or number <= begun:
                deaths += 1
                if not self.lane.idempotent:
                    self._lose(frames, f"{why}: it had this message, and did not say what became of it")
                    continue
                if deaths >= _MOST_DEATHS:
                    self._lose(frames, f"{deaths} workers are gone that had this message, which may be why")
                    continue
            self.counts.again += 1
            self._waiting.append((frames, deaths))
        worker.held.clear()
        self._look_soon()

    def _lose(self, frames: list[Any], why: str) -> None:
        self.counts.lost += 1
        self._refuse(frames, WorkerLost(f"{self.lane.name}: {why}"))
        self._complain("lost", f"{self.lane.name} has lost a message: {why}")

    # Sending ---------------------------------------------------------------------------------------------------

    def _tell(self, id: bytes, *words: bytes) -> bool:
        """Say something to a worker; False when it cannot be reached."""
        try:
            return self._backend.send_at_once([id, b"", *words])
        except TransportError:  # it is gone
            return False
        finally:
            self._backend.look()

    def _refuse(self, frames: list[Any], error: PeerError | Overloaded | ShuttingDown | WorkerLost) -> None:
        """Answer a message with a problem, where it can be answered."""
        if not self._answers:
            return
        end = frames.index(b"", 1) + 1 if b"" in frames[1:] else 0
        route = frames[:end] or [frames[0], b""]
        body = problem_of(error).to_json()
        try:
            request = adopt(frames[end:] if end else list(frames))
            if not self._matches and is_problem(request):
                return  # two peers must not tell each other for ever that they do not want to hear of problems
            self._send([*route, *request.response_envelope(PROBLEM_MIMETYPE, body)._frames])
        except MalformedEnvelope:
            self._send([*route, *Envelope("", PROBLEM_MIMETYPE, body)._frames])

    def _send(self, frames: list[Any]) -> None:
        """Send an answer to a client. Never waits; who reads nothing has a greenlet that does."""
        client = frames[0]
        if self._slow and client in self._slow:
            waiting = self._slow[client]
            if len(waiting) < _MOST_WAITING:
                waiting.append(frames)
            else:
                self._drop(client, 1)
            return
        try:
            if self._clients.send_at_once(frames):
                self.counts.answered += 1
                if self._deaf:
                    self._deaf.discard(client)
                return
        except Unroutable:
            self.counts.gone += 1
            return
        except SocketClosed:
            return
        except TransportError as error:
            self._complain("unsendable", f"{self.lane.name}: {error}; trying again until it works")
        if client in self._deaf:
            self._drop(client, 1)
            return
        self._slow[client] = deque([frames])
        spawn_named(f"{self.lane.name}: wait for a client that does not read", self._send_slowly, client)

    def _send_slowly(self, client: bytes) -> None:
        """Send what waits for a client as it reads, and drop it when it has read nothing for long."""
        waiting = self._slow[client]
        expires = time.monotonic() + _PATIENCE
        try:
            while waiting:
                try:
                    if self._clients.send_at_once(waiting[0]):
                        waiting.popleft()
                        self.counts.answered += 1
                        expires = time.monotonic() + _PATIENCE
                        continue
                except Unroutable:
                    self.counts.gone += len(waiting)
                    return
                except SocketClosed:
                    return
                except TransportError as error:
                    log.debug("%s: %s", self.lane.name, error)
                if time.monotonic() > expires:
                    self._drop(client, len(waiting))
                    return
                self._clients.look()
                gevent.sleep(_RETRY_PAUSE)
        finally:
            del self._slow[client]
            self._clients.look()

    def _drop(self, client: bytes, count: int) -> None:
        self.counts.undelivered += count
        if len(self._deaf) >= _MOST_DEAF:
            self._deaf.clear()
        self._deaf.add(client)
        self._complain("undelivered", f"{self.lane.name}: replies to a client that reads nothing are dropped")


def _route(frames: list[Any]) -> Any:
    """What a request and its reply have in common: the routing id, and what stands before the first empty frame."""
    if len(frames) < 3 or not frames[1]:  # mostly, or one frame of the client's own
        return frames[0]
    if not frames[2]:
        return frames[0], bytes(frames[1])
    try:
        return tuple(frames[: frames.index(b"", 1)])
    except ValueError:
        return frames[0]


def _id_of(frames: list[Any]) -> Any:
    """The id of the envelope, where there is one."""
    return frames[-3] if len(frames) > 3 else b""


def _no_handler(*_: Any) -> None: ...

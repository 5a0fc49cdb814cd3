"""The receive loop: it feeds each socket's messages to their handler, in greenlets of that socket's own."""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event

from ..errors import ServiceStateError, TransientError
from .socket import Socket

__all__ = ["RETRY_PAUSE", "Loop", "ReceiveLoop", "SocketHandler"]

RETRY_PAUSE = 0.02
"""Seconds after which a read or a send that failed for lack of memory, say, is tried again."""

SocketHandler = Callable[[Socket], None]
"""Called with a socket whenever there is a message on it, which it has to receive before it does anything else."""

log = logging.getLogger(__name__)

_TURN_SECONDS = 0.002
_PAUSE = 1e-9  # more than nothing: a pause of 0 would let timers and file descriptors starve for 50 turns on end
_COMPLAINT_INTERVAL = 1.0  # seconds between two lines in the log about that
_LIKELY = 4  # messages in a row after which another one is likely
_MOST_IDLE = 100  # greenlets of a socket that wait to be needed again; to make one costs 8 us


class Loop(Protocol):
    """What `ReceiveLoop` and `PollLoop` share: what a server needs."""

    def register(self, socket: Socket, handler: SocketHandler, concurrency: int = 1) -> None:
        """Call `handler(socket)` whenever there is a message to receive on the socket, up to `concurrency` at once."""

    def run(self) -> None:
        """Do so until `stop`, or until a handler raises: then raise that."""

    def stop(self) -> None:
        """Read nothing more, and let `run` return once the handlers that run have returned."""

    def kill(self, timeout: float = 0.0) -> None:
        """Stop, throw `GreenletExit` into the handlers that still run, and give them `timeout` seconds to end."""


class ReceiveLoop:
    """Feeds sockets to their handlers, each in greenlets of its own: a slow handler never holds up another socket.

    A greenlet waits only when there is nothing to read. Otherwise it reads on without switching, and lets the others
    run after 2 ms. When reading fails for lack of memory, say, it is logged and tried again.
    """

    def __init__(self) -> None:
        self._registered: list[tuple[Socket, SocketHandler, int]] = []
        self._crews: list[_Crew] = []
        self._ending = _Ending()
        self._running = False

    def register(self, socket: Socket, handler: SocketHandler, concurrency: int = 1) -> None:
        """Call `handler(socket)` whenever there is a message to receive on the socket. Works while it runs, too.

        Up to `concurrency` handlers of the socket run at once. Raises `TypeError` for a socket that would block the
        thread.
        """
        if not socket.green:
            raise TypeError(f"a ReceiveLoop needs sockets of a green context (Context.new()), and {socket!r} blocks")
        self._registered.append((socket, handler, concurrency))
        if self._running:
            self._feed(socket, handler, concurrency)

    def run(self) -> None:
        """Feed until `stop`, or until a handler raises: then raise that."""
        if self._running:
            raise ServiceStateError("this loop runs already")
        self._running = True
        self._crews = []
        ending = self._ending
        try:
            for registered in self._registered:
                self._feed(*registered)
            ending.begun.wait()
            self.stop()  # where it began with a failure
            ends = gevent.iwait(self._members())
            while ending.failure is None and next(ends, None) is not None:
                pass  # a failure is raised at once: a handler of another socket may take long
        except BaseException as error:
            self.kill()
            if isinstance(error, gevent.GreenletExit):
                gevent.joinall(self._members())
            raise
        finally:
            self._ending = _Ending()
            self._running = False
        if ending.failure is not None:
            raise ending.failure

    def stop(self) -> None:
        """Read nothing more, and let `run` return once the handlers that run have returned."""
        self._ending.begun.set()
        for crew in self._crews:
            gevent.get_hub().loop.run_callback(crew.dismiss)

    def kill(self, timeout: float = 0.0) -> None:
        """Stop, throw `GreenletExit` into the handlers that still run, and give them `timeout` seconds to end."""
        if self._running:
            self._ending.begun.set()
        members = self._members()
        gevent.killall(members, block=False)
        gevent.joinall(members, timeout)

    def _feed(self, socket: Socket, handler: SocketHandler, concurrency: int) -> None:
        crew = _Crew(socket, handler, concurrency, self._ending)
        self._crews.append(crew)
        crew.recruit()

    def _members(self) -> list[_Member]:
        return [member for crew in self._crews for member in crew.members]


class _Ending:
    """How one run comes to its end."""

    def __init__(self) -> None:
        self.begun = Event()
        self.failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.begun.set()


class _Member(gevent.Greenlet):  # type: ignore[type-arg]  # generic only in the stubs
    """A greenlet of a crew. It knows whether somebody wants it to end, which a handler may have caught."""

    killed = False
    handler: SocketHandler | None = None  # what it runs, for who asks what a greenlet does

    def throw(self, *what: Any) -> Any:
        """What `kill` does in the hub, and a `Timeout` that is over."""
        kind = what[0] if what else gevent.GreenletExit
        self.killed |= issubclass(kind if isinstance(kind, type) else type(kind), gevent.GreenletExit)
        return super().throw(*what)


class _Crew:
    """The greenlets of one socket.

    One of them has the lead: it reads, and runs the handler itself. When its handler waits for something, another one
    takes the lead, until `concurrency` handlers wait. So a handler that waits for nothing costs no switch, and while
    all of them wait nothing is read. The `_leader` is

    - resting (`_leader_rests`), without a message in hand;
    - or running its handler, which may wait: then `_relieve` comes, if the hub runs at all, and gives the lead away;
    - or nobody, while all members wait in handlers: who comes back first takes it.

    The others run handlers, or are idle. A member that is killed ends, as the one that killed it expects, and is
    replaced if that leaves nobody to read.
    """

    def __init__(self, socket: Socket, handler: SocketHandler, concurrency: int, ending: _Ending) -> None:
        self.members: set[_Member] = set()
        self._socket = socket
        self._handler = handler
        self._concurrency = concurrency
        self._ending = ending
        self._name = f"receive {getattr(handler, 'name', socket)}"
        self._leader: Any = None
        self._leader_rests = False  # it has no message in hand
        self._relief_is_due = False
        self._idle: list[_Member] = []
        self._complains_from = 0.0  # on the clock of time.monotonic
        # Each handler begins with the context variables that were there when the loop began to run.
        self._fresh_context = contextvars.copy_context().copy

    def recruit(self) -> None:
        """Give the lead to a new greenlet."""
        self._leader = member = _Member(self._work)
        self._leader_rests = False
        member.name = self._name
        member.handler = self._handler
        member.rawlink(self._left)  # which comes too when it is killed before it began
        self.members.add(member)
        member.start()

    def dismiss(self) -> None:
        """End those without a message. Called by the hub: a scheduled `kill` could come when a handler runs again."""
        if self._leader_rests:
            self._leader.throw(gevent.GreenletExit)
        for member in list(self._idle):
            member.throw(gevent.GreenletExit)

    def _work(self) -> None:
        me: Any = gevent.getcurrent()
        try:
            self._receive(me)
        except BaseException as error:  # noqa: BLE001 - run() raises it, be it a gevent.Timeout or a SystemExit
            if not (isinstance(error, gevent.GreenletExit) and (me.killed or self._ending.begun.is_set())):
                self._ending.fail(error)

    def _left(self, member: Any) -> None:
        """Replace a member that has ended, if nobody else reads. Called by the hub."""
        self.members.discard(member)
        if self._leader in (member, None) and not self._ending.begun.is_set():
            self.recruit()

    def _receive(self, me: Any) -> None:
        socket, handler, stopped = self._socket, self._handler, self._ending.begun.is_set
        alone, fresh_context = self._concurrency == 1, self._fresh_context
        wait = partial(socket._wait_for_input, math.inf)  # whatever the socket's own time-out is
        in_a_row = 0
        turn_ends = monotonic() + _TURN_SECONDS
        while not stopped():
            try:
                while not socket.readable(in_a_row > _LIKELY):
                    self._rest(wait)
                    in_a_row = 0
                    turn_ends = monotonic() + _TURN_SECONDS
            except TransientError as error:
                self._complain(error)
                self._rest(_wait_for_better_times)
                continue
            in_a_row += 1
            if not (alone or self._relief_is_due):
                self._relief_is_due = True
                gevent.get_hub().loop.run_callback(self._relieve)
            me.gr_context = fresh_context()  # 60 ns
            handler(socket)
            if me.killed:
                return
            if self._leader is not me:
                if not self._may_lead_again(me):
                    return
                in_a_row = 0
                turn_ends = monotonic() + _TURN_SECONDS
            elif monotonic() > turn_ends:  # 45 ns a message
                if stopped():
                    return
                self._rest(_pause)
                turn_ends = monotonic() + _TURN_SECONDS

    def _rest(self, wait: Callable[[], None]) -> None:
        """Wait for something, without a message in hand."""
        self._leader_rests = True
        try:
            wait()
        except (gevent.GreenletExit, gevent.Timeout) as stray:
            self._take(stray)
        finally:
            self._leader_rests = False

    def _complain(self, error: TransientError) -> None:
        """Log why nothing is read, now and then while that lasts."""
        now = monotonic()
        if now >= self._complains_from:
            self._complains_from = now + _COMPLAINT_INTERVAL
            log.warning("%s: %s; trying again until it works", self._name, error)

    def _relieve(self) -> None:
        """Give the lead to another one if who has it waits in its handler. Called by the hub."""
        self._relief_is_due = False
        if self._leader_rests or self._leader is None or self._ending.begun.is_set():
            return
        if self._idle:
            self._leader = self._idle.pop()
            self._leader.switch()
        elif len(self.members) < self._concurrency:
            self.recruit()
        else:
            self._leader = None

    def _may_lead_again(self, me: Any) -> bool:
        """Take the lead if nobody has it, else wait for it; False when there is no need for another one."""
        while True:
            if self._leader is None:
                self._leader = me
            if self._leader is me:
                return True
            if len(self._idle) >= _MOST_IDLE or self._ending.begun.is_set():
                return False
            self._idle.append(me)
            try:
                gevent.get_hub().switch()
            except (gevent.GreenletExit, gevent.Timeout) as stray:
                self._take(stray)
            finally:
                if me in self._idle:  # it was not `_relieve` that switched here
                    self._idle.remove(me)

    def _take(self, stray: BaseException) -> None:
        """Take what was meant for a handler that has returned: the next messages are none the worse."""
        if self._ending.begun.is_set():
            raise gevent.GreenletExit from stray  # there are no next messages
        log.warning("%s: ignoring a %s that came too late for its handler", self._name, type(stray).__name__)
        if isinstance(stray, gevent.GreenletExit):
            raise stray  # who kills a greenlet may wait for its end; another one goes on


def _pause() -> None:
    gevent.sleep(_PAUSE)


def _wait_for_better_times() -> None:
    gevent.sleep(RETRY_PAUSE)

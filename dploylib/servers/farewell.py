"""What a server that stops does for those who do not know it yet: nothing that it has received is lost in silence.

ZeroMQ has no way to say "send nothing more", and what a closed socket had received goes with it. So

- whoever asks on a socket that can answer is told that the server shuts down, from the moment of the stop until the
  sockets close, and then can ask elsewhere;
- a PULL takes no new peers and hears nothing more from those it has, which keep their messages or give them to others,
  and hands on what it has received. A connected one cannot be cut off without losing what it has received, so it hands
  on as many messages as can have been waiting for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import gevent
from gevent.event import Event

from ..errors import MalformedEnvelope, TransportError
from ..transport import ReceiveLoop, Socket
from ..transport.spawning import spawn_named, wait_for_one
from .dispatch import Dispatcher

__all__ = ["ENDING_TIME", "Farewell"]

log = logging.getLogger(__name__)

ENDING_TIME = 2.0
"""Seconds that ended handlers and background greenlets have to tidy up."""

_QUIET = 0.05  # seconds without a message after which nobody seems to be about to send one
_MOST_PATIENCE = 1.0  # seconds that peers who go on asking, although they are told to stop, can keep a server
_SWEEP = 10_000  # messages of a socket that are looked at in the very end, when nobody else runs


class Farewell:
    """The farewell of one server to its peers. `out_of_time` is set when the time of the stop is up."""

    def __init__(self, owner: str, out_of_time: Event) -> None:
        self._owner = owner
        self._out_of_time = out_of_time
        self._answering: list[Dispatcher] = []
        self._pulling: list[Dispatcher] = []
        self._loop = ReceiveLoop()
        self._turning_away: gevent.Greenlet[..., None] | None = None
        self._handing_on: list[gevent.Greenlet[..., None]] = []

    def begin(self, dispatchers: Iterable[Dispatcher], after: gevent.Greenlet[..., Any] | None = None) -> None:
        """Turn away whoever asks from now on, let nobody push any more, and hand on what was received. Once only.

        The latter begins when the handlers of the socket are done, and `after` has ended.
        """
        if self._turning_away is not None:
            return
        green = [one for one in dispatchers if one.socket.green]
        self._answering = [one for one in green if one.can_answer]
        self._pulling = [one for one in green if one.socket.socket_type == "pull"]
        for one in self._pulling:
            _cut_off(one.socket)
        for one in self._answering:
            self._loop.register(one.socket, one if one.until_closed else one.turn_away)
        self._turning_away = spawn_named(f"{self._owner}: turn callers away", _run, self._loop)
        # Where nothing was received yet, nothing is waiting: the loop would have read it.
        for one in self._pulling:
            if one.counts.received:
                name = f"{self._owner}: hand on what {one.name} received"
                self._handing_on.append(spawn_named(name, self._hand_on, one, after))

    def finish_handing_on(self) -> None:
        """Wait until what PULL sockets have received is handled, or the time is up."""
        gevent.joinall(self._handing_on)

    def let_callers_hear(self, seconds: float) -> None:
        """Stay for those who had a reply, and ask again before they can know that they should not: seconds at most."""
        asked = [one for one in self._answering if one.counts.received and not one.until_closed]
        if asked:
            ends = time.monotonic() + min(seconds, _MOST_PATIENCE)
            self._wait_until_quiet(asked, lambda: time.monotonic() >= ends)

    def end(self) -> None:
        """Turn away nobody any more but those who have asked already. The sockets are about to be closed."""
        self._loop.kill()
        if self._turning_away is not None:
            self._turning_away.join(timeout=ENDING_TIME)
        for one in self._answering:
            with contextlib.suppress(TransportError):
                for _ in range(_SWEEP):
                    if not one.socket.readable():
                        break
                    one.turn_away(one.socket)
        gevent.sleep(0)  # so that hooks hear of them

    def _hand_on(self, one: Dispatcher, after: gevent.Greenlet[..., Any] | None) -> None:
        if after is not None:
            wait_for_one(after, self._out_of_time)
        while one.running and not self._out_of_time.wait(_QUIET):
            pass  # one at a time, where it is so, and in their order
        most = one.counts.received + _most_waiting(one.socket)
        loop = ReceiveLoop()
        loop.register(one.socket, one, one.concurrency)
        running = spawn_named(f"{self._owner}: receive what {one.name} received", _run, loop)
        self._wait_until_quiet([one], lambda: one.counts.received >= most or running.dead)
        loop.stop()
        wait_for_one(running, self._out_of_time)
        loop.kill(ENDING_TIME)
        lost = _discard(one.socket)
        if lost:
            log.error("%d messages that %s had received were not handled before the stop", lost, one.name)

    def _wait_until_quiet(self, dispatchers: Collection[Dispatcher], enough: Callable[[], bool]) -> None:
        """Wait until nothing was received for a while and nothing is being handled, or it is enough, or out of time."""
        seen = -1
        while not enough():
            received = sum(one.counts.received for one in dispatchers)
            if received == seen and not any(one.running for one in dispatchers):
                return
            seen = received
            if self._out_of_time.wait(_QUIET):
                return


def _run(loop: ReceiveLoop) -> None:
    with contextlib.suppress(TransportError):  # somebody closed a socket: then nobody can be told any more
        loop.run()


def _cut_off(socket: Socket) -> None:
    """Let no peer push to this socket any longer. What was received can still be read."""
    for endpoint in socket.endpoints:
        with contextlib.suppress(TransportError):  # it is connected to it, or was closed
            socket.unbind(endpoint)


def _most_waiting(socket: Socket) -> float:
    """How many messages may be waiting in a socket that was cut off, or be pushed all the same as it is connected."""
    endpoints = len(socket.endpoints)
    mark = socket.get_option("rcvhwm") if endpoints and not socket.closed else 0
    return mark * endpoints or math.inf


def _discard(socket: Socket) -> int:
    """Take away what can be received, and return how many messages that were."""
    count = 0
    with contextlib.suppress(TransportError):
        while count < _SWEEP and socket.readable():
            count += 1
            with contextlib.suppress(MalformedEnvelope):
                socket.receive_frames(copy=False)
    return count

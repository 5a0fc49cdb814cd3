"""Brings many publishers and many subscribers together at one known place."""

from __future__ import annotations

import logging
import time

import gevent

from ...errors import MalformedEnvelope, TransientError
from ...transport import Socket
from ..declare import bind
from ..server import Server

__all__ = ["ForwarderServer"]

log = logging.getLogger(__name__)

_QUIET = 0.05  # seconds without a message after which nothing more is on its way in
_SHORTEST_END = 0.2  # seconds for what has come in to be passed on, when the server stops at once
_LONGEST_END = 2.0  # and at most: who publishes by inproc cannot be cut off
_TURN = 100  # messages that are passed on then before others may run
_COMPLAINT_INTERVAL = 1.0  # seconds between two lines in the log about what is not passed on
_SUBSCRIPTIONS = 100_000  # that may wait for one publisher: one that is lost would never be made good


class ForwarderServer(Server):
    """Passes on what any of many publishers publishes to all subscribers, and their subscriptions to all publishers.

    Its sockets are

    - `in` (xsub): where publishers connect, of the types PUB and XPUB.
    - `out` (xpub): where subscribers connect, of the types SUB and XSUB.

    Messages are passed on as they are, be they envelopes or not. Publishers get to know of the first subscription to an
    id and of the end of the last, and send nothing that nobody has subscribed to. They confirm subscriptions to who
    asks for that: one that has, has them.

    It never waits for subscribers: `sockets.out.dropped` counts how often one lost messages since it was slow.
    `refused` counts messages that were not passed on, since they had more than `max_frames` frames, or for lack of
    memory.
    """

    single = True

    # `in` is a word of Python.
    incoming = bind("in", "xsub", options={"sndhwm": _SUBSCRIPTIONS})
    out = bind("out", "xpub")

    def setup(self) -> None:
        """Let the loop feed both sides, each in turns of its own."""
        self.refused = 0
        self._complains_from = 0.0  # on the clock of time.monotonic
        self._loop.register(self.sockets.incoming, self._pass_message)
        self._loop.register(self.sockets.out, self._pass_subscription)

    def teardown(self) -> None:
        """Take nothing more from publishers, and pass on what has come from them."""
        incoming = self.sockets.incoming
        for endpoint in incoming.endpoints:
            incoming.unbind(endpoint)
        ends = time.monotonic() + min(_LONGEST_END, self._time_left(_SHORTEST_END))
        while time.monotonic() < ends and incoming.wait_readable(_QUIET):
            self._pass_message(incoming)
            if incoming.received % _TURN == 0:
                gevent.sleep(0)

    def _pass_message(self, incoming: Socket) -> None:
        try:
            self.sockets.out.send_frames(incoming.receive_frames(copy=False))
        except (MalformedEnvelope, TransientError) as error:
            self._refuse(error)

    def _pass_subscription(self, out: Socket) -> None:
        try:
            frames = out.receive_frames(copy=False)
            if bytes(memoryview(frames[0])[:1]) in (b"\0", b"\1"):  # an XSUB can send anything
                self.sockets.incoming.send_frames(frames)
        except (MalformedEnvelope, TransientError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """Count what is not passed on, and log it now and then while that lasts."""
        self.refused += 1
        now = time.monotonic()
        if now >= self._complains_from:
            self._complains_from = now + _COMPLAINT_INTERVAL
            log.warning("server %s did not pass on a message: %s (%d in all)", self.name, error, self.refused)

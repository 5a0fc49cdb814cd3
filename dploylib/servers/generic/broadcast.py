"""Publishes what it is given, and keeps the last values for those who come late."""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import takewhile
from typing import Annotated, Any

import gevent
import msgspec
from gevent.event import Event
from msgspec import Meta

from ...errors import ConfigurationError, ConfigurationProblem, TransientError
from ...transport import Envelope, ReceivedData
from ...transport.publishing import confirm_subscriptions
from ..declare import bind, bind_in
from ..server import Server

__all__ = ["BroadcastServer", "BroadcastSettings", "Subscriptions"]

_PERIOD = 0.1  # seconds: the least between two times that a value is published again, since all who hear it get it
_SENT = 100  # values that are published again before others may run
_LOOKED_AT = 1000  # and values of which it is found out whether they have to be
_PAUSE = 0.01  # seconds


class BroadcastSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a `BroadcastServer`."""

    last_values: Annotated[int, Meta(ge=0)] = 0
    """Of how many ids the last envelope is kept for new subscribers. The one published longest ago is forgotten."""


class Subscriptions:
    """Counts subscriptions: `by_id` has how many there are to each id, and `total` how many in all."""

    def __init__(self) -> None:
        self.by_id: Counter[bytes] = Counter()
        self.total = 0
        self._lengths: Counter[int] = Counter()  # of the ids, each once

    def add(self, id: bytes) -> None:
        """Count a new one."""
        self.by_id[id] += 1
        self.total += 1
        if self.by_id[id] == 1:
            self._lengths[len(id)] += 1

    def remove(self, id: bytes) -> None:
        """Count one less. One that there is not ends nothing: a peer can say anything."""
        if id not in self.by_id:
            return
        self.by_id[id] -= 1
        self.total -= 1
        if not self.by_id[id]:
            del self.by_id[id]
            self._lengths[len(id)] -= 1
            if not self._lengths[len(id)]:
                del self._lengths[len(id)]

    def matching(self, id: bytes) -> int:
        """How many there are to this id, or to a beginning of it."""
        return sum(self.by_id.get(id[:length], 0) for length in self._lengths if length <= len(id))


class BroadcastServer(Server):
    """Publishes what it is given, to all who have subscribed to its id.

    Its sockets are

    - `in` (pull, optional): what comes in is published.
    - `request` (rep, optional): the same, and then answered by how many subscriptions matched the id, as JSON
      (`{"subscribers": 2}`).
    - `out` (xpub): where it is published: the id, the mimetype and the body, as they came in. It confirms subscriptions
      as a `pub` of a server does, and never waits for subscribers.

    `subscribers` counts subscriptions. With `last_values` in its settings, who subscribes gets the last envelope of
    each id that matches, and so does, once more, everybody who listens to that id already: libzmq cannot publish to
    one of them alone.

    Raises `ConfigurationError` at the start when neither `in` nor `request` is configured.
    """

    single = True
    settings_type = BroadcastSettings

    out = bind("out", "xpub", options={"xpub_verboser": True})

    def setup(self) -> None:
        """Listen to the subscribers."""
        if "in" not in self.sockets and "request" not in self.sockets:
            message = f"neither 'in' nor 'request' is configured: server {self.name!r} would have nothing to publish"
            raise ConfigurationError([ConfigurationProblem(f"servers.{self.name}", message)])
        self.subscribers = Subscriptions()
        self._most = self.own.last_values
        # By id: how much had been published then, and the frames. The one published longest ago is the first.
        self._last: OrderedDict[bytes, tuple[int, list[Any]]] = OrderedDict()
        self._joined: dict[bytes, int] = {}  # ids that were subscribed to, and how much had been published then
        self._somebody_joined = Event()
        # In memory, as in a test of a handler, there are no subscribers.
        green = self.context.green
        self._hear_subscribers = confirm_subscriptions(self.sockets.out, self._hear) if green else lambda: None
        if self._most:
            self.spawn(self._publish_last_values)

    @bind_in("in", "pull", optional=True)
    def take(self, socket: Any, received: ReceivedData) -> None:
        """Publish what was pushed."""
        self.publish(received.envelope)

    @bind_in("request", "rep", optional=True)
    def request(self, socket: Any, received: ReceivedData) -> dict[str, int]:
        """Publish what was asked for, and answer how many subscriptions matched."""
        self._hear_subscribers()  # as far as libzmq knows of them, which is whom it sends to
        self.publish(received.envelope)
        return {"subscribers": self.subscribers.matching(received.envelope._frames[-3])}

    def publish(self, envelope: Envelope) -> None:
        """Publish an envelope, without its request frames."""
        out = self.sockets.out
        frames = envelope._frames[-3:]
        if self._most:
            self._hear_subscribers()  # who has come until now gets this one, and needs no older one
        out.send_frames(frames)
        if self._most:
            self._last[frames[0]] = (out.sent, frames)
            self._last.move_to_end(frames[0])
            if len(self._last) > self._most:
                self._last.popitem(last=False)

    def _hear(self, is_new: bool, id: bytes) -> None:
        """Count a subscription. Called by the hub."""
        if not is_new:
            self.subscribers.remove(id)
            return
        self.subscribers.add(id)
        if self._most:
            self._joined[id] = self.sockets.out.sent
            self._somebody_joined.set()

    def _publish_last_values(self) -> None:
        """Publish again what new subscribers have missed: for all who came meanwhile at once, and not too much of it.

        What was published after somebody had subscribed, he has got.
        """
        while True:
            self._somebody_joined.wait()
            self._somebody_joined.clear()
            joined, self._joined = self._joined, {}
            try:
                self._publish_again(joined)
            except TransientError:
                self._joined = {**joined, **self._joined}
                self._somebody_joined.set()
            gevent.sleep(_PERIOD)

    def _publish_again(self, joined: dict[bytes, int]) -> None:
        out = self.sockets.out
        lengths = sorted({len(id) for id in joined})
        sent = 0
        for looked_at, id in enumerate(list(self._last), 1):
            then, frames = self._last.get(id, (0, None))
            beginnings = (id[:length] for length in takewhile(len(id).__ge__, lengths))
            if frames is not None and any(then <= joined.get(beginning, -1) for beginning in beginnings):
                out.send_frames(frames)
                self._last[id] = (out.sent, frames)
                sent += 1
            if sent == _SENT or looked_at % _LOOKED_AT == 0:
                sent = 0
                gevent.sleep(_PAUSE)

"""How a subscriber learns that its subscriptions are in place: the publisher's end, and what both ends must know.

Whoever wants to know subscribes to an id of `subscription_id()`, after all that it subscribed to before. The publisher
then publishes an envelope with exactly that id. libzmq handles the subscriptions of a connection in their order, so who
gets this envelope gets everything that is published after it, too; so it is through proxies of an XSUB and an XPUB.

Others who subscribed to everything get such an envelope as well. Sockets of ours leave it out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NoReturn
from uuid import uuid4

import gevent
import zmq

from ..errors import TransportError
from .reading import CONFIRMATION, read_message
from .socket import Socket
from .waiting import GreenWaiter

__all__ = ["confirm_subscriptions", "subscription_id"]

_LONGEST_ID = len(CONFIRMATION) + 64  # bytes
_MOST = 100  # confirmations within `_PERIOD`: all who subscribed to everything get them, whoever asked
_PERIOD = 0.1  # seconds
_DELAY = 0.01  # seconds for which a confirmation may wait for who publishes all the time
_TURN = 100  # subscriptions that are looked at before others may run


def subscription_id() -> str:
    """A new id to subscribe to, which the publisher confirms. Who hears nothing for a while may ask with another."""
    return f"{CONFIRMATION.decode()}{uuid4().hex}"


def confirm_subscriptions(publisher: Socket, hear: Callable[[bool, bytes], None] | None = None) -> Callable[[], None]:
    """Confirm the subscriptions that reach an XPUB. From now on it is a PUB to whoever uses it: it receives nothing.

    `hear` is called, and may neither wait nor raise, with what the XPUB tells of other subscriptions: whether it is a
    new one, or one that ended, and the id. Its options say of which. The hub has it called soon after they came; who
    cannot wait for that calls what is returned.

    Raises `TypeError` for a socket that would block the thread.
    """
    waiter = publisher._waiter
    if not isinstance(waiter, GreenWaiter):
        raise TypeError(f"only a socket of a green context (Context.new()) can confirm, and {publisher!r} blocks")
    publisher._type = "pub"
    publisher._read = _refuse
    waiter.receiving += 1  # so that every send wakes it
    confirmer = _Confirmer(publisher, hear)
    waiter.call_back(confirmer.read, _DELAY)
    return confirmer.read


def _refuse(zmq_socket: Any, flags: int = 0) -> NoReturn:
    """What a PUB says to who wants to receive."""
    raise zmq.ZMQError(zmq.ENOTSUP)


class _Confirmer:
    def __init__(self, publisher: Socket, hear: Callable[[bool, bytes], None] | None) -> None:
        self._publisher = publisher
        self._tell = hear
        self._period_ends = 0.0
        self._left = 0

    def read(self) -> None:
        """Read what the XPUB tells of its subscribers. Called by the hub."""
        with contextlib.suppress(zmq.ZMQError):  # nothing more is there; or it was closed, as its users get to know
            for _ in range(_TURN):
                self._hear(read_message(self._publisher._zmq_socket))
            gevent.get_hub().loop.run_callback(self.read)

    def _hear(self, frames: list[Any]) -> None:
        """One byte, 1 for a new subscription and 0 for one that ended, and the id. An XSUB can send anything."""
        if len(frames) != 1:
            return
        told = memoryview(frames[0])
        kind, id = bytes(told[:1]), bytes(told[1 : _LONGEST_ID + 2])
        if id.startswith(CONFIRMATION):
            if kind == b"\1" and len(id) <= _LONGEST_ID and self._may():
                with contextlib.suppress(TransportError):  # no room, no memory: the subscriber asks again
                    self._publisher.send_frames([id, b"text/plain", b""], timeout=0)
                    self._publisher.sent -= 1  # which is for what users send
        elif self._tell is not None and kind in (b"\0", b"\1"):
            self._tell(kind == b"\1", bytes(told[1:]))

    def _may(self) -> bool:
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends, self._left = now + _PERIOD, _MOST
        self._left -= 1
        return self._left >= 0

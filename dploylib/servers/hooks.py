"""Hooks: code of yours that is called when something happens to servers and their messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from random import random
from typing import Any

import gevent

__all__ = ["Hook", "Hooks", "MessageLog"]

log = logging.getLogger(__name__)
access = logging.getLogger("dploylib.access")

_LONGEST = 64  # characters of an id or a mimetype in the log
_COMPLAINT_INTERVAL = 1.0  # seconds between two lines in the log about one event of one hook


class Hook:
    """Methods that do nothing, each called at one event. A subclass overrides those that it wants to hear of.

    They are called where the server runs, and what they do holds up what happens to them: the start or the end of
    the server, or the message, in whose greenlet and context variables they are called. A hook that raises is logged,
    and changes nothing else. Of several hooks the first one that was registered is called first.

    A service tells its hooks by `Service.add_hook`. With a `ProcessServerCoordinator` each server has a copy of its
    own.
    """

    def server_started(self, server: Any) -> None:
        """The server has its sockets, is set up, and is about to receive."""

    def server_stopping(self, server: Any) -> None:
        """The server was told to stop, or has failed: it receives nothing new. Its handlers may still run."""

    def server_stopped(self, server: Any) -> None:
        """The server has ended as it was told to. Its sockets are closed."""

    def server_failed(self, server: Any, error: BaseException) -> None:
        """The server has ended by an error, in its start or later. Its sockets are closed."""

    def server_restarting(self, name: str, error: BaseException, seconds: float) -> None:
        """The server of this name has died of this error, and is started again in so many seconds.

        Called in the thread and the process in which the service was started.
        """

    def message_received(self, server: Any, socket: str, received: Any) -> None:
        """A handler is about to be called with what was received on the socket of this configured name.

        It counts as a part of the handler: its time is that of the handler's `timeout`.
        """

    def message_handled(self, server: Any, socket: str, received: Any, seconds: float) -> None:
        """A handler has done its work, in so many seconds, and its reply was handed to ZeroMQ."""

    def message_failed(self, server: Any, socket: str, received: Any, error: BaseException, seconds: float) -> None:
        """A message was not handled: its handler failed or did not end in time, or was not even called.

        `received` is None for a message that is no envelope (`MalformedEnvelope`, which has the frames). For that one,
        for `Overloaded`, `ShuttingDown` and `DeadlineExceeded`, `message_received` may not have been called.
        """


class Hooks:
    """The hooks of one server."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._by_event: dict[str, list[Hook]] = {}
        for hook in hooks:
            for event in (name for name in vars(Hook) if not name.startswith("_")):
                if getattr(type(hook), event) is not getattr(Hook, event):
                    self._by_event.setdefault(event, []).append(hook)
        self._quiet_until: dict[tuple[int, str], float] = {}  # by hook and event, on the clock of time.monotonic

    @property
    def observe_messages(self) -> bool:
        """Whether any of them wants to hear of messages. If not, no message costs anything more."""
        return any(event.startswith("message_") for event in self._by_event)

    def call(self, event: str, *arguments: Any, passing: tuple[type[BaseException], ...] = ()) -> None:
        """Call the method of this name of every hook that has one. Exceptions that are `passing` are raised."""
        passed: tuple[type[BaseException], ...] = (KeyboardInterrupt, gevent.GreenletExit, *passing)
        for hook in self._by_event.get(event, ()):
            try:
                getattr(hook, event)(*arguments)
            except passed:  # meant for others than the hook
                raise
            except BaseException:  # noqa: BLE001 - a hook may raise anything
                self._complain(hook, event)

    def _complain(self, hook: Hook, event: str) -> None:
        now, key = time.monotonic(), (id(hook), event)
        if now >= self._quiet_until.get(key, 0):
            self._quiet_until[key] = now + _COMPLAINT_INTERVAL
            log.exception("%s of the hook %s failed", event, type(hook).__name__)


class MessageLog(Hook):
    """Logs a line for each message, or for a share of them: what it was, what came of it, and how long that took.

    `share` is from 0 to 1. The logger is `dploylib.access`, the level INFO. The records have attributes besides:
    `outcome`, which is "handled" or the name of an error; `milliseconds`; and for what is no malformed message
    `message_id`, `mimetype`, `bytes` (those of the body), and `peer` where it is known.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share

    def message_handled(self, server: Any, socket: str, received: Any, seconds: float) -> None:
        """Log what was handled."""
        if random() < self._share:
            what, details = _described(received)
            _tell("%s.%s handled %s in %.1f ms", (server.name, socket, what), "handled", seconds, details)

    def message_failed(self, server: Any, socket: str, received: Any, error: BaseException, seconds: float) -> None:
        """Log what was not."""
        if random() < self._share:
            what, details = ("a malformed message", {}) if received is None else _described(received)
            outcome = type(error).__name__
            form = "%s.%s did not handle %s: %s after %.1f ms"
            _tell(form, (server.name, socket, what, outcome), outcome, seconds, details)


def _tell(form: str, arguments: tuple[Any, ...], outcome: str, seconds: float, details: dict[str, Any]) -> None:
    extra = {"outcome": outcome, "milliseconds": round(seconds * 1000, 3), **details}
    access.info(form, *arguments, seconds * 1000, extra=extra)


def _described(received: Any) -> tuple[str, dict[str, Any]]:
    """What a message was: for a reader, and for a machine. Of what peers say, not more than fits on a line."""
    mimetype, id, size = received.mimetype[:_LONGEST], received.id[:_LONGEST], len(received.data)
    details = {"message_id": id, "mimetype": mimetype, "bytes": size}
    text = f"{ascii(mimetype)[1:-1]} of {size} bytes" + (f" with id {id!r}" if id else "")
    peer = received.peer
    if peer is not None:
        details["peer"] = peer.who
        text += f" from {peer.who}"
    return text, details

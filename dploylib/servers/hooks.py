"""Hooks: code of yours that is called when something happens to servers and their messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import gevent

__all__ = ["Hook", "Hooks", "MessageLog"]

log = logging.getLogger(__name__)

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
    """Logs a line for each message, at level INFO: what it was, and how long its handler took."""

    def message_handled(self, server: Any, socket: str, received: Any, seconds: float) -> None:
        """Log what was handled."""
        log.info("%s.%s handled %s in %.1f ms", server.name, socket, _described(received), seconds * 1000)

    def message_failed(self, server: Any, socket: str, received: Any, error: BaseException, seconds: float) -> None:
        """Log what was not."""
        what = "a malformed message" if received is None else _described(received)
        reason = f"{type(error).__name__} after {seconds * 1000:.1f} ms"
        log.info("%s.%s did not handle %s: %s", server.name, socket, what, reason)


def _described(received: Any) -> str:
    return f"{received.mimetype} of {len(received.data)} bytes" + (f" with id {received.id!r}" if received.id else "")

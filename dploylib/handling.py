"""Which message is handled here: for what logs, and for what passes traces on.

It is kept in gevent's `spawn_tree_locals`, which greenlets get from who spawns them. A context variable would not reach
them: a greenlet of gevent begins with an empty context.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol, TypeAlias

from greenlet import getcurrent

__all__ = ["HANDLED", "CallMetadata", "Message", "Trace", "Where", "begin", "forget", "handled", "trace", "traceparent"]

HANDLED = "dploylib.handled"
"""The key of the message in `spawn_tree_locals`."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FLAGS = 0x03  # those that are known: sampled, and random


class Where(NamedTuple):
    """Where a message came in: names that the configuration has."""

    service: str
    server: str
    socket: str


class CallMetadata(Protocol):
    """What is looked at of what a caller says about its call."""

    @property
    def request_id(self) -> str | int | None:
        """The id of the request."""

    @property
    def traceparent(self) -> str | None:
        """Its place in a trace, as it came: it may be malformed."""


class Trace(NamedTuple):
    """A place in a trace, as W3C's Trace Context has it; `str` makes its traceparent."""

    trace_id: str
    span_id: str
    flags: int

    @classmethod
    def parse(cls, traceparent: str) -> Trace | None:
        """Read a traceparent. None for a malformed one, which is to be ignored."""
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        # A later version may say more behind the flags, which nobody here understands (4.3 of the recommendation).
        if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(trace_id, span_id, int(flags, 16) & _FLAGS)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


Message: TypeAlias = "tuple[Where, CallMetadata | None]"
"""A message that is handled: where it came in, and what its caller said."""


def begin(message: Message) -> None:
    """Say which message is handled from now on in this greenlet, and in those that it spawns."""
    greenlet: Any = getcurrent()
    greenlet.spawn_tree_locals = {HANDLED: message}


def forget() -> None:
    """Have nothing to do with a message any more, in this greenlet and in those that it spawns."""
    greenlet: Any = getcurrent()
    greenlet.spawn_tree_locals = {}


def handled() -> Message | None:
    """Which message is handled here. None where none is."""
    tree: dict[str, Message] | None = getattr(getcurrent(), "spawn_tree_locals", None)
    return tree.get(HANDLED) if tree else None


def traceparent() -> str | None:
    """What is passed on to those whom the handler asks: the place in a trace of its message, if it has one."""
    place = trace()
    return None if place is None else str(place)


def trace() -> Trace | None:
    """The place in a trace of the message that is handled here. None if it has none."""
    message = handled()
    metadata = None if message is None else message[1]
    text = None if metadata is None else metadata.traceparent
    return Trace.parse(text) if text else None

"""Which message is handled here: for what logs, and for what passes traces on.

It is a context variable: what a handler calls knows it, and so do the greenlets that it spawns and what it offloads.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import NamedTuple, Protocol

__all__ = ["CallMetadata", "Trace", "Where", "begin", "forget", "handled", "trace"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


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
    sampled: bool

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
        return cls(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


_handled: ContextVar[tuple[Where, CallMetadata | None] | None] = ContextVar("dploylib.handled", default=None)

begin = _handled.set
"""Say which message is handled from now on: where it came in, and what its caller said. It takes 80 ns a message."""

handled = _handled.get
"""Which message is handled: where it came in, and what its caller said. None where none is."""


def forget() -> None:
    """Have nothing to do with the message any more, in this greenlet."""
    _handled.set(None)


def trace() -> Trace | None:
    """The place in a trace of the message that is handled. None if it has none."""
    message = _handled.get()
    traceparent = message and message[1] and message[1].traceparent
    return Trace.parse(traceparent) if traceparent else None

"""The spans of messages that servers handle. It needs OpenTelemetry, and is imported only where that is set up."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from opentelemetry.trace import Span, SpanKind

from ..errors import PeerError
from ..handling import handled
from ..tracing.spans import Handled, Spans, fail
from .declare import ANSWERING_TYPES
from .hooks import Hook

__all__ = ["Tracing"]


class Tracing(Hook):
    """Makes a span for each message that a handler gets, of the kind SERVER where it can be answered, else CONSUMER."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._about = lru_cache(None)(_about)

    def message_received(self, server: Any, socket: str, received: Any) -> None:
        """Begin its span."""
        span = self._spans.begin_handling(*self._about(server, socket))
        if span is not None:
            span.set_attribute("messaging.message.body.size", len(received.data))
            if received.id:
                span.set_attribute("messaging.message.id", received.id)
            if received.request_id is not None:
                span.set_attribute("messaging.message.conversation_id", str(received.request_id))

    def message_handled(self, server: Any, socket: str, received: Any, seconds: float) -> None:
        """End its span."""
        span = _span()
        if span is not None:
            span.end()

    def message_failed(self, server: Any, socket: str, received: Any, error: BaseException, seconds: float) -> None:
        """End its span, if there is one, with what went wrong."""
        span = _span()
        if span is not None:
            fail(span, error, by_us=not isinstance(error, PeerError))
            span.end()


def _span() -> Span | None:
    """The span of the message that is handled here, if it is recorded."""
    message = handled()
    about = None if message is None else message[1]
    return about.span if isinstance(about, Handled) else None


def _about(server: Any, socket: str) -> tuple[str, SpanKind, dict[str, str]]:
    """What is the same in the spans of all messages of a socket."""
    types = {one.name: one.socket_type for one in server.description.sockets.values()}
    kind = SpanKind.SERVER if types.get(socket) in ANSWERING_TYPES else SpanKind.CONSUMER
    destination = f"{server.name}.{socket}"
    attributes = {
        "messaging.system": "zeromq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
    }
    return f"process {destination}", kind, attributes

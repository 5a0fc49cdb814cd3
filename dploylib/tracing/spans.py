"""The spans of messages, by the conventions of OpenTelemetry for messaging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import getrandbits
from urllib.parse import urlsplit

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)

from ..errors import RemoteError
from ..handling import Trace, begin, handled, trace

__all__ = ["Spans"]

_NOTHING = Context()


class Handled:
    """What is said of a message that is traced: how its caller calls it, and its place in the trace."""

    __slots__ = ("context", "request_id", "span")

    def __init__(self, request_id: str | int | None, span: Span | None, context: SpanContext | None) -> None:
        self.request_id = request_id
        self.span = span  # if it is recorded
        self.context = context

    @property
    def traceparent(self) -> str:
        """That of the span."""
        return _traceparent(self.place)

    @property
    def place(self) -> SpanContext:
        """Where in a trace it is. One that nobody records begins when somebody asks for it."""
        if self.context is None:
            self.context = SpanContext(getrandbits(128), getrandbits(64), is_remote=False)
        return self.context


class _Unrecorded(NonRecordingSpan):
    """The span of whichever message is handled here, where that begins a trace that nobody records.

    There is one for all of them, since each message would pay for one of its own, and hardly any asks for it.
    """

    def get_span_context(self) -> SpanContext:
        """The place of the message in its trace."""
        message = handled()
        about = None if message is None else message[1]
        return about.place if isinstance(about, Handled) else self._context


_UNRECORDED = set_span_in_context(_Unrecorded(INVALID_SPAN_CONTEXT), _NOTHING)


class Spans:
    """Makes the spans of one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("dploylib")
        self._samples_next: Callable[[], bool] | None = getattr(provider, "samples_next", None)

    @staticmethod
    @lru_cache(maxsize=1)  # a tracer takes 20 us
    def of(provider: TracerProvider) -> Spans:
        """Those of the provider."""
        return Spans(provider)

    def begin_handling(self, name: str, kind: SpanKind, attributes: dict[str, str]) -> Span | None:
        """Begin the span of the message that is handled here, in the trace that it came with, or else in a new one.

        Returns it if it is recorded.
        """
        where, metadata = handled()  # type: ignore[misc]  # there is one
        request_id, traceparent = (None, None) if metadata is None else (metadata.request_id, metadata.traceparent)
        place = Trace.parse(traceparent) if traceparent else None
        if place is None and self._samples_next is not None and not self._samples_next():
            attach(_UNRECORDED)
            begin((where, Handled(request_id, None, None)))
            return None
        # Not in the context of whoever has started the service: that is done, or has nothing to do with this.
        parent = _NOTHING if place is None else _context_of(place)
        if place is not None and self._samples_next is not None and not place.flags & TraceFlags.SAMPLED:
            span = get_current_span(parent)  # what the sampler would say takes 5 us
        else:
            span = self._tracer.start_span(name, parent, kind, attributes)
        attach(set_span_in_context(span, _NOTHING))  # for the handler; the context is that of this message alone
        recorded = span if span.is_recording() else None
        begin((where, Handled(request_id, recorded, span.get_span_context())))
        return recorded

    @contextlib.contextmanager
    def calling(self, operation: str, kind: str, uri: str, size: int) -> Iterator[str]:
        """Make the span of a call or of what is sent, around this. Yields the traceparent to send along."""
        current = None
        if not get_current_span().get_span_context().is_valid and (place := trace()):
            current = _context_of(place)  # one that this program does not record
        attributes = {**_destination(operation, uri), "messaging.message.body.size": size}
        span = self._tracer.start_span(f"{operation} {uri}", current, SpanKind[kind], attributes)
        token = attach(set_span_in_context(span))
        try:
            yield _traceparent(span.get_span_context())
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            detach(token)
            span.end()


def fail(span: Span, error: BaseException, by_us: bool = True) -> None:
    """Say in a span what went wrong: by its type alone, since its text may have in it what is not for everybody.

    `by_us` is False for the mistake of a caller, which is no error of who was called.
    """
    kind = error.type if isinstance(error, RemoteError) else type(error).__qualname__
    span.set_attribute("error.type", kind)
    if by_us:
        span.set_status(Status(StatusCode.ERROR))


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context_of(place: Trace) -> Context:
    flags = TraceFlags(place.flags)
    context = SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context), _NOTHING)


@lru_cache(maxsize=100)
def _destination(operation: str, uri: str) -> dict[str, str | int]:
    """The attributes of a span that are the same for all calls of an endpoint."""
    attributes: dict[str, str | int] = {
        "messaging.system": "zeromq",
        "messaging.operation.name": operation,
        "messaging.operation.type": "send",
        "messaging.destination.name": uri,
    }
    if uri.startswith("tcp://"):
        with contextlib.suppress(ValueError):
            parts = urlsplit(uri)
            if parts.hostname and parts.port:
                attributes |= {"server.address": parts.hostname, "server.port": parts.port}
    return attributes

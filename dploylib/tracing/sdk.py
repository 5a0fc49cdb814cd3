"""Setting up OpenTelemetry's SDK, for the command line."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from random import getrandbits
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

__all__ = ["SampledEarly", "provider_of", "set_up"]

log = logging.getLogger(__name__)

_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}  # by the protocol


def set_up(service: str, share: float | None) -> None:
    """Make the provider of this process. See `dploylib.tracing.set_up`."""
    names = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    exporters = [_exporter(name.strip()) for name in names if name.strip() not in ("", "none")]
    trace.set_tracer_provider(provider_of(service, share, filter(None, exporters)))


def provider_of(service: str, share: float | None, exporters: Iterable[SpanExporter]) -> TracerProvider:
    """A provider for a service, of whose traces this share is recorded; None for what OTEL_TRACES_SAMPLER says."""
    resource = Resource.create({})
    if str(resource.attributes.get("service.name")).startswith("unknown_service"):  # else OTEL_SERVICE_NAME says it
        resource = resource.merge(Resource({"service.name": service}))
    with _without_fork_hooks():
        provider = TracerProvider(resource=resource) if share is None else SampledEarly(share, resource)
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class SampledEarly(TracerProvider):
    """A provider that records a share of the traces that begin here, and of others what their caller records.

    It knows of a trace whether that is recorded before there is a span of it: to ask the SDK takes 5 us.
    """

    def __init__(self, share: float, resource: Resource) -> None:
        self._ids = _Ids()
        root = TraceIdRatioBased(share)
        self._bound = root.bound
        super().__init__(ParentBased(root), resource, id_generator=self._ids)

    def samples_next(self) -> bool:
        """Whether the next trace is recorded. If so, it has to begin at once, before another greenlet runs."""
        trace_id = getrandbits(128)
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
            return False
        self._ids.next_trace = trace_id
        return True


class _Ids(RandomIdGenerator):
    """Random ids, but for that of a trace of which it is known already that it is recorded."""

    next_trace: int | None = None

    def generate_trace_id(self) -> int:
        """The id of a new trace."""
        chosen, self.next_trace = self.next_trace, None
        return chosen or super().generate_trace_id()


@contextlib.contextmanager
def _without_fork_hooks() -> Iterator[None]:
    """Let nothing be called in children that are forked. What exports spans notices by itself that it was forked.

    The hooks of the SDK start threads in each child, before that becomes another program. Where the standard library is
    patched, these are greenlets, and waiting for them lets all greenlets of the parent run in the child.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        yield
    finally:
        os.register_at_fork = register


def _exporter(name: str) -> Any:
    """The exporter of this name, as packages offer it. None, and a line in the log, if there is none."""
    names = [name]
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        names = [_OTLP.get(protocol, protocol)] if protocol else list(_OTLP.values())
    for one in names:
        for found in entry_points(group="opentelemetry_traces_exporter", name=one):
            return found.load()()
    log.error(
        "spans are not exported: there is no exporter %s; pip install opentelemetry-exporter-otlp-proto-http, "
        "or set OTEL_TRACES_EXPORTER",
        " or ".join(names),
    )
    return None

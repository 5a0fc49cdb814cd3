"""Setting up OpenTelemetry's SDK, for the command line."""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

__all__ = ["set_up"]

log = logging.getLogger(__name__)

_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}  # by the protocol


def set_up(service: str, share: float | None) -> None:
    """Make the provider of this process. See `dploylib.tracing.set_up`."""
    sampler = None if share is None else ParentBased(TraceIdRatioBased(share))
    resource = Resource.create({})
    if str(resource.attributes.get("service.name")).startswith("unknown_service"):  # else OTEL_SERVICE_NAME says it
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(sampler, resource)
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        if name.strip() not in ("", "none"):
            exporter = _exporter(name.strip())
            if exporter is not None:
                provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


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

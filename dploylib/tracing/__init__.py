"""Spans of OpenTelemetry, where a program has set that up. It is imported only where it is to be set up."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .spans import Spans

__all__ = ["set_up", "spans"]

log = logging.getLogger(__name__)

_ASKS_FOR_SPANS = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def set_up(service: str, share: float | None) -> None:
    """Let this process record spans, and export them as the environment variables OTEL_* say, if anybody wants that.

    `share` is how many of the traces that begin here are recorded, None for what OTEL_TRACES_SAMPLER says. Nothing is
    done where the program has set up a provider of its own, nor where neither `share` nor the environment asks for it.
    """
    if share is None and not any(map(os.environ.get, _ASKS_FOR_SPANS)):
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or _provider() is not None:
        return
    try:
        sdk = importlib.import_module("dploylib.tracing.sdk")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        log.warning("no spans are recorded: OpenTelemetry is not installed; pip install 'dploylib[otel]'")
        return
    sdk.set_up(service, _share_in_environment() if share is None else share)


def spans() -> Spans | None:
    """What makes spans in this program. None where no provider of them was set up."""
    provider = _provider()
    if provider is None:
        return None
    from .spans import Spans

    return Spans.of(provider)


def _share_in_environment() -> float | None:
    """The share that OTEL_TRACES_SAMPLER and its argument say, if it is such a sampler."""
    if os.environ.get("OTEL_TRACES_SAMPLER") != "parentbased_traceidratio":
        return None
    try:
        return float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:  # of which the SDK warns
        return None


def _provider() -> Any:
    api: Any = sys.modules.get("opentelemetry.trace")  # 40 ns where nobody has imported it
    provider = api and api.get_tracer_provider()
    return None if provider is None or isinstance(provider, api.ProxyTracerProvider) else provider

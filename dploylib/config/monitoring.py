"""The section `monitoring` of a configuration: what a service tells of itself, and to whom."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["MonitoringSettings", "address_of", "http_address"]

_ADDRESS = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/]+)?:)?(\d{1,5})")


def http_address(text: str) -> tuple[str, int] | None:
    """Host and port of `127.0.0.1:8080`, or of `8080`, which is on the loopback interface; None for what is neither."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        return None
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def address_of(monitoring: MonitoringSettings) -> tuple[str, int] | None:
    """Host and port of the HTTP side; None where there is to be none."""
    return None if monitoring.http is None else http_address(str(monitoring.http))


def _address_flaw(address: object) -> str | None:
    if not isinstance(address, str) or http_address(address) is not None:
        return None
    return "expected HOST:PORT, or a port, such as 127.0.0.1:8080"


_Address: TypeAlias = Annotated[str, Meta(extra={"flaw": _address_flaw})]
_Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class MonitoringSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a service tells of itself."""

    statistics: Annotated[
        bool,
        Meta(description="Whether times and connections are counted; messages, bytes and errors always are."),
    ] = True
    http: Annotated[
        _Port | _Address | None,
        Meta(
            description="Where /metrics, /healthz, /readyz and a page are served by HTTP: HOST:PORT, or a port of the "
            "loopback interface. Nowhere, unless set."
        ),
    ] = None
    access_log: Annotated[
        _Share,
        Meta(description="The share of messages of which the log has a line, 0 to 1."),
    ] = 0.0
    tracing: Annotated[
        _Share | None,
        Meta(
            description="The share of traces that begin here of which spans are recorded, where OpenTelemetry is "
            "installed; 0 to 1. As OpenTelemetry's own settings say, unless set."
        ),
    ] = None

"""A lane: one socket of a service, whose connections the front has, and whose messages the workers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..security.settings import Security

__all__ = ["Lane"]


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One socket of which a front has the connections."""

    server: str
    socket: str
    socket_type: str
    """As it is declared: `rep`, `router` or `pull`."""
    uris: list[str]
    """Where clients connect."""
    backend: str = ""
    """The ipc endpoint at which workers connect."""
    options: list[tuple[str, Any]] = []
    """Those that are declared, and those of the configuration."""
    concurrency: int = 1
    max_frames: int = 256
    security: Security = Security()
    idempotent: bool = False
    rejects: bool = False

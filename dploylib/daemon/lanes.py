"""A lane: one socket of a service, whose connections the front has, and whose messages the workers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..security.settings import Security

__all__ = ["Lane", "from_json", "to_json"]

_UNSAID = ("username", "password")  # of connecting sockets


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
    """Whether requests are answered with a problem while every worker has as many as it handles at once."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"{self.server}.{self.socket}"


def to_json(lane: Lane) -> dict[str, Any]:
    """The lane as JSON can have it. Passwords are not in it: no bound socket has one."""
    said = {name: getattr(lane, name) for name in lane.__struct_fields__}
    said["security"] = {
        name: value
        for name in Security.__struct_fields__
        if name not in _UNSAID and (value := getattr(lane.security, name)) is not None
    }
    return said


def from_json(said: Any) -> Lane:
    """The lane that was said so. Raises `msgspec.ValidationError` or `SecurityError`."""
    return msgspec.convert(said, Lane)

"""A lane: one socket of a service that is behind a front, as an owner describes it to the front."""

from __future__ import annotations

from typing import Any

import msgspec

from ..security import Security

__all__ = ["Lane", "from_json", "to_json"]

_UNSAID = ("username", "password")  # of connecting sockets


class Lane(msgspec.Struct, frozen=True):
    """One socket that a front has for the workers.

    `socket_type` is the declared one: `rep`, `router` or `pull`. `uris` are where clients connect, `backend` the ipc
    endpoint where the workers do. `options` are those of the declaration and the configuration, in their order. With
    `rejects`, requests are answered with a problem while every worker has as many as it handles at once.
    """

    server: str
    socket: str
    socket_type: str
    uris: tuple[str, ...]
    backend: str
    options: tuple[tuple[str, Any], ...] = ()
    concurrency: int = 1
    max_frames: int = 256
    security: Security = Security()
    idempotent: bool = False
    rejects: bool = False

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"{self.server}.{self.socket}"


def to_json(lane: Lane) -> dict[str, Any]:
    """The lane as JSON can have it. Passwords are not in it: no bound socket has one."""
    said = {name: getattr(lane, name) for name in lane.__struct_fields__}
    said["options"] = [(name, value.decode() if isinstance(value, bytes) else value) for name, value in lane.options]
    said["security"] = {
        name: value
        for name in Security.__struct_fields__
        if name not in _UNSAID and (value := getattr(lane.security, name)) is not None
    }
    return said


def from_json(said: Any) -> Lane:
    """The lane that was said so. Raises `msgspec.ValidationError` or `SecurityError`."""
    return msgspec.convert(said, Lane)

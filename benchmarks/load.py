"""What the load generator, or a client that is measured, is to do, as the runner tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JSON_BODY = b'{"number":17,"name":"a wooden chair","price":129.5,"tags":["oak","four legs"],"sold":false}'


@dataclass(frozen=True)
class Load:
    """What to do to a server."""

    kind: str
    pid: int
    endpoints: Sequence[str]
    protocol: str = "zmtp"
    body_bytes: int = 64
    json: bool = False
    connections: int = 1
    outstanding: int = 1  # requests on their way at once, a connection
    busy_hub: bool = False  # a greenlet of the client waits for something else meanwhile
    count: int = 0  # messages, where a number of them is measured and not a time
    seconds: float = 1.0  # what is measured
    warm_up_seconds: float = 0.2
    release_fd: int = -1  # a line into it lets a blocked server go

    @property
    def body(self) -> bytes:
        return JSON_BODY if self.json else b"x" * self.body_bytes

    @property
    def mimetype(self) -> bytes:
        return b"application/json" if self.json else b"text/plain"

    def envelope(self, body: bytes) -> list[bytes]:
        """Return the frames of a dploylib envelope: id, mimetype, body."""
        return [b"", self.mimetype, body]

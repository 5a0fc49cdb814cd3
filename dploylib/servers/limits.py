"""What the sockets of servers are limited to, unless their declaration or the configuration says otherwise.

Sockets that are made by hand keep libzmq's own defaults, which are made for peers that trust each other.
"""

from __future__ import annotations

from typing import Final

from ..transport.options import PEER_OPTIONS

__all__ = ["HEARTBEAT_OPTIONS", "HEARTBEAT_TYPES", "LIMIT_OPTIONS", "default_options"]

LIMIT_OPTIONS: Final[dict[str, int]] = {
    # Bytes of a frame. libzmq has no limit: one peer could make it take all memory. RabbitMQ's default is the same.
    "maxmsgsize": 16 * 1024 * 1024,
    # Connections that wait to be accepted: libzmq's 100 are few when all clients of a service come back at once.
    "backlog": 1024,
    **PEER_OPTIONS,
}
"""Options of every socket of a server."""

HEARTBEAT_OPTIONS: Final[dict[str, int]] = {
    # Milliseconds between two questions (PING) to a peer, and after which one that said nothing is disconnected.
    "heartbeat_ivl": 10_000,
    "heartbeat_timeout": 30_000,
    # What the peer is told: to disconnect after so long without a word. libzmq counts it in steps of 100 ms.
    "heartbeat_ttl": 30_000,
}
"""Options of sockets of `HEARTBEAT_TYPES`, besides."""

HEARTBEAT_TYPES: Final = ("pub", "xpub")
"""Socket types with heartbeats: those that drop what a peer does not take, anyway.

libzmq does not read from a peer whose queue is full, nor does that peer's. So heartbeats take back-pressure for death,
and the messages that are on their way then are lost: a PULL with a slow handler lost 720 of 1,500. The kernel, which is
asked by TCP keepalive, knows the difference.
"""


def default_options(socket_type: str) -> list[tuple[str, int]]:
    """The options of a server's socket of this type, to be set before all others."""
    heartbeats = HEARTBEAT_OPTIONS if socket_type in HEARTBEAT_TYPES else {}
    return [*LIMIT_OPTIONS.items(), *heartbeats.items()]

"""Who a message is from."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Peer"]


class Peer(NamedTuple):
    """Who a message is from, as the authentication of its connection has shown.

    `name` is what the authorized keys or the passwords call it, '' for one that is not known by name: where anybody may
    connect, or only the address was looked at. `groups` are those that it is in now; of one whose key was revoked
    meanwhile there are none. `key` is the fingerprint of its CURVE key, '' where there is none. `address` is its IP
    address, or for one that came by ipc `localhost:UID:GID:PID`, as libzmq has it.
    """

    name: str = ""
    groups: frozenset[str] = frozenset()
    key: str = ""
    address: str = ""

    @property
    def who(self) -> str:
        """Its name, or else its key, where it has one."""
        return self.name or self.key or "somebody"

    def __str__(self) -> str:
        return f"{self.who} at {self.address}" if self.address else self.who

"""What of a service is in this process, where several processes share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["HERE", "Place", "Placement"]


class Place(NamedTuple):
    """Where a bound socket really is. It says nothing of one that this process has for itself."""

    descriptors: Mapping[str, int] = {}
    """By uri, the descriptors of sockets that listen there already, and stay open: others may have them too."""

    front: str = ""
    """The endpoint of the front that has the connections, and passes messages on; '' where there is none."""


HERE = Place()


class Placement(NamedTuple):
    """Which `servers` run in this process, None for all, and where their bound sockets are, by server and socket."""

    servers: frozenset[str] | None = None
    places: Mapping[tuple[str, str], Place] = {}

    def has(self, server: str) -> bool:
        """Whether this server runs here."""
        return self.servers is None or server in self.servers

    def place(self, server: str, socket: str) -> Place:
        """Where this socket is."""
        return self.places.get((server, socket), HERE)

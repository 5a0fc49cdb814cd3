"""A service as a whole, at one moment: what its processes tell, put together."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ..statistics import Connections, Histogram, ServerStatistics, SocketStatistics, merged
from .source import Source

__all__ = ["Snapshot"]


class Snapshot:
    """What a source tells now.

    `processes` are those that there are. `ever` has the servers with what was counted since the start of the service,
    in processes that are gone too: it never decreases. `now` has them without those: what is in flight in a process
    that was killed is in flight no more. `hub_delay` is that of all processes ever.
    """

    def __init__(self, source: Source) -> None:
        told = sorted(source.statistics(), key=lambda process: process.role == "gone")  # their states come last
        self.taken = time.time()
        self.service = source.name
        self.health = source.health()
        self.processes = [process for process in told if process.role != "gone"]
        self.started = min((process.started for process in told if process.started), default=self.taken)
        self.now = merged(self.processes)
        self.ever = self.now if len(self.processes) == len(told) else merged(told)
        self.hub_delay = sum((process.hub_delay for process in told), Histogram())

    def sockets(self) -> list[tuple[str, str, SocketStatistics, SocketStatistics]]:
        """Of each socket its server, its name, and its statistics `ever` and `now`."""
        return [
            (server, name, ever, self._now(server, name, ever))
            for server, statistics in self.ever.items()
            for name, ever in statistics.sockets.items()
        ]

    def _now(self, server: str, name: str, ever: SocketStatistics) -> SocketStatistics:
        sockets = self.now.get(server, ServerStatistics(type="")).sockets
        nothing = SocketStatistics(type=ever.type, connections=None if ever.connections is None else Connections())
        return sockets.get(name, nothing)

    def as_json(self) -> bytes:
        """All of it, but for the texts of errors: those may have what peers sent."""
        servers: dict[str, Any] = msgspec.to_builtins(self.ever)
        for server, name, ever, now in self.sockets():
            socket = servers[server]["sockets"][name]
            socket["concurrency"] = now.concurrency
            socket["in_flight"], socket["errors"] = now.in_flight, ever.errors
            socket["open"] = None if now.connections is None else now.connections.open
            if ever.last_error is not None:
                socket["last_error"] = {"time": ever.last_error.time, "type": ever.last_error.type}
        processes = msgspec.to_builtins(self.processes)
        for process, told in zip(processes, self.processes, strict=True):
            process["hub_delay"] = msgspec.to_builtins(told.hub_delay)
            del process["servers"]
        return msgspec.json.encode(
            {
                "service": self.service,
                "taken": self.taken,
                "started": self.started,
                "health": self.health,
                "servers": servers,
                "processes": processes,
            }
        )

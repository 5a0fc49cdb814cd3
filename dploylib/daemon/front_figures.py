"""What a front tells of itself, in the form in which services do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..services.lifecycle import State
from ..statistics import ServerStatistics
from .passing import Passing

__all__ = ["FrontFigures"]


class FrontFigures:
    """What `control.local.Local` wants to know, of the lanes of a front: connections, and what workers never see."""

    server_classes: Mapping[str, type[Any]] = {}
    servers: Mapping[str, Any] = {}
    server_states: Mapping[str, str] = {}
    settings: Any = None
    called = "front"
    state = State.RUNNING

    def __init__(self, lanes: Mapping[Any, Passing]) -> None:
        self._lanes = lanes

    def statistics(self) -> dict[str, ServerStatistics]:
        """The lanes by server and socket."""
        servers: dict[str, ServerStatistics] = {}
        for passing in list(self._lanes.values()):  # in one step: this is another thread
            server = servers.setdefault(passing.lane.server, ServerStatistics(type="front", sockets={}))
            server.sockets[passing.lane.socket] = passing.statistics()
        return servers

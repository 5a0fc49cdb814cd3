"""The figures of a service that runs in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import uuid4

from .. import __version__
from ..services.lifecycle import State
from ..statistics import ProcessStatistics, ServerStatistics
from .memory import resident_memory
from .source import Health

__all__ = ["Local", "Running"]

_BLOCKED = 30.0  # seconds for which a hub may not have run, as gunicorn's timeout has it


class Running(Protocol):
    """What runs in this process: a `Service`, or something that tells of itself as one does."""

    server_classes: Mapping[str, type[Any]]
    servers: Mapping[str, Any]
    settings: Any
    state: State
    called: str

    @property
    def server_states(self) -> Mapping[str, str]:
        """What each server is doing, by name."""

    def statistics(self) -> dict[str, ServerStatistics]:
        """What is known of each server, by name."""


class Local:
    """A `Source` of what runs in this process, from any thread. `role` is what the process is to the service.

    `name` is what the service is called; '' for what it calls itself.
    """

    def __init__(self, service: Any, name: str = "", role: str = "run") -> None:
        self.service: Running = service
        self._name = name
        self.role = role
        self.pid = os.getpid()
        self.instance = uuid4().hex
        self.started = time.time()

    @property
    def name(self) -> str:
        """What the service is called."""
        return self._name or self.service.called

    @property
    def state(self) -> str:
        """What the service is doing: starting, running, stopping or stopped."""
        state = self.service.state
        return "starting" if state is State.NEW else state.value

    def statistics(self) -> list[ProcessStatistics]:
        """What there is to be known now."""
        return [
            ProcessStatistics(
                service=self.name,
                role=self.role,
                pid=self.pid,
                instance=self.instance,
                version=__version__,
                state=self.state,
                started=self.started,
                taken=time.time(),
                cpu_seconds=time.process_time(),
                resident=resident_memory(),
                servers=self.service.statistics(),
            )
        ]

    def health(self) -> Health:
        """Whether it runs, all of its servers do, and their hubs, too."""
        states = self.service.server_states
        why = [] if self.state == "running" else [f"the service is {self.state}"]
        if not why:
            why = [f"server {name} is {state}" for name, state in states.items() if state != "running"]
        blocked = self._blocked(states)
        return Health(alive=not blocked, ready=not (why or blocked), state=self.state, why=why + blocked)

    def _blocked(self, states: Mapping[str, str]) -> list[str]:
        now = time.monotonic()
        silent = {
            name: now - server.hub_ran_at
            for name, server in self.service.servers.items()
            if server.hub_ran_at is not None and states.get(name) in ("running", "stopping")
        }
        return [
            f"the hub of server {name} has not run for {seconds:.0f} s"
            for name, seconds in silent.items()
            if seconds > _BLOCKED
        ]

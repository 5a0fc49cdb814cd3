"""The figures of a service that runs in this process."""

from __future__ import annotations

import os
import resource
import sys
import time
from uuid import uuid4

from .. import __version__
from ..services import Service
from ..services.lifecycle import State
from ..statistics import ProcessStatistics
from .source import Health

__all__ = ["Local", "resident_memory"]

_BLOCKED = 30.0  # seconds for which a hub may not have run, as gunicorn's timeout has it


class Local:
    """A `Source` of a service in this process, from any thread. `role` is what the process is to the service."""

    def __init__(self, service: Service, name: str, role: str = "run") -> None:
        self.service = service
        self.name = name
        self.role = role
        self.pid = os.getpid()
        self.instance = uuid4().hex
        self.started = time.time()

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
        why = [] if self.state == "running" else [f"the service is {self.state}"]
        for name, server in self.service.statistics().items():
            if self.state == "running" and server.state != "running":
                why.append(f"server {name} is {server.state}")
        blocked = self._blocked()
        return Health(alive=not blocked, ready=not (why or blocked), state=self.state, why=why + blocked)

    def _blocked(self) -> list[str]:
        now = time.monotonic()
        silent = {
            name: now - server.hub_ran_at
            for name, server in self.service.servers.items()
            if server.hub_ran_at is not None and server.state in ("running", "stopping")
        }
        return [
            f"the hub of server {name} has not run for {seconds:.0f} s"
            for name, seconds in silent.items()
            if seconds > _BLOCKED
        ]


def resident_memory() -> int:
    """The bytes of memory that this process has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the most that it ever had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""The figures of a service that runs elsewhere, in one process or several."""

from __future__ import annotations

import time

from .. import __version__
from ..statistics import ProcessStatistics, ServerStatistics
from .asking import ask
from .remains import at_rest, read_remains
from .source import Health

__all__ = ["Remote"]

_PATIENCE = 0.5  # seconds for which a process may be silent


class Remote:
    """A `Source` of the service with this run directory. It remembers what processes have counted that were killed."""

    def __init__(self, run_dir: str, name: str) -> None:
        self.name = name
        self.run_dir = run_dir
        self._last: dict[str, ProcessStatistics] = {}  # by instance

    def statistics(self) -> list[ProcessStatistics]:
        """What each process says, or said last; and, as one more, all that those have counted that have ended."""
        answers = ask(self.run_dir, "STATS", kind=ProcessStatistics, timeout=_PATIENCE)
        silent = {one.pid for one in answers if one.error}
        self._last |= {one.value.instance: one.value for one in answers if not one.error}
        answered = {one.value.instance for one in answers if not one.error}
        remains = read_remains(self.run_dir)  # last: who has answered may have ended since
        for instance in remains.instances:
            self._last.pop(instance, None)
        here = [one for instance, one in self._last.items() if instance in answered or one.pid in silent]
        killed = [one.servers for one in self._last.values() if one not in here]
        gone = at_rest([remains.servers, *killed])
        here.sort(key=lambda one: one.role == "front")  # last, since it is none of the servers
        return [*here, *([self._gone(gone)] if gone else [])]

    def _gone(self, servers: dict[str, ServerStatistics]) -> ProcessStatistics:
        return ProcessStatistics(
            service=self.name,
            role="gone",
            pid=0,
            instance="gone",
            version=__version__,
            state="stopped",
            started=0.0,
            taken=time.time(),
            servers=servers,
        )

    def health(self) -> Health:
        """How it is, as its processes say."""
        answers = ask(self.run_dir, "HEALTH", kind=Health, timeout=_PATIENCE)
        if not answers:
            return Health(alive=False, ready=False, state="stopped", why=["no process of the service is running"])
        why = [f"process {one.pid}: {one.error}" for one in answers if one.error]
        healths = [one.value for one in answers if not one.error]
        why += [reason for one in healths for reason in one.why]
        return Health(
            alive=any(one.alive for one in healths),
            ready=any(one.ready for one in healths),
            state=next((one.state for one in healths if one.ready), healths[0].state if healths else "stopped"),
            why=why,
        )

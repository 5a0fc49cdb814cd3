"""The figures of a service that runs elsewhere, in one process or several."""

from __future__ import annotations

import contextlib
import time
from typing import cast

from .. import __version__
from ..statistics import ProcessStatistics, ServerStatistics, at_rest
from .asking import Answer, ask
from .finding import READY, SILENT, running_in, runs, silence_of
from .remains import add_remains, read_remains
from .source import Health

__all__ = ["Remote"]

_NOBODY = Answer(0, None, "nobody can be asked")
_PATIENCE = 0.5  # seconds for which a process may be silent


class Remote:
    """A `Source` of the service with this run directory. It remembers what processes have counted that were killed.

    With `keeps` it adds that to what is left of those that have ended, so that others know it, too.
    """

    def __init__(self, run_dir: str, name: str, keeps: bool = False) -> None:
        self.name = name
        self.run_dir = run_dir
        self._keeps = keeps
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
        killed = [one for one in self._last.values() if one not in here]
        gone = at_rest([remains.servers, *(one.servers for one in killed)])
        started = min(filter(None, [remains.started, *(one.started for one in killed)]), default=0.0)
        for one in killed if self._keeps else ():
            if not runs(one.pid):  # else it may be about to add that itself
                with contextlib.suppress(OSError):  # then it is remembered here
                    add_remains(self.run_dir, one)
        here.sort(key=lambda one: one.role == "front")  # last, since it is none of the servers
        return [*here, *([self._gone(gone, started)] if gone else [])]

    def _gone(self, servers: dict[str, ServerStatistics], started: float) -> ProcessStatistics:
        return ProcessStatistics(
            service=self.name,
            role="gone",
            pid=0,
            instance="gone",
            version=__version__,
            state="stopped",
            started=started,
            taken=time.time(),
            servers=servers,
        )

    def health(self) -> Health:
        """How it is, as its processes say; what `dploylib serve` runs, as its arbiter does."""
        try:
            leaders = running_in(self.run_dir)
        except OSError:
            leaders = []
        if not leaders:
            return Health(alive=False, ready=False, state="stopped", why=["the service is not running"])
        if any(one.get("mode") == "run" for one in leaders):
            answers = ask(self.run_dir, "HEALTH", kind=Health, timeout=_PATIENCE) or [_NOBODY]
            said = [_health_of(one) for one in answers]
            return next((one for one in said if not one.ready), said[0])
        silent = {one["pid"]: silence_of(one) for one in leaders}
        why = [f"the arbiter {pid} has said nothing for {age:.0f} s" for pid, age in silent.items() if age > SILENT]
        states = [one["state"] for one in leaders]
        ready = not why and any(state in READY for state in states)
        if not ready and not why:
            why = [f"the service is {states[-1]}"]
        return Health(alive=True, ready=ready, state="running" if ready else states[-1], why=why)


def _health_of(answer: Answer) -> Health:
    if not answer.error:
        return cast(Health, answer.value)
    why = f"process {answer.pid}: {answer.error}" if answer.pid else answer.error
    return Health(alive=True, ready=False, state="running", why=[why])

"""A reload: a transaction. What fails changes nothing, and new workers are ready before old ones stop.

First a child checks the configuration and the code. Then workers of the next generation are started beside those that
there are. When they are ready, the process of the servers of which there is one makes way for the next one: of it there
are never two. When that is ready as well, the old workers may stop; when anything has failed before, the new ones do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DployError
from .changes import Change, changes, kept
from .checking import Checking
from .planning import Plan
from .worker import MONITOR, SINGLE, WORKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .arbiter import Arbiter
    from .listeners import Listener
    from .worker import Worker

__all__ = ["Reload"]

_READY_TIME = 60.0  # seconds that the new processes have to become ready


class Reload:
    """A reload of an arbiter that is going on."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self._checking: Checking | None = Checking(arbiter.app.checking)
        self._before: _Before | None = None  # None until the next generation is started
        self._changes: list[Change] = []
        self._due = 0.0
        self._failed = ""
        self.holds_single = False
        """Whether the old process of the servers of which there is one is to stay for now."""

    @property
    def sources(self) -> list[Checking]:
        """What becomes readable when there is something to do."""
        return [] if self._checking is None else [self._checking]

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of the end of the child that checks; False for another one."""
        return self._checking is not None and self._checking.reaped(pid, status)

    def lost(self, worker: Worker, how: str) -> bool:
        """Take note of the end of a process that nobody has told to stop; False if it is none of this reload."""
        if self._before is None or worker.generation != self._arbiter.generation:
            return False
        self._failed = f"{worker.role} {worker.pid} {how}"
        return True

    def close(self) -> None:
        """Leave it at that: all processes end."""
        if self._checking is not None:
            self._checking.close()

    def go_on(self) -> bool:
        """Do what can be done now. Returns whether it is over."""
        if self._checking is not None:
            outcome = self._checking.outcome()
            if outcome is None:
                return False
            self._checking = None
            if isinstance(outcome, str):
                self._refuse(outcome)
                return True
            self._start(outcome)
        if not self._failed and time.monotonic() > self._due:
            self._failed = f"the new processes were not ready within {_READY_TIME:g} s"
        if self._failed:
            self._roll_back()
            return True
        if not (self._arbiter.has_ready(WORKER) and self._arbiter.has_ready(MONITOR)):
            return False
        self.holds_single = False
        if any(one.generation != self._arbiter.generation for one in self._arbiter.of(SINGLE)):
            self._due = time.monotonic() + _READY_TIME  # it has the time that it needs to stop
        if not self._arbiter.has_ready(SINGLE):
            return False
        self._commit()
        return True

    def _start(self, plan: Plan) -> None:
        """Start workers by the new plan, beside those that there are."""
        arbiter = self._arbiter
        self._before = _Before(arbiter.plan, arbiter.cfg, arbiter.num_workers, arbiter.listeners, arbiter.generation)
        self._due = time.monotonic() + _READY_TIME
        self._changes = changes(arbiter.plan, plan)
        plan = kept(arbiter.plan, plan).with_backends(arbiter.run_dir.path)
        try:
            arbiter.app.plan = plan
            arbiter.app.do_load_config()
            arbiter.listen(plan)
        except DployError as error:
            self._failed = str(error)
            return
        arbiter.plan = plan
        arbiter.setup(arbiter.app)
        arbiter.generation += 1
        self.holds_single = True
        arbiter.log.info("reloading: starting %d workers", arbiter.wanted(WORKER))

    def _roll_back(self) -> None:
        arbiter, before = self._arbiter, self._before
        assert before is not None
        if arbiter.generation != before.generation:
            arbiter.tell_to_stop([*arbiter.current(WORKER), *arbiter.current(SINGLE)])
        arbiter.stop_listening(arbiter.listeners.keys() - before.listeners.keys())
        arbiter.generation = before.generation
        arbiter.plan = arbiter.app.plan = before.plan
        arbiter.app.cfg = before.cfg
        arbiter.setup(arbiter.app)
        arbiter.num_workers = before.num_workers
        self._refuse(self._failed)

    def _refuse(self, why: str) -> None:
        self._arbiter.log.error("not reloaded, nothing has changed: %s", why)

    def _commit(self) -> None:
        """The new processes are ready: the old ones may stop."""
        arbiter = self._arbiter
        flaws = arbiter.front.become(arbiter.plan)
        arbiter.stop_listening(arbiter.listeners.keys() - {one.key for one in arbiter.plan.listening})
        arbiter.cfg.on_reload(arbiter)
        for change in self._changes:
            (arbiter.log.info if change.applied else arbiter.log.warning)("%s", change)
        for flaw in flaws:
            arbiter.log.warning("%s", flaw)
        if arbiter.cfg.preload_app:
            arbiter.log.warning("the code is as it was, since it is preloaded: it is loaded anew by USR2, or a restart")
        arbiter.log.info("reloaded")


class _Before(NamedTuple):
    """What a reload that fails brings back."""

    plan: Plan
    cfg: Any
    num_workers: int
    listeners: Mapping[str, Listener]
    generation: int

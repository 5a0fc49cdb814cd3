"""The arbiter's part in the front: it sees to it that there is one, which does what the plan says."""

from __future__ import annotations

import contextlib
import select
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec

from .front_owner import FrontOwner
from .worker import FRONT, front_control

if TYPE_CHECKING:
    from .arbiter import Arbiter
    from .planning import Plan

__all__ = ["FrontKeeper"]

_LONGEST = 10.0  # seconds that a front has to take its orders
_PAUSE = 0.02  # seconds


class FrontKeeper:
    """Keeps the front of an arbiter: one that it has started, or that was there before it.

    `plan` is what it goes by. That is not the arbiter's while that reloads: what is to come may not.
    """

    def __init__(self, arbiter: Arbiter, plan: Plan) -> None:
        self.plan = plan
        self._arbiter = arbiter
        self._owner: FrontOwner | None = None

    @property
    def sources(self) -> list[FrontOwner]:
        """What becomes readable when the front has gone."""
        return [] if self._owner is None else [self._owner]

    @property
    def is_there(self) -> bool:
        """Whether there is one that takes orders."""
        return self._owner is not None

    def keep(self) -> None:
        """See to it that there is one, if one is needed, and none otherwise."""
        arbiter = self._arbiter
        if self._owner is not None and select.select([self._owner], [], [], 0)[0]:
            arbiter.log.error("the front is gone; another one takes its place")
            self.lose()
        if not self.plan.lanes:
            self.release()
            return
        if self._owner is not None:
            return
        path = front_control(arbiter.run_dir.path)
        if not arbiter.of(FRONT):
            with contextlib.suppress(OSError):  # there may be one, of the arbiter before this one
                self._owner = FrontOwner(path, self._timeout)
            if self._owner is None:
                if not arbiter.may_start:
                    return
                arbiter.spawn(FRONT)
        try:
            self._owner = self._owner or self._connected(path)
            for flaw in self.configure():
                arbiter.log.error("%s", flaw)
        except OSError as error:
            arbiter.log.error("the front takes no orders: %s", error)
            for pid in {one.pid for one in arbiter.of(FRONT)} | {owner.pid for owner in self.sources}:
                arbiter.kill_worker(pid, signal.SIGKILL)
            self.lose()

    def become(self, plan: Plan) -> list[str]:
        """Go by another plan from now on. Returns what did not work, a text for each."""
        self.plan = plan
        if self._owner is None:
            self.keep()
            return []
        try:
            return self.configure()
        except OSError as error:
            self.lose()
            return [str(error)]

    def configure(self) -> list[str]:
        """Let it do what the plan says. Returns what did not work, a text for each; raises `OSError` if it is gone."""
        if self._owner is None:
            return []
        arbiter = self._arbiter
        descriptors = {listener.endpoint: listener.fileno() for listener in arbiter.LISTENERS}
        lanes = [
            msgspec.structs.replace(
                lane, uris=tuple(arbiter.listeners[f"{lane.name} {uri}"].endpoint for uri in lane.uris)
            )
            for lane in self.plan.lanes
        ]
        return self._owner.configure(lanes, descriptors, arbiter.cfg.graceful_timeout)

    def status(self) -> dict[str, Any]:
        """What it says of itself; {} when it says nothing."""
        if self._owner is not None:
            try:
                return self._owner.status()
            except OSError:
                self.lose()
        return {}

    def reopen_logs(self) -> None:
        """Let it open its log files again."""
        if self._owner is not None:
            with contextlib.suppress(OSError):  # another one, which takes its place, opens them anyway
                self._owner.reopen_logs()

    def release(self) -> None:
        """Say that it is not needed any more. It goes on for another arbiter that needs it."""
        if self._owner is None:
            return
        goes_on = False
        with contextlib.suppress(OSError):
            goes_on = self._owner.release()
        self.lose()
        for front in self._arbiter.of(FRONT):
            front.told_at = time.monotonic()
            if goes_on:
                self._arbiter.WORKERS.pop(front.pid).forget()

    def lose(self) -> None:
        """Let go of the connection to it."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    @property
    def _timeout(self) -> float:
        return min(_LONGEST, self._arbiter.notifier.interval or _LONGEST)

    def _connected(self, path: str) -> FrontOwner:
        """A connection to a front that was just started."""
        ends = time.monotonic() + _LONGEST
        while True:
            try:
                return FrontOwner(path, self._timeout)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > ends or not self._arbiter.of(FRONT):
                    raise
                self._arbiter.reap_workers()  # it may have ended
                self._arbiter.notifier.feed()
                time.sleep(_PAUSE)

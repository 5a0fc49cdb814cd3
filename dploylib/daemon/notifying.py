"""What systemd is told of the service, where it wants to know."""

from __future__ import annotations

import os
import time
from typing import Any

from gunicorn import systemd

__all__ = ["Notifier"]

_ENOUGH = 4  # how often it is told within the time of its watchdog


class Notifier:
    """Speaks to systemd by the protocol of sd_notify(3); to nobody, where nobody listens.

    `interval` is the number of seconds within which `feed` should be called again; None where there is no watchdog.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._said = ""
        self._fed = 0.0
        watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
        self.interval = watchdog / _ENOUGH or None

    def say(self, state: str) -> None:
        """Say how the service is, when that is not what was said last."""
        if state == self._said:
            return
        self._said = state
        if state.startswith("RELOADING"):
            state += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
        systemd.sd_notify(state, self._log)

    def hand_over(self, *pids: int) -> None:
        """Say that another process is the main one: each of these in turn, the last one for good."""
        for pid in pids:
            systemd.sd_notify(f"MAINPID={pid}", self._log)
        self._said = ""

    def feed(self) -> None:
        """Say that the arbiter lives, when it is time to."""
        if self.interval is not None and time.monotonic() - self._fed > self.interval / 2:
            self._fed = time.monotonic()
            systemd.sd_notify("WATCHDOG=1", self._log)

"""Where figures come from: a service in this process, or one that runs elsewhere, in one process or several."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ..statistics import ProcessStatistics

__all__ = ["Health", "Source"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a service lives, and whether it is `ready` for more work; if not, `why`.

    `state` is starting, running, stopping or stopped.
    """

    alive: bool
    ready: bool
    state: str
    why: list[str] = []


class Source(Protocol):
    """Tells how a service is. Its methods may wait, for 100 ms mostly, and raise nothing when a process is silent."""

    @property
    def name(self) -> str:
        """What the service is called."""

    def statistics(self) -> list[ProcessStatistics]:
        """What each of its processes tells now, or told last if it is silent, and all those together that are gone.

        What the latter say is of a role `gone` and has the process id 0.
        """

    def health(self) -> Health:
        """How it is."""

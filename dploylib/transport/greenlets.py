"""The greenlets of this process, for who wants to know what they do. Any thread may look."""

from __future__ import annotations

from typing import Any

import gevent.hub
from greenlet import greenlet

from .instances import all_instances

__all__ = ["IDLE", "all_greenlets", "is_active", "main_of"]

IDLE = gevent.hub.Hub.run.__code__
"""Where a hub is that waits for something to do."""


def all_greenlets() -> list[Any]:
    """All greenlets that the collector knows: not the main ones of threads, and also those that have ended."""
    return all_instances(greenlet)


def is_active(one: Any) -> bool:
    """Whether a greenlet has begun and not ended. A `gevent.Greenlet` itself is true before it runs, too."""
    return greenlet.__bool__(one)


def main_of(one: Any) -> Any:
    """The main greenlet of the thread that a greenlet belongs to."""
    while one.parent is not None:
        one = one.parent
    return one

"""Starting greenlets, each with a name, and threads of the system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey

__all__ = ["new_lock", "spawn_named", "start_thread", "wait_for_one"]


def spawn_named(name: str, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
    """`gevent.spawn`, with the name by which reports know the greenlet."""
    greenlet: gevent.Greenlet[..., Any] = gevent.Greenlet(function, *args)
    greenlet.name = name
    greenlet.start()
    return greenlet


def wait_for_one(*things: Any) -> None:
    """Wait for one of these greenlets and events, which share no class."""
    gevent.wait(things, count=1)


def start_thread(function: Callable[..., None], *args: Any) -> None:
    """Start a thread of the system, also where the standard library is patched to make greenlets instead."""
    gevent.monkey.get_original("_thread", "start_new_thread")(function, args)


def new_lock() -> Any:
    """A lock for such threads."""
    return gevent.monkey.get_original("_thread", "allocate_lock")()

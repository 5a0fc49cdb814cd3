"""Starting greenlets, each with a name, and threads of the system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey
from gevent.event import AsyncResult

__all__ = ["call_in_hub", "new_lock", "spawn_named", "start_thread", "wait_for_one"]

_STILL_THERE = 60.0  # seconds


def spawn_named(name: str, function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
    """`gevent.spawn`, with the name by which reports know the greenlet."""
    greenlet: gevent.Greenlet[..., Any] = gevent.Greenlet(function, *args)
    greenlet.name = name
    greenlet.start()
    return greenlet


def wait_for_one(*things: Any) -> None:
    """Wait for one of these greenlets and events, which share no class."""
    gevent.wait(things, count=1)


def call_in_hub(hub: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a greenlet of this hub, which may be another thread's, and return what it returns.

    Raises what it raises. Who calls this may be interrupted, and the function goes on.
    """
    done: AsyncResult[Any] = AsyncResult()

    def call() -> None:
        try:
            done.set(function(*args))
        except BaseException as error:  # noqa: BLE001 - who waits gets it
            done.set_exception(error)

    hub.loop.run_callback_threadsafe(gevent.spawn, call)
    while not done.ready():  # with a timeout, since in another thread nothing else may keep a hub from giving up
        done.wait(_STILL_THERE)
    return done.get()


def start_thread(function: Callable[..., None], *args: Any) -> None:
    """Start a thread of the system, also where the standard library is patched to make greenlets instead."""
    gevent.monkey.get_original("_thread", "start_new_thread")(function, args)


def new_lock() -> Any:
    """A lock for such threads."""
    return gevent.monkey.get_original("_thread", "allocate_lock")()

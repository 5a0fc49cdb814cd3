"""The greenlets and threads of this process, and where each stands."""

from __future__ import annotations

import gevent.hub
import greenlet

from ..control.stacks import stack, stacks
from ..transport.greenlets import all_greenlets

__all__ = ["all_stacks", "describe_greenlet", "live_greenlets"]

_RUNNER = ("_pytest", "pluggy")  # what pytest has in front of a test


def live_greenlets() -> set[greenlet.greenlet]:
    """The greenlets that run or wait to, of all threads, but for those that belong to gevent and the current one."""
    return {
        one
        for one in all_greenlets()
        if one  # started, or about to be, and not finished
        and one.parent is not None  # else a thread's main greenlet
        and one is not greenlet.getcurrent()
        and not isinstance(one, gevent.hub.Hub)
        and not type(one).__module__.startswith("gevent.threadpool")  # workers are kept for the next task
    }


def describe_greenlet(one: greenlet.greenlet) -> str:
    """The greenlet and where it stands."""
    return f"{one!r}, which is at\n{stack(one.gr_frame, _RUNNER)}"


def all_stacks() -> str:
    """What the threads do now, and where the greenlets wait that have begun, by name: for who wants to know what hangs.

    The thread that calls this is left out.
    """
    return stacks(outside=_RUNNER)

"""The greenlets and threads of this process, and where each stands."""

from __future__ import annotations

import sys
import traceback
from types import FrameType
from typing import Any

import gevent.hub
import gevent.monkey
import greenlet

from ..transport.greenlets import IDLE, all_greenlets, is_active, main_of

__all__ = ["all_stacks", "describe_greenlet", "live_greenlets"]


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
    return f"{one!r}, which is at\n{_stack(one.gr_frame)}"


def all_stacks() -> str:
    """What the threads do now, and where the greenlets wait that have begun, by name: for who wants to know what hangs.

    The thread that calls this is left out.
    """
    found = all_greenlets()
    threads = {main_of(one): one.thread_ident for one in found if isinstance(one, gevent.hub.Hub)}
    # The main greenlets are not known to the collector.
    greenlets = {*threads, *(one for one in found if is_active(one))}
    running = {threads.get(main_of(one)): _name(one) for one in greenlets if one.gr_frame is None}
    me = gevent.monkey.get_original("_thread", "get_ident")()
    parts = [
        f"thread {ident:#x}{f', in {running[ident]},' if ident in running else ''} is at\n{_stack(frame)}"
        for ident, frame in sys._current_frames().items()
        if ident != me and frame.f_code is not IDLE
    ]
    waiting = [one for one in greenlets if one.gr_frame is not None and not isinstance(one, gevent.hub.Hub)]
    parts += sorted(f"{_name(one)} is at\n{_stack(one.gr_frame)}" for one in waiting)
    return "\n".join(parts)


def _name(one: Any) -> str:
    return "the main greenlet" if one.parent is None else f"greenlet {getattr(one, 'name', one)!r}"


def _stack(frame: FrameType | None) -> str:
    """The stack, without what pytest has in front of a test."""
    if frame is None:
        return "  not yet running\n"
    frames = list(traceback.walk_stack(frame))
    for number, (one, _) in enumerate(frames):
        if number and one.f_globals.get("__name__", "").partition(".")[0] in ("_pytest", "pluggy"):
            frames = frames[:number]
            break
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())

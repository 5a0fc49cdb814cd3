"""Where the greenlets of this process stand, by server and socket. Any thread may look, also while a hub is blocked."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection, Iterable, Iterator
from time import monotonic
from types import CodeType, FrameType
from typing import Any, NamedTuple

import gevent.monkey
from gevent.hub import Hub
from greenlet import getcurrent

from ..servers import Server
from ..servers.dispatch import Dispatcher
from ..transport.greenlets import IDLE, all_greenlets, is_active, main_of

__all__ = ["stack", "stacks"]

_HANDLING = Dispatcher.__call__.__code__


def stacks(servers: Iterable[Server] = (), outside: Collection[str] = ()) -> str:
    """What the threads do now, and where the greenlets wait that have begun, by name.

    Those of these servers come first, each under its name, with those that its handlers have spawned. Greenlets of one
    name that are at the same place are told once, with their number. How old their messages are is told where
    times are counted. The thread that asks is left out, and of a stack the frames of packages that are `outside`, with
    those above them.
    """
    owned: dict[str, list[_Standing]] = {server.name: [] for server in servers}
    others: list[_Standing] = []
    for one in _standing():
        owned.get(_owner(one.greenlet, owned), others).append(one)
    parts = [line for name, mine in owned.items() for line in (_headline(f"server {name}"), *_told(mine, outside))]
    if parts and others:
        parts.append(_headline("others"))
    return "\n".join([*parts, *_told(others, outside)])


def stack(frame: FrameType | None, outside: Collection[str] = ()) -> str:
    """A stack as text, without the frames of packages that are `outside` and those above them."""
    if frame is None:
        return "  code in C\n"
    frames = list(traceback.walk_stack(frame))
    for number, (one, _) in enumerate(frames):
        if number and one.f_globals.get("__name__", "").partition(".")[0] in outside:
            frames = frames[:number]
            break
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())


class _Standing(NamedTuple):
    """Where a greenlet stands, or a thread whose greenlet nobody knows. `thread` is that which runs it, if one does."""

    greenlet: Any
    frame: FrameType | None  # None within nothing but C
    thread: int = 0


def _standing() -> list[_Standing]:
    known = {one for one in all_greenlets() if is_active(one) or isinstance(one, Hub)}
    # The collector knows neither the main greenlets nor what gc.freeze() has hidden from it.
    begins = map(_bottom, sys._current_frames().values())
    known |= {frame.f_locals["self"] for frame in begins if frame.f_code is IDLE}
    known |= {one.parent for one in known if one.parent is not None} | {main_of(one) for one in known}
    hubs = {one for one in known if isinstance(one, Hub)}
    threads = {main_of(hub): hub.thread_ident for hub in hubs}
    running = sys._current_frames()
    frames = {one: one.gr_frame for one in known}  # soon after, since the others go on
    running.pop(gevent.monkey.get_original("_thread", "get_ident")(), None)
    frames.pop(getcurrent(), None)
    frameless: dict[int, list[Any]] = {}
    for one, standing in frames.items():
        if standing is None:
            frameless.setdefault(threads.get(main_of(one), 0), []).append(one)
    found = []
    for thread, frame in running.items():
        runs = _runner(frame, frameless.get(thread, []))
        frames.pop(runs, None)
        if frame.f_code is not IDLE:
            found.append(_Standing(runs, frame, thread))
    waiting = [one for one in frames if one not in hubs]
    # A main greenlet that does not run has a frame, or its thread has ended.
    waiting = [one for one in waiting if one.parent is not None or frames[one] is not None]
    return found + [_Standing(one, frames[one]) for one in waiting]


def _runner(frame: FrameType, frameless: list[Any]) -> Any:
    """Which of the greenlets without a frame is the one that a thread runs: the others have called nothing but C."""
    first = _bottom(frame).f_code
    for one in frameless:
        begins = Hub.run if isinstance(one, Hub) else getattr(one, "__dict__", {}).get("_run")
        if getattr(begins, "__code__", None) is first:
            return one
    return next((one for one in frameless if one.parent is None), None)


def _bottom(frame: FrameType) -> FrameType:
    """The outermost frame of a stack."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _told(found: Iterable[_Standing], outside: Collection[str]) -> list[str]:
    """What is told of them, each with its stack; those that differ in nothing but their age together."""
    groups: dict[Any, list[tuple[_Standing, float | None]]] = {}
    for one in found:
        places, age = _places(one.frame)
        groups.setdefault((one.thread, _name(one.greenlet), places), []).append((one, age))
    order = sorted(groups.items(), key=lambda group: (not group[0][0], group[0][1], -len(group[1])))
    return [
        f"{_who(thread, name, [age for _, age in members])} at\n{stack(members[0][0].frame, outside)}"
        for (thread, name, _), members in order
    ]


def _who(thread: int, name: str, ages: list[float | None]) -> str:
    """So many greenlets of a name, or the thread that runs one, and how old their messages are, if it is known."""
    known = [age for age in ages if age is not None]
    if thread:
        parts = [f"thread {thread:#x}", *([f"in {name}"] if name else [])]
    else:
        parts = [f"{len(ages):,} x {name}" if len(ages) > 1 else name]
    if len(known) == 1:
        parts.append(f"with a message that is {known[0]:.1f} s old")
    elif known:
        parts.append(f"with messages that are {min(known):.1f} to {max(known):.1f} s old")
    return f"{', '.join(parts)}{',' if len(parts) > 1 else ''} {'are' if len(ages) > 1 else 'is'}"


def _places(frame: FrameType | None) -> tuple[tuple[tuple[CodeType, int | None], ...], float | None]:
    """What makes a stack equal to another one, and for how many seconds it has had its message, if that is known."""
    places, age = [], None
    while frame is not None:
        places.append((frame.f_code, frame.f_lineno))
        if frame.f_code is _HANDLING and "began" in frame.f_locals:
            age = monotonic() - frame.f_locals["began"]
        frame = frame.f_back
    return tuple(places), age


def _owner(one: Any, servers: Iterable[str]) -> str:
    """The server that a greenlet is of, or the one that has spawned it; or ''. Those of a server have its name."""
    for ancestor in _lineage(one):
        name = _given_name(ancestor)
        for server in servers if name else ():
            if name == f"server {server}" or name.startswith((f"receive {server}.", f"{server}: ")):
                return server
    return ""


def _name(one: Any) -> str:
    if one is None:
        return ""
    if one.parent is None:
        return "the main greenlet"
    if isinstance(one, Hub):
        return "the hub"
    if name := _given_name(one):
        return f"greenlet {name!r}"
    spawner = next(filter(None, map(_given_name, _lineage(one))), "")
    return f"a greenlet that {spawner!r} has spawned" if spawner else "a greenlet without a name"


def _given_name(one: Any) -> str:
    return str(getattr(one, "__dict__", {}).get("name", ""))


def _lineage(one: Any) -> Iterator[Any]:
    """A greenlet, who has spawned it, who has spawned that one, and so on, as far as they are known and there."""
    while one is not None:
        yield one
        spawner = getattr(one, "spawning_greenlet", None)
        one = None if spawner is None else spawner()


def _headline(text: str) -> str:
    return f"{text}\n{'=' * len(text)}"

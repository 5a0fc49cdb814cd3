"""Profiles: where the time of this process goes, by greenlet, as a flame graph of pyinstrument's."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from types import FrameType
from typing import Any

import gevent
import gevent.hub
from gevent.event import Event
from greenlet import getcurrent

from ..errors import MissingPackage, ServiceStateError
from ..servers import Hook, Server

try:
    from pyinstrument.low_level.stat_profile import get_frame_info, setstatprofile, walltime_coarse_resolution
    from pyinstrument.renderers import ConsoleRenderer, HTMLRenderer, SpeedscopeRenderer
    from pyinstrument.session import Session
except ImportError as error:
    raise MissingPackage("profiles need pyinstrument: pip install 'dploylib[profile]'") from error

__all__ = ["Profiler", "Session", "profile", "render"]

_COARSE = walltime_coarse_resolution()  # seconds between two ticks of the clock of the kernel, where there is one
_TIMER: Any = "walltime" if _COARSE is None else "walltime_coarse"  # pyinstrument's thread for that begins not always
_TICK = _COARSE or 0.001  # seconds between two samples
_PATIENCE = 2.0  # seconds for the hubs to end it, which something may block
_IDLE = ("idle: nothing to do\0hub\x000",)


def profile(servers: Iterable[Server], seconds: float) -> Session:
    """Sample the hubs of these servers for so many seconds. Any thread may ask for that.

    Raises `ServiceStateError` when one of them is sampled already, or none has run, since something blocks them.
    """
    profiler = Profiler()
    for server in servers:
        if server._hub is not None:  # else it is about to start
            profiler.sample(server._hub)
    gevent.sleep(seconds)
    return profiler.stop()


def render(sessions: dict[str, Session], suffix: str) -> str:
    """What processes have taken their time for, by what to call them: `.html`, `.json` for speedscope, or `.txt`."""
    for name, session in sessions.items():
        if len(sessions) > 1:
            root = f"{name}\0process\x000"
            session.frame_records = [([root, *stack], seconds) for stack, seconds in session.frame_records]
    whole, *others = sessions.values()
    for other in others:
        whole = Session.combine(whole, other)
    forms = {".html": HTMLRenderer, ".json": SpeedscopeRenderer, ".txt": partial(ConsoleRenderer, unicode=True)}
    renderer: Any = forms[suffix]
    return str(renderer().render(whole))


class Profiler(Hook):
    """Samples hubs of this process until `stop`, 250 times a second mostly. A stack begins with the greenlet that runs.

    As a hook of a service it samples the hubs in which servers start, be they in threads of their own.
    """

    def __init__(self) -> None:
        self._samplers: dict[Any, _Sampler] = {}
        self._began = time.time()
        self._clock = perf_counter()
        self._cpu = time.process_time()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()  # a server in a process of its own has nothing to do with this one

    def server_started(self, server: Any) -> None:
        """Sample the hub of a server, if it is not yet."""
        self.sample(gevent.get_hub())

    def sample(self, hub: Any) -> None:
        """Sample a hub, as soon as it runs. It may be another thread's."""
        if hub not in self._samplers:
            self._samplers[hub] = sampler = _Sampler(hub)
            sampler.call(sampler.start)

    def stop(self) -> Session:
        """What all of them have done. Raises `ServiceStateError` when none of them could be sampled."""
        samplers = self._samplers.values()
        for sampler in samplers:
            sampler.call(sampler.stop)
        give_up_at = perf_counter() + _PATIENCE
        for sampler in samplers:
            sampler.over.wait(max(0.0, give_up_at - perf_counter()))
        failures = [sampler.failure for sampler in samplers if sampler.failure is not None]
        if failures and len(failures) == len(samplers):
            raise ServiceStateError(failures[0])
        records = [(list(stack), seconds) for sampler in samplers for stack, seconds in sampler.seconds.copy().items()]
        return Session(
            frame_records=sorted(records),
            start_time=self._began,
            duration=perf_counter() - self._clock,
            min_interval=_TICK,
            max_interval=_TICK,
            sample_count=sum(sampler.samples for sampler in samplers),
            start_call_stack=[""],
            target_description=f"process {os.getpid()}",
            cpu_time=time.process_time() - self._cpu,
            sys_path=sys.path,
            sys_prefixes=Session.current_sys_prefixes(),
        )


class _Sampler:
    """Samples one hub: its thread does that itself, at the next call or return after each tick of the clock."""

    def __init__(self, hub: Any) -> None:
        self.seconds: dict[tuple[str, ...], float] = defaultdict(float)  # by stack, from the outermost on
        self.samples = 0
        self.failure: str | None = "something blocks the hub, which has not run meanwhile"
        self.over = Event()
        self._hub = hub
        self._check: Any = None
        self._last = 0.0  # sample, on the clock of perf_counter

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the hub, if that still is there."""
        loop = self._hub.loop
        if loop is None:
            self.over.set()
        else:
            loop.run_callback_threadsafe(function)

    def start(self) -> None:
        """Called by the hub."""
        if sys.getprofile() is not None:
            self.failure = "a profile is being made already"
            return
        self.failure = None
        self._check = check = self._hub.loop.check(ref=False)
        check.priority = self._hub.loop.MAXPRI  # before whatever ends the waiting
        check.start(_idle_no_more)
        self._last = perf_counter()
        setstatprofile(self._sample, _TICK / 2, timer_type=_TIMER)

    def stop(self) -> None:
        """Called by the hub."""
        if self._check is not None:
            setstatprofile(None)
            self._check.close()
        self.over.set()

    def _sample(self, frame: FrameType, event: str, argument: Any) -> None:
        now = perf_counter()
        # In ticks: what is shorter than one has as many of them as it should have, on average.
        ticks = now // _TICK - self._last // _TICK
        self._last = now
        self.samples += 1
        self.seconds[_stack(frame, event, argument)] += ticks * _TICK


def _idle_no_more() -> None:
    """Called by a hub when it has waited: that is not the time of whom it calls then."""


def _stack(frame: FrameType | None, event: str, argument: Any) -> tuple[str, ...]:
    """What the time until this event was for."""
    stack = []
    if event == "call" and frame is not None:
        if frame.f_code is _idle_no_more.__code__:
            return _IDLE
        frame = frame.f_back  # which called the function
    elif event in ("c_return", "c_exception"):
        stack.append(f"{getattr(argument, '__qualname__', argument.__name__)}\0<built-in>\x000")
    while frame is not None:
        stack.append(get_frame_info(frame).partition("\1l")[0])  # without the line, by which they would be too many
        frame = frame.f_back
    stack.append(f"{_name(getcurrent())}\0greenlet\x000")
    stack.reverse()
    return tuple(stack)


def _name(one: Any) -> str:
    if isinstance(one, gevent.hub.Hub):
        return "hub"
    if one.parent is None:
        return "main greenlet"
    return str(getattr(one, "__dict__", {}).get("name", "greenlets without a name"))

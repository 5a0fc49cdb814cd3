"""What is left behind: greenlets, sockets, threads, file descriptors and child processes."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import gevent

from ..transport import Socket
from ..transport.instances import all_instances
from .stacks import describe_greenlet, live_greenlets

__all__ = [
    "SETTLE_SECONDS",
    "LeakCheck",
    "Process",
    "child_processes",
    "live_threads",
    "open_descriptors",
    "open_sockets",
    "wait_until_empty",
]

SETTLE_SECONDS = 5.0
"""libzmq closes sockets and removes ipc files in threads of its own, a moment after close()."""


class Process(NamedTuple):
    """A process. Its pid alone may be another one's later."""

    pid: int
    started: int  # in clock ticks since the machine was
    name: str


class LeakCheck:
    """What there is when it is made, so that what is there later and was not can be told.

    It knows greenlets, sockets of dploylib, threads, and, on Linux only, file descriptors and child processes. All of
    this process: what somebody else opens meanwhile, and keeps, is told as well.
    """

    def __init__(self) -> None:
        gevent.sleep(0)  # the hub opens file descriptors when it is first used, and keeps them
        gc.collect()  # what others left to the collector is not to disappear meanwhile
        self._greenlets, self._sockets, self._threads = live_greenlets(), open_sockets(), live_threads()
        self._descriptors, self._processes = open_descriptors(), child_processes()

    def left(self) -> list[str]:
        """What is there now and was not, each as a text; of greenlets, with their stacks."""
        return [
            *(describe_greenlet(one) for one in live_greenlets() - self._greenlets),
            *(f"socket {one!r}" for one in open_sockets() - self._sockets),
            *(f"thread {one!r}" for one in live_threads() - self._threads),
            *(f"{count} x descriptor of {one}" for one, count in (open_descriptors() - self._descriptors).items()),
            *(f"process {one.pid}, {one.name}" for one in child_processes() - self._processes),
        ]

    def wait(self) -> list[str]:
        """The same, once that is nothing, or `SETTLE_SECONDS` have passed."""
        return wait_until_empty(self.left)


def wait_until_empty(find: Callable[[], list[str]]) -> list[str]:
    """What `find` returns: an empty list as soon as it does, else what is there after `SETTLE_SECONDS`."""
    ends = time.monotonic() + SETTLE_SECONDS
    while (left := find()) and time.monotonic() < ends:
        gevent.sleep(0.01)
    return left


def open_sockets() -> set[Socket]:
    """The sockets of dploylib that were not closed."""
    return {one for one in all_instances(Socket) if not one.closed}


def live_threads() -> set[threading.Thread]:
    """The running threads that somebody made (a dummy only stands for a thread that asked who it is)."""
    return {one for one in threading.enumerate() if not isinstance(one, threading._DummyThread)}


def open_descriptors() -> Counter[str]:
    """How many file descriptors of this process are open, by what they are open on."""
    found: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            found[os.readlink(f"/proc/self/fd/{descriptor}")] += 1
        except FileNotFoundError:  # closed since, as is the one that lists the directory
            continue
    return found


def child_processes() -> set[Process]:
    """The processes that this one started, those included that ended and were not waited for."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")) if sys.platform == "linux" else ():
        try:
            with open(f"/proc/{pid}/stat") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):  # it has ended since
            continue
        fields = rest.split()  # from the state on, see proc_pid_stat(5)
        if int(fields[1]) == os.getpid():
            found.add(Process(int(pid), int(fields[19]), name))
    return found

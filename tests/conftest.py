"""Fixtures that the tests share. Every test runs plain and monkey-patched (see run_patched.py)."""

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.hub
import gevent.monkey
import greenlet
import hypothesis
import psutil
import pytest

PATCHED = gevent.monkey.is_module_patched("socket")
PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
SETTLE_SECONDS = 5.0  # libzmq closes sockets and removes ipc files in threads of its own, a moment after close()
IPC_PATH_LIMIT = 107  # bytes, as `sun_path` of unix(7) allows

# A shell ignores SIGINT for what it starts in the background, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes depends on the machine, and says nothing about correctness.
hypothesis.settings.register_profile("dploylib", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("dploylib")


@pytest.fixture(scope="session")
def patched() -> bool:
    """Whether the standard library is monkey-patched."""
    return PATCHED


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], None]:
    """Wait until a condition holds."""

    def wait(condition: Callable[[], Any]) -> None:
        with gevent.Timeout(PATIENCE, TimeoutError("the condition never held")):
            while not condition():
                gevent.sleep(0.002)

    return wait


@pytest.fixture
def leak_check() -> Iterator[None]:
    """Fail the test if it leaves greenlets, threads, open file descriptors or child processes behind.

    Use it first (`@pytest.mark.usefixtures("leak_check")`), so that other fixtures have cleaned up when it looks.
    """
    gevent.sleep(0)  # the hub opens file descriptors when it is first used, and keeps them
    gc.collect()  # what earlier tests left to the collector is not to disappear meanwhile
    greenlets, threads, descriptors = live_greenlets(), live_threads(), open_descriptors()
    processes = child_processes()

    def leaks() -> list[str]:
        return [
            *(describe_greenlet(one) for one in live_greenlets() - greenlets),
            *(f"thread {one!r}" for one in live_threads() - threads),
            *(f"{count} x descriptor of {one}" for one, count in (open_descriptors() - descriptors).items()),
            *(f"process {one!r}" for one in child_processes() - processes),
        ]

    yield
    left = wait_until_empty(leaks)
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def ipc_dir() -> Iterator[Path]:
    """A directory for ipc endpoints, with a path that is short enough; fails the test if a file is left in it."""
    path = Path(tempfile.mkdtemp(prefix="dl-"))
    try:
        room = IPC_PATH_LIMIT - len(os.fsencode(path / ""))
        assert room >= 40, f"{path} is too long for ipc endpoints: set TMPDIR to a shorter directory"
        yield path
        left = wait_until_empty(lambda: sorted(entry.name for entry in path.iterdir()))
        if left:
            pytest.fail(f"files left in the directory for ipc endpoints: {', '.join(left)}", pytrace=False)
    finally:
        shutil.rmtree(path)


def wait_until_empty(find: Callable[[], list[str]]) -> list[str]:
    """Return what `find` returns: an empty list as soon as it does, else what is there after `SETTLE_SECONDS`."""
    with gevent.Timeout(SETTLE_SECONDS, False):
        while find():
            gevent.sleep(0.01)
    return find()


def live_greenlets() -> set[greenlet.greenlet]:
    """Return the greenlets that run or wait to, of all threads, but for those that belong to gevent or the test."""
    return {
        one
        for one in gc.get_objects()
        if issubclass(type(one), greenlet.greenlet)  # isinstance would ask proxies what they stand for
        and one  # started, or about to be, and not finished
        and one.parent is not None  # else a thread's main greenlet
        and one is not greenlet.getcurrent()
        and not isinstance(one, gevent.hub.Hub)
        and not type(one).__module__.startswith("gevent.threadpool")  # workers are kept for the next task
    }


def live_threads() -> set[threading.Thread]:
    """Return the running threads that somebody made (a dummy only stands for a thread that asked who it is)."""
    return {one for one in threading.enumerate() if not isinstance(one, threading._DummyThread)}


def open_descriptors() -> Counter[str]:
    """Count the open file descriptors of this process by what they are open on."""
    found: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            found[os.readlink(f"/proc/self/fd/{descriptor}")] += 1
        except FileNotFoundError:  # closed since, as is the one that lists the directory
            continue
    return found


def child_processes() -> set[psutil.Process]:
    """Return the processes that this one started, those included that ended and were not waited for."""
    return set(psutil.Process().children())


def describe_greenlet(one: greenlet.greenlet) -> str:
    """Return the greenlet and where it stands."""
    stack = traceback.format_stack(one.gr_frame) if one.gr_frame else ["  not yet running\n"]
    return f"{one!r}, which is at\n{''.join(stack)}"

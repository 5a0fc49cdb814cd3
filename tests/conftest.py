"""Fixtures that the tests share.

Every test runs plain and monkey-patched (`make unit-patched`), but for those that are marked as `once`: what they test
runs in interpreters of its own, or computes and waits for nothing.
"""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey
import hypothesis
import pytest

from dploylib.testing.leaks import wait_until_empty

PATCHED = gevent.monkey.is_module_patched("socket")
PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
IPC_PATH_LIMIT = 107  # bytes, as `sun_path` of unix(7) allows

# A shell ignores SIGINT for what it starts in the background, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes depends on the machine, and says nothing about correctness.
hypothesis.settings.register_profile("dploylib", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("dploylib")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what runs once, where that is not."""
    for item in items if PATCHED else ():
        if marker := item.get_closest_marker("once"):
            item.add_marker(pytest.mark.skip(reason=f"runs plain only: {marker.args[0]}"))


@pytest.fixture(scope="module", autouse=True)
def _quick_leak_checks() -> None:
    """Leave what was there before a module out of what leak checks look at, again and again: a million objects."""
    gc.collect()
    gc.freeze()


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
def spawn() -> Iterator[Callable[..., gevent.Greenlet]]:
    """Start a greenlet that is killed with the test, if it still runs."""
    greenlets: list[gevent.Greenlet] = []

    def spawn(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> gevent.Greenlet:
        greenlets.append(gevent.spawn(function, *arguments, **keywords))
        return greenlets[-1]

    yield spawn
    gevent.killall(greenlets, timeout=PATIENCE)


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

"""Fixtures of the hard tests: the service that they attack, in a process of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dploylib.testing import FlakyProxy
from tests.hard.running import RunningTarget


@pytest.fixture
def start_target(tmp_path: Path) -> Iterator[Callable[..., RunningTarget]]:
    """`start_target(options={...})`: a target that runs, and ends with the test."""
    targets: list[RunningTarget] = []

    def start(**how: Any) -> RunningTarget:
        targets.append(RunningTarget(tmp_path, **how))
        return targets[-1]

    yield start
    for target in targets:
        target.end()


@pytest.fixture
def target(start_target) -> RunningTarget:
    """A target with the settings that it has by default."""
    return start_target()


@pytest.fixture(scope="module")
def shared_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTarget]:
    """A target that goes through everything that the tests of a module do to it."""
    target = RunningTarget(tmp_path_factory.mktemp("target"))
    target.quiet = target.settled()
    yield target
    target.end()


@pytest.fixture
def proxy() -> Iterator[Callable[[str], FlakyProxy]]:
    """`proxy(endpoint)`: a TCP proxy in front of an endpoint, which ends with the test."""
    proxies: list[FlakyProxy] = []

    def start(endpoint: str) -> FlakyProxy:
        proxies.append(FlakyProxy(endpoint))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()

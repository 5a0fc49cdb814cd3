"""Fixtures for the tests of the transport: contexts, greenlets and peers that end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from dploylib.transport import Context, Socket
from tests.processes import Process, starter

PEERS = Path(__file__).parent / "peers"
PATIENCE = 20.0  # seconds after which something that should happen is taken not to happen


@pytest.fixture
def context() -> Iterator[Context]:
    """A green context, which is closed with all its sockets."""
    context = Context.new()
    yield context
    context.close(linger=0)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Wait until a condition holds; fail the test if it does not within `PATIENCE`."""

    def wait_for(condition: Callable[[], Any], what: str = "") -> None:
        with gevent.Timeout(PATIENCE, AssertionError(f"waited in vain {what}")):
            while not condition():
                gevent.sleep(0.002)

    return wait_for


@pytest.fixture
def connected(context: Context) -> Callable[..., tuple[Socket, Socket]]:
    """Make two sockets of these types: the first bound, the second connected to it, with the same options."""

    def connected(bound_type: str, connecting_type: str, uri: str = "tcp://127.0.0.1:*", **options: Any) -> Any:
        bound = context.socket(bound_type, options)
        bound.bind(uri)
        connecting = context.socket(connecting_type, options)
        connecting.connect(bound.endpoint)
        return bound, connecting

    return connected


@pytest.fixture
def peer() -> Iterator[Callable[..., Process]]:
    """Start a script of `peers/`, which knows nothing but pyzmq, in a process of its own."""
    yield from starter(PEERS)

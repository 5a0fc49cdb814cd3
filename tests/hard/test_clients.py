"""A client that a thousand greenlets share, while one of the two processes that it asks is killed again and again.

`HARD_KILLS` says how often (3).
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import gevent
import gevent.subprocess
import pytest
from gevent.event import Event

from dploylib.clients import RequestClient
from dploylib.errors import ConnectionLost, RemoteError, RequestTimeout
from tests.hard.running import starved

pytestmark = pytest.mark.usefixtures("leak_check")

ROOT = Path(__file__).parent.parent.parent
TARGET = Path(__file__).with_name("client_target.py")
PATIENCE = 30.0  # seconds; an upper bound for what comes at once, on a loaded machine too
GREENLETS = 1000
KILLS = int(os.environ.get("HARD_KILLS", "3"))


class Target:
    """`client_target.py` at an endpoint that stays the same."""

    def __init__(self) -> None:
        self.endpoint = "tcp://127.0.0.1:*"
        self.pids: list[int] = []
        self.start()

    def start(self) -> None:
        self.process = gevent.subprocess.Popen(
            [sys.executable, TARGET, self.endpoint],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        with gevent.Timeout(PATIENCE, AssertionError("the target did not start")):
            self.endpoint = self.process.stdout.readline().decode().strip()
        self.pids.append(self.process.pid)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def targets():
    both = [Target(), Target()]
    yield both
    for one in both:
        one.kill()


def clock() -> float:
    """A clock that stands still while this process has no processor, which others may use too."""
    return time.monotonic() - sum(starved(os.getpid()).values())


@pytest.mark.timeout(40 + 10 * KILLS)
def test_nothing_is_mixed_up_or_kept_waiting_when_a_service_is_killed(targets, wait_until):
    """Every idempotent request succeeds; every other one does, or fails with a reason within a second of the cut."""
    answered, failures = Counter(), []
    cut_at = [0.0]
    done = Event()

    def ask(number: int) -> None:
        idempotent = number % 2 == 0
        sequence = 0
        while not done.is_set():
            sequence += 1
            text = f"{number}-{sequence}"
            try:
                reply = client.request(text, idempotent=idempotent)
            except (ConnectionLost, RequestTimeout, RemoteError) as error:
                failures.append((idempotent, error, clock() - cut_at[0]))
            else:
                assert reply.text == text
                answered[idempotent] += 1

    with RequestClient([one.endpoint for one in targets], timeout=PATIENCE) as client:
        callers = [gevent.spawn(ask, number) for number in range(GREENLETS)]
        victim = targets[0]
        for _ in range(KILLS):
            before = answered.total()
            wait_until(lambda before=before: answered.total() > before + GREENLETS)
            wait_until(lambda: client.endpoints[victim.endpoint].outstanding > GREENLETS / 10)
            cut_at[0] = clock()
            victim.kill()
            victim.start()
            wait_until(lambda: client.endpoints[victim.endpoint].connection == "ready")
        before = answered.total()
        wait_until(lambda: answered.total() > before + GREENLETS)
        done.set()
        gevent.joinall(callers, timeout=PATIENCE, raise_error=True)
        assert all(caller.successful() for caller in callers)
        status = client.endpoints

    assert status[victim.endpoint].connections == KILLS + 1
    assert [error for idempotent, error, _ in failures if idempotent] == []
    assert {type(error) for _, error, _ in failures} == {ConnectionLost}
    assert {error.endpoint for _, error, _ in failures} == {victim.endpoint}
    assert max(seconds for _, _, seconds in failures) < 1
    assert answered[True] > GREENLETS
    assert answered[False] > GREENLETS
    assert [one.outstanding for one in status.values()] == [0, 0]
    assert [one.late for one in status.values()] == [0, 0]

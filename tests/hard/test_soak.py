"""What the hard tests measure with: that it can fail, and that a short soak does not."""

import os
import signal
import subprocess
import sys
from random import Random

import gevent
import pytest

from tests.hard.running import ROOT, RunningTarget, wait_until
from tests.hard.soak import GROWTH, Soak, grown

pytestmark = pytest.mark.once("what is attacked runs in a process of its own, which decides to patch")


def test_a_short_soak_is_good():
    done = subprocess.run(
        [sys.executable, "-m", "tests.hard.soak", "--minutes", "0.05", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "good"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mebibytes", "fails"), [(0, False), (3, False), (60, True)], ids=["not at all", "a little", "a leak"]
)
def test_memory_that_grows_is_told_from_memory_that_varies(mebibytes, fails):
    random = Random(1)
    samples = [40 * 2**20 + second * mebibytes * 2**20 // 600 + random.randrange(2**20) for second in range(600)]
    samples[:60] = [20 * 2**20] * 60
    assert (grown(samples) > GROWTH) is fails


def test_a_soak_fails_when_the_service_ends(tmp_path):
    target = RunningTarget(tmp_path)
    try:
        soak = Soak(target, "1")

        def kill():
            wait_until(lambda: soak.did["good"] > 100)
            os.kill(target.pid, signal.SIGKILL)

        gevent.spawn(kill)
        assert soak.run(60)
    finally:
        target.end()


def test_a_service_that_does_not_answer_is_not_well(start_target):
    """Which is what all the hard tests rest upon."""
    target = start_target()
    target.still_well()
    os.kill(target.pid, signal.SIGSTOP)
    with pytest.raises(AssertionError, match="no answer within"):
        target.still_well()
    os.kill(target.pid, signal.SIGCONT)
    target.still_well()

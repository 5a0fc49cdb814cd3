"""Those who have no key: ten thousand connections held open, and handshakes that are none, for `HARD_SECONDS` (2).

Clients who have one keep asking meanwhile, see `siege.py`, which also measures how long they wait.
"""

import os
import resource
from collections import Counter

import pytest

from tests.hard.running import wait_until
from tests.hard.siege import ATTACKS, DESCRIPTORS, HELD, SECURED, Besieged
from tests.hard.soak import GROWTH

pytestmark = pytest.mark.once("what is attacked runs in a process of its own, which decides to patch")

SECONDS = float(os.environ.get("HARD_SECONDS", "2"))
LARGEST_LOG = 100_000  # octets of a log with some lines a second; one for each refusal would have some millions
EVERYBODY = ATTACKS["all of it"]


@pytest.fixture
def besieged(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"{HELD} connections need {DESCRIPTORS} descriptors, and the hard limit is {hard} (ulimit -Hn)")
    besieged = Besieged(tmp_path)
    yield besieged
    besieged.target.end()


@pytest.mark.timeout(240 + 3 * SECONDS)
def test_a_siege_keeps_nobody_waiting_in_vain_and_leaves_nothing_behind(besieged):
    """Twice the same: what the allocators keep, they have after the first time."""
    target = besieged.target
    before = target.settled()

    def refusals():
        return Counter(target.state()["refusals"][SECURED])

    def lay_siege(seconds):
        before_it = refusals()
        with besieged.attacked(EVERYBODY) as put_out:
            wait_until(lambda: target.descriptors() > before + HELD)
            assert len(besieged.ask_for(seconds)) > 0  # each was answered, and rightly
            target.still_well()
            # On a busy machine the intruders, who come last, may take their time.
            for reason in ("too many connections from this address", "key not authorized"):
                wait_until(lambda reason=reason: refusals()[reason] > before_it[reason])
        # Who came too often, or with a key that nobody knows, has been counted each time; so has most of what was none.
        counted = [count for (kind, _, _), count in zip(EVERYBODY, put_out, strict=True) if kind != "fuzz"]
        assert min(counted) >= 0
        wait_until(lambda: refusals().total() - before_it.total() > sum(counted))
        wait_until(lambda: target.descriptors() <= before)
        target.state("collect")
        return target.resident()

    warm = lay_siege(SECONDS / 2)
    greenlets = target.state()["greenlets"]
    assert lay_siege(SECONDS) - warm < GROWTH
    assert len(besieged.ask_for(0.2)) > 0
    wait_until(lambda: target.state()["greenlets"] <= greenlets)
    assert target.log.stat().st_size < LARGEST_LOG, target.last_log()
    assert "Traceback" not in target.log.read_text()

"""Many connections: in a burst, in turn, and more than there are file descriptors for."""

import resource

import gevent
import pytest
from gevent.pool import Pool

from tests.hard.running import ask, wait_until
from tests.hard.zmtp import Connection

pytestmark = pytest.mark.once("what is attacked runs in a process of its own, which decides to patch")

BURST = 2000
SPARE = 200  # descriptors for everything else
WARM_UP, ROUNDS = 1000, 3000
AT_ONCE = 20


@pytest.fixture
def many_descriptors():
    """As many as the burst takes, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = BURST + SPARE
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{BURST} connections need {needed} file descriptors, and the hard limit is {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["rep", "pool"])
def test_a_burst_of_connections_is_served_while_all_of_them_stay_open(many_descriptors, start_target, name):
    target = start_target()
    before = target.settled()
    connections = []

    def come(number):
        connection = Connection(target.endpoints[name]).shake_hands("REQ")
        connections.append(connection)
        body = b"%d" % number
        assert connection.ask([b"", b"", b"text/plain", body]) == [b"", b"", b"text/plain", body]

    gevent.joinall([gevent.spawn(come, number) for number in range(BURST)], raise_error=True)
    assert len(connections) == BURST
    assert target.descriptors() >= before + BURST
    target.still_well()
    for connection in connections:
        connection.close()
    target.still_well()
    wait_until(lambda: target.descriptors() <= before)


def test_connections_that_come_and_go_leave_no_descriptor_and_no_memory_behind(target):
    """Each asks something; a third of them goes away before the answer.

    Memory is compared after a warm-up, in which the allocators get what they keep. 3,000 more connections may leave
    2 MiB: 700 octets each, where the smallest thing that could leak with one, a pipe of libzmq, has several KiB.
    """
    before = target.settled()

    def come_and_go(number):
        name, socket_type = [("rep", "REQ"), ("pool", "REQ"), ("router", "DEALER")][number % 3]
        connection = Connection(target.endpoints[name]).shake_hands(socket_type)
        envelope = [b"", b"", b"text/plain", b"%d" % number]
        if number // 3 % 3:
            assert connection.ask(envelope) == envelope
        connection.close()

    def churn(count):
        pool = Pool(AT_ONCE)
        for _ in pool.imap_unordered(come_and_go, range(count)):
            pass
        target.still_well()
        target.state("collect")
        wait_until(lambda: target.descriptors() <= before)
        return target.resident()

    warm = churn(WARM_UP)
    greenlets = target.state()["greenlets"]
    grown = churn(ROUNDS) - warm
    assert grown < 2 * 2**20
    assert target.state()["greenlets"] <= greenlets
    assert target.settled() == before


@pytest.mark.parametrize("kind", ["silent", "shaking hands"])
def test_without_descriptors_for_more_connections_those_that_are_there_are_served(start_target, kind):
    """accept() fails with EMFILE meanwhile. When the others have gone, whoever comes is served."""
    target = start_target(descriptors=100)
    before = target.settled()
    with target.peer("req", "rep") as peer:
        assert ask(peer, b"", b"text/plain", b"first")[-1] == b"first"
        connections = [Connection(target.endpoints["pool"]) for _ in range(120)]
        if kind == "shaking hands":
            for connection in connections[:20]:
                connection.shake_hands("REQ")
        wait_until(lambda: target.descriptors() >= 99)
        for number in range(100):
            assert ask(peer, b"", b"text/plain", b"%d" % number)[-1] == b"%d" % number
        for connection in connections:
            connection.close()
        target.still_well()
    wait_until(lambda: target.descriptors() <= before)
    target.still_well()

"""Garbage over TCP, against every socket of a service: it goes on, and serves good peers meanwhile.

`HARD_SEED` chooses the garbage, `HARD_CONNECTIONS` how much of it there is. `soak.py` sends the same for longer.
"""

import os
from collections import Counter
from random import Random

import gevent
import pytest

from tests.hard.garbage import AFTER_THE_HANDSHAKE, BEFORE_THE_HANDSHAKE, GOOD, broken_metadata, no_envelope
from tests.hard.running import SOCKETS, wait_until
from tests.hard.zmtp import GREETING, Connection, message, ready

pytestmark = pytest.mark.once("what is attacked runs in a process of its own, which decides to patch")

SEED = os.environ.get("HARD_SEED", "0")
CONNECTIONS = int(os.environ.get("HARD_CONNECTIONS", "8"))  # for each kind of garbage
# Which sockets of the target take peers of a type.
PEERS = {
    "REQ": ("rep", "pool", "router", "objects"),
    "DEALER": ("rep", "pool", "router", "dealer", "objects"),
    "PUSH": ("pull",),
    "PUB": ("sub",),
    "SUB": ("news", "feed"),
    "XSUB": ("news", "feed"),
}
ATTACKED = [name for name in SOCKETS if name not in ("state", "timed")]


@pytest.fixture
def random(request) -> Random:
    """The same for the same seed and test."""
    return Random(f"{SEED} {request.node.name}")


@pytest.fixture
def target(shared_target):
    return shared_target


@pytest.fixture
def attack(target):
    """`attack(name, data)`: a connection to a socket of the target, over which that was sent; it stays open."""
    connections = []

    def attack(name, data, socket_type=None):
        connection = Connection(target.endpoints[name])
        connections.append(connection)
        if socket_type is not None:
            connection.shake_hands(socket_type)
        connection.send(data)
        return connection

    yield attack
    target.still_well()  # while all of them are there
    for connection in connections:
        connection.close()
    target.still_well()
    wait_until(lambda: target.descriptors() <= target.quiet)


@pytest.mark.parametrize("garbage", BEFORE_THE_HANDSHAKE, ids=lambda garbage: garbage.__name__)
def test_what_is_no_zmtp_disturbs_nobody(target, attack, random, garbage):
    for _ in range(CONNECTIONS):
        for name in ATTACKED:
            attack(name, garbage(random))
    target.still_well()


@pytest.mark.parametrize("garbage", AFTER_THE_HANDSHAKE, ids=lambda garbage: garbage.__name__)
def test_garbage_of_who_is_a_peer_disturbs_nobody(target, attack, random, garbage):
    for _ in range(CONNECTIONS):
        for socket_type, names in PEERS.items():
            attack(random.choice(names), garbage(random), socket_type)
    target.still_well()


def test_a_good_peer_is_served_while_garbage_comes(target, attack, random):
    """A connection that was there before, and others that come: each of them gets the answer to its own request."""
    done = []

    def flood():
        for _ in range(CONNECTIONS * 10):
            socket_type = random.choice(list(PEERS))
            attack(random.choice(PEERS[socket_type]), random.choice(AFTER_THE_HANDSHAKE)(random), socket_type)
            gevent.sleep(0)
        done.append(True)

    flooding = gevent.spawn(flood)
    with target.peer("req", "pool") as peer:
        asked = 0
        while not done or asked < 100:
            body = b"request %d" % asked
            peer.send_multipart([b"", b"text/plain", body])
            assert peer.recv_multipart() == [b"", b"text/plain", body]
            asked += 1
            target.still_well()
    flooding.get()


def test_who_says_nothing_or_not_all_of_it_is_in_nobodys_way(target, attack):
    """Half-open connections: at every octet of the greeting, of READY and of a message."""
    everything = GREETING + ready("REQ") + GOOD
    for end in range(len(everything)):
        attack("rep", everything[:end])
    target.still_well()
    counts = target.counts("rep")
    assert counts["received"] == counts["handled"]


def test_every_malformed_request_is_answered_on_its_own_connection(target, attack, random):
    """By a DEALER: the first empty frame ends the route, as with a REP; what is no envelope is a problem."""
    kinds = Counter()
    connection = attack("pool", b"", "DEALER")
    for number in range(CONNECTIONS * 25):
        route = b"route %d" % number
        answer = connection.ask([route, b"", *no_envelope(random)])
        assert answer[:2] == [route, b""]
        kinds[answer[-2]] += 1
    assert kinds[b"application/problem+json"] > 0
    assert connection.ask([b"", b"", b"text/plain", b"good"]) == [b"", b"", b"text/plain", b"good"]


def test_metadata_that_cannot_be_read_never_keeps_a_request_from_its_answer(target, attack, random):
    """Each comes back as it was; one that says that the caller has given up gets a problem."""
    connection = attack("pool", b"", "DEALER")
    for _ in range(CONNECTIONS * 25):
        metadata = broken_metadata(random)
        answer = connection.ask([metadata, b"", b"", b"text/plain", b"good"])
        assert answer[:3] == [metadata, b"", b""]
        assert (answer[3:] == [b"text/plain", b"good"]) or b"deadline-exceeded" in answer[-1]


def test_a_subscriber_with_nonsense_takes_nothing_away_from_another(target, attack, random):
    good = attack("news", b"", "SUB")
    good.send(message([b"\x01tick"]))
    assert good.receive()[0] == b"tick"
    for _ in range(CONNECTIONS):
        attack("news", b"\x00" + random.randbytes(5), "SUB")
        attack("news", message([b"\x00tick"]) * 10, "SUB")  # takes back what it never said
    for _ in range(20):
        assert good.receive()[0] == b"tick"

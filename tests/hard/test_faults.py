"""What happens to peers, networks, clocks and disks: the service goes on, and loses only what was on its way."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from itertools import product
from pathlib import Path

import gevent
import pytest

from tests.hard.running import PATIENCE, ask, wait_until
from tests.hard.zmtp import GREETING, Connection, message, ready

pytestmark = pytest.mark.once("what is attacked runs in a process of its own, which decides to patch")

HERE = Path(__file__).parent
HEARTBEATS = {"heartbeat_ivl": 100, "heartbeat_timeout": 300}  # milliseconds
HOUR, DAY = 3600, 86400


@pytest.fixture
def start_peer():
    """`start_peer(target, "req", "pool")`: a peer in a process of its own, and a function that has it say something."""
    peers = []

    def start(target, socket_type, name):
        peer = subprocess.Popen(
            [sys.executable, str(HERE / "peers.py"), socket_type, target.endpoints[name]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        peers.append(peer)

        def say(line):
            peer.stdin.write(f"{line}\n")
            peer.stdin.flush()

        return peer, say

    yield start
    for peer in peers:
        peer.kill()
        peer.communicate()


def heard(target, what):
    return target.state()["heard"].get(what, 0)


# Peers ---------------------------------------------------------------------------------------------------------


def test_peers_that_are_killed_in_the_middle_of_their_requests_cost_nobody_else_anything(target, start_peer):
    before = target.settled()
    for count in range(1, 4):
        peer, say = start_peer(target, "req", "pool")
        say("hold")
        wait_until(lambda count=count: heard(target, "hold") == count)
        peer.kill()
    wait_until(lambda: target.descriptors() <= before)  # it has noticed
    target.still_well()
    target.state("release")
    wait_until(lambda: target.counts("pool")["undelivered"] == 3)
    assert target.counts("pool")["handled"] == 3
    target.still_well()


def test_a_peer_that_is_frozen_for_longer_than_a_heartbeat_is_let_go_and_taken_back(start_target, start_peer):
    target = start_target(options=HEARTBEATS)
    peer, say = start_peer(target, "req", "pool")
    say("good")
    assert peer.stdout.readline() == "good\n"
    before = target.settled()
    os.kill(peer.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: target.descriptors() < before)
        target.still_well()
    finally:
        os.kill(peer.pid, signal.SIGCONT)
    wait_until(lambda: target.descriptors() == before)
    say("good again")
    assert peer.stdout.readline() == "good again\n"


def test_a_frozen_peer_whose_request_is_at_work_does_not_get_in_the_way(start_target, start_peer):
    target = start_target(options=HEARTBEATS)
    peer, say = start_peer(target, "req", "pool")
    say("hold")
    wait_until(lambda: heard(target, "hold") == 1)
    before = target.settled()
    os.kill(peer.pid, signal.SIGSTOP)
    wait_until(lambda: target.descriptors() < before)
    target.state("release")
    wait_until(lambda: target.counts("pool")["undelivered"] == 1)
    target.still_well()


def test_a_service_that_was_frozen_itself_serves_who_waited(target):
    os.kill(target.pid, signal.SIGSTOP)
    with target.peer("req", "rep") as peer, target.peer("push", "pull") as pusher:
        peer.send_multipart([b"", b"text/plain", b"pid"])
        for _ in range(100):
            pusher.send_multipart([b"good", b"text/plain", b""])
        os.kill(target.pid, signal.SIGCONT)
        with gevent.Timeout(PATIENCE):
            assert peer.recv_multipart()[-1] == b"%d" % target.pid
        wait_until(lambda: heard(target, "good") == 100)
    target.still_well()


# Networks ------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_anywhere_in_a_multipart_message_leaves_nothing_of_it(target):
    whole = message([b"good", b"text/plain", b"x" * 300])
    before = target.settled()
    cuts = range(0, len(whole), 3)
    for end in cuts:
        connection = Connection(target.endpoints["pull"]).shake_hands("PUSH")
        connection.send(whole + whole[:end])
        connection.close()
    wait_until(lambda: target.counts("pull")["received"] >= len(cuts))
    target.still_well()
    wait_until(lambda: target.descriptors() <= before)
    counts = target.counts("pull")
    assert (counts["received"], counts["malformed"]) == (len(cuts), 0)


@pytest.mark.parametrize("name", ["rep", "pool", "router"])
def test_a_proxy_that_cuts_requests_or_replies_takes_only_those_with_it(target, proxy, name):
    """Its DEALER connects again by itself, and what it asks next is answered."""
    between = proxy(target.endpoints[name])
    body = b"x" * 1000
    with target.peer("dealer", name, between.endpoint, reconnect_ivl=10) as peer:
        envelope = [b"", b"", b"text/plain"]
        assert ask(peer, *envelope, b"first") == [*envelope, b"first"]
        for number, (way, after) in enumerate(product(("up", "down"), (1, 2, 20, 500, 1017)), start=1):
            between.cut_after(**{way: after})
            peer.send_multipart([*envelope, body])
            wait_until(lambda number=number: between.cuts == number)
            target.still_well()
            wait_until(lambda number=number: between.connections > number)
            good = b"good %d" % number
            peer.send_multipart([*envelope, good])
            with gevent.Timeout(PATIENCE, TimeoutError("no answer over the new connection")):
                while (answer := peer.recv_multipart()) != [*envelope, good]:
                    assert answer == [*envelope, body]  # of which all had come before the cut
    assert target.counts(name)["malformed"] == 0


def test_a_connection_that_stalls_is_let_go_after_a_heartbeat_and_others_are_served(start_target, proxy):
    target = start_target(options=HEARTBEATS)
    between = proxy(target.endpoints["pool"])
    with target.peer("req", "pool", between.endpoint) as peer:
        assert ask(peer, b"", b"text/plain", b"good")[-1] == b"good"
        before = target.settled()
        between.stall()
        wait_until(lambda: target.descriptors() < before)
        target.still_well()
        between.resume()
        wait_until(lambda: between.connections == 2)
        assert ask(peer, b"", b"text/plain", b"good again")[-1] == b"good again"


def test_a_slow_network_is_only_slow(target, proxy):
    between = proxy(target.endpoints["rep"])
    between.delay = 0.02
    with target.peer("req", "rep", between.endpoint) as peer:
        for number in range(5):
            assert ask(peer, b"", b"text/plain", b"%d" % number)[-1] == b"%d" % number
            target.still_well()


def test_a_subscriber_that_reads_nothing_takes_nothing_from_another(start_target):
    target = start_target(options={"sndhwm": 10, "sndbuf": 4096})
    with target.peer("sub", "news", subscribe=b"tick") as good:
        stalled = [Connection(target.endpoints["news"]).shake_hands("SUB") for _ in range(10)]
        for connection in stalled:
            connection.send(message([b"\x01tick"]))
        with gevent.Timeout(PATIENCE):
            for _ in range(50):
                assert good.recv_multipart()[0] == b"tick"
        target.still_well()
    for connection in stalled:
        connection.close()
    target.still_well()


def test_a_connection_that_is_reset_in_the_middle_is_like_one_that_is_closed(target):
    """SO_LINGER of 0 seconds: the kernel answers with RST."""
    before = target.settled()
    for beginning in (b"", GREETING[:5], GREETING, GREETING + ready("REQ"), GREETING + ready("REQ") + b"\x01\x00\x01"):
        for name in ("rep", "pool", "router", "pull", "news"):
            connection = Connection(target.endpoints[name])
            connection.send(beginning)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    target.still_well()
    wait_until(lambda: target.descriptors() <= before)


# Clocks --------------------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of a target: every function of C's library that tells it, or only that of Python."""

    def __init__(self, directory, everywhere):
        self.environment = {}
        self.target = None
        if everywhere:
            compiler = shutil.which("cc")
            if compiler is None:
                pytest.skip("there is no C compiler to make a clock that jumps")
            library = directory / "clock.so"
            command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "clock.c"), "-ldl"]
            subprocess.run(command, check=True)
            self.file = directory / "clock"
            self.file.write_bytes(bytes(8))
            self.environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self.file)}

    def jump(self, seconds):
        if self.environment:
            with self.file.open("r+b") as file:
                file.write(struct.pack("q", seconds))
        else:
            self.target.state(f"jump {seconds}")


@pytest.mark.parametrize("everywhere", [True, False], ids=["all clocks", "time.time"])
def test_a_clock_that_jumps_ends_no_handler_and_stops_nothing_that_is_periodic(start_target, tmp_path, everywhere):
    clock = Clock(tmp_path, everywhere)
    target = clock.target = start_target(options=HEARTBEATS, environment=clock.environment)
    began = target.state()["time"]
    with target.peer("req", "timed") as peer:
        peer.send_multipart([b"", b"text/plain", b"hold"])  # the handler has 1000 seconds
        wait_until(lambda: heard(target, "hold") == 1)
        before = target.settled()
        for seconds in (DAY, 0, -DAY, 0, 30 * DAY, -30 * DAY, HOUR):
            clock.jump(seconds)
            state = target.state()
            assert abs(state["time"] - began - seconds) < HOUR / 2, "the clock has not jumped"
            wait_until(lambda ticks=state["ticks"]: target.state()["ticks"] > ticks + 5)
            assert target.ask("pool", b"sleep")[-1] == b"sleep"
            target.still_well()
        assert target.settled() == before  # no heartbeat was missed
        assert not peer.poll(0)
        target.state("release")
        assert peer.recv_multipart()[-1] == b"released"
    assert target.counts("timed")["timed_out"] == 0
    assert target.stop() == 0


# Disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["stderr", "a log file", "both"])
def test_a_service_whose_log_is_on_a_full_disk_goes_on(start_target, full):
    with open("/dev/full", "wb", buffering=0) as disk:
        stderr = None if full == "a log file" else disk
        environment = {} if full == "stderr" else {"TARGET_LOG": "/dev/full"}
        target = start_target(stderr=stderr, environment=environment)
        for _ in range(20):
            assert b"urn:dploylib:handler-failed" in target.ask("pool", b"fail")[-1]  # with a traceback for the log
            assert b"urn:dploylib:undecodable-data" in target.ask("objects", b"{", b"application/json")[-1]
        target.still_well()
        assert target.counts("pool")["failed"] == 20
        assert target.stop() == 0

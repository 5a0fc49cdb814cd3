"""Messages that are no envelopes: who sent one is told so where that is possible, and the next good one is served."""

import logging
import re
import time

import pytest

from dploylib.servers import declare
from dploylib.transport import complaints
from tests.hard.zmtp import Connection, message
from tests.servers.echo import Echo


class Everything(Echo):
    def pull(self, socket, received):
        self.pulled = received.text


MALFORMED = {
    "one frame": ([b"x"], "frame|delimiter"),
    "two frames": ([b"x", b"y"], "frames|delimiter"),
    "four frames": ([b"a", b"b", b"c", b"d"], "frames|delimiter"),
    "a delimiter that is not empty": ([b"route", b"delimiter", b"i", b"m", b"b"], "empty delimiter"),
    "an id that is not UTF-8": ([b"\xff", b"m", b"b"], "the id is not UTF-8"),
    "a mimetype that is not UTF-8": ([b"i", b"\xff", b"b"], "the mimetype is not UTF-8"),
    "10,000 frames": ([b"x"] * 10_000, "256"),
}
# The socket of the server, its concurrency, the peer, and what the peer puts in front of everything.
WAYS = {
    "rep from req": ("rep", 1, "req", []),
    "rep from dealer": ("rep", 1, "dealer", [b"hop", b""]),
    "concurrent rep from req": ("rep", 10, "req", []),
    "concurrent rep from dealer": ("rep", 10, "dealer", [b"hop", b""]),
    "router from req": ("router", 1, "req", []),
    "router from dealer": ("router", 1, "dealer", [b"hop", b""]),
    "concurrent router": ("router", 10, "dealer", [b""]),
    "dealer": ("dealer", 1, "dealer", []),
    "pair": ("pair", 1, "pair", []),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_sends_something_malformed_is_told_and_the_next_good_message_is_served(serve, peer, way, caplog):
    name, concurrency, kind, front = WAYS[way]
    server = serve(Everything, **{name: {"concurrency": concurrency}})
    client = peer(kind, server.endpoints[name][0])
    for frames, detail in MALFORMED.values():
        reply = client.ask(*front, *frames)
        problem = client.problem_in(reply)
        assert (problem["status"], problem["type"]) == (400, "urn:dploylib:malformed-envelope")
        assert re.search(detail, problem["detail"])
        assert reply[: len(front)] == front, "the reply lost its way back"
        assert client.ask(*front, b"i", b"m", b"good") == [*front, b"i", b"m", b"good"]
    counts = server.counts[name]
    assert (counts.malformed, counts.received) == (len(MALFORMED), 2 * len(MALFORMED))
    assert counts.failed == counts.undelivered == 0


@pytest.mark.parametrize("concurrency", [1, 10])
@pytest.mark.parametrize("kind", ["router", "rep"])
def test_a_dealer_that_forgets_the_delimiter_is_told(serve, peer, kind, concurrency):
    """The delimiter that is missing comes with the reply."""
    server = serve(Everything, **{kind: {"concurrency": concurrency}})
    client = peer("dealer", server.endpoints[kind][0])
    for frames in ([b"x"], [b"i", b"m"], [b"i", b"m", b"b"], [b"a", b"b", b"c", b"d"]):
        reply = client.ask(*frames)
        assert reply[0] == b""
        assert "delimiter" in client.problem_in(reply)["detail"]
    assert server.counts[kind].malformed == 4
    assert client.ask(b"", b"i", b"m", b"good")[-1] == b"good"


def test_who_sends_no_delimiter_and_is_gone_takes_nobody_elses_reply(serve, peer):
    """libzmq's own REP drops the reply to the next good request (rep.cpp, router_t::rollback)."""
    server = serve(Everything)
    endpoint = server.endpoints["rep"][0]
    for _ in range(20):
        gone = Connection(endpoint).shake_hands("DEALER")
        gone.send(message([b"no", b"delimiter"]))
        gone.close()
        assert peer("req", endpoint).ask(b"i", b"m", b"good") == [b"i", b"m", b"good"]


def test_a_pull_counts_and_logs_what_is_malformed_and_goes_on(serve, peer, wait_until, caplog):
    server = serve(Everything)
    client = peer("push", server.endpoints["pull"][0])
    for frames, _ in MALFORMED.values():
        client.send(*frames)
    client.send(b"i", b"m", b"good")
    wait_until(lambda: hasattr(server, "pulled"))
    assert server.pulled == "good"
    assert server.counts["pull"].malformed == len(MALFORMED)
    assert caplog.records[0].getMessage().startswith("tested.pull received a malformed envelope: ")
    assert caplog.records[0].levelno == logging.WARNING


def test_a_flood_is_logged_at_most_once_a_second(serve, peer, wait_until, caplog):
    server = serve(Everything)
    client = peer("push", server.endpoints["pull"][0])
    began = time.monotonic()
    for _ in range(1000):
        client.send(b"x")
    wait_until(lambda: server.counts["pull"].malformed == 1000)
    assert 1 <= len(caplog.records) <= 1 + (time.monotonic() - began)


@pytest.mark.parametrize("stopped", [False, True])
def test_the_log_says_later_how_many_were_left_out(serve, peer, wait_until, caplog, monkeypatch, stopped):
    monkeypatch.setattr(complaints, "_INTERVAL", 60 if stopped else 0.1)
    server = serve(Everything)
    client = peer("push", server.endpoints["pull"][0])
    for _ in range(50):
        client.send(b"x")
    wait_until(lambda: server.counts["pull"].malformed == 50)
    if stopped:
        serve.stop(server)
    wait_until(lambda: sum(map(_told, caplog.messages)) == 50)
    assert len(caplog.messages) <= 10


def _told(line: str) -> int:
    """How many messages a line in the log stands for."""
    match = re.search(r"tested\.pull received .* \(and (\d+) more since\)", line)
    return int(match[1]) if match else 1


def test_the_sockets_of_a_server_complain_independently(serve, peer, caplog):
    server = serve(Everything)
    for name in ("rep", "router"):
        peer("req", server.endpoints[name][0]).ask(b"x")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["tested.rep", "tested.router"]


def test_a_peer_that_sends_garbage_and_never_reads_holds_up_nobody(serve, peer, wait_until, monkeypatch):
    """Its error replies pile up at the high-water mark, and are dropped, without the patience that others have."""
    monkeypatch.setattr(declare, "_REPLY_PATIENCE", 60_000)
    options = {"sndhwm": 1, "sndbuf": 4096, "rcvhwm": 100_000}
    server = serve(Everything, rep={"concurrency": 10, "options": options})
    endpoint = server.endpoints["rep"][0]
    deaf = peer("dealer", endpoint, sndhwm=100_000, rcvhwm=1, rcvbuf=4096)
    good = peer("req", endpoint)
    counts = server.counts["rep"]
    rounds = 0
    while counts.undelivered < 1000:
        rounds += 1
        for _ in range(500):
            deaf.send(b"x", b"y")
        assert good.ask(b"i", b"m", b"good")[-1] == b"good"
    wait_until(lambda: counts.malformed == 500 * rounds)
    assert counts.received == 501 * rounds


@pytest.mark.parametrize(
    "frame",
    [
        b"DPL1",
        b"DPL1\xc1",
        b"DPL1\x93\x01\x02\x03",
        b"DPL1\x81\xa1d\xa1x",
        b"DPL1\x81\xa1z" + b"\x91" * 100_000,
        b"DPL1\x81\xa1r\xd9\x01\xff",
        b"DPL2\x81\xa1d\x00",
    ],
    ids=lambda frame: repr(frame[:12]),
)
@pytest.mark.parametrize("name", ["router", "rep"])
def test_metadata_that_cannot_be_read_is_left_alone_and_echoed(serve, peer, name, frame):
    server = serve(Everything, **{name: {"concurrency": 2}})
    client = peer("dealer", server.endpoints[name][0])
    assert client.ask(frame, b"", b"i", b"m", b"good") == [frame, b"", b"i", b"m", b"good"]

"""`ForwarderServer`: many publishers and many subscribers, who need to know one place only."""

import logging

import gevent
import pytest
import zmq

from dploylib.clients import ListeningClient
from dploylib.errors import TransientError
from dploylib.servers import Server, bind_in, connect
from dploylib.servers.generic import BroadcastServer, ForwarderServer
from dploylib.servers.generic import forwarder as module
from dploylib.services import (
    GreenletServerCoordinator,
    ProcessServerCoordinator,
    Service,
    ThreadedServerCoordinator,
)
from dploylib.testing import running
from dploylib.transport import Envelope
from tests.hard.zmtp import Connection, message

pytestmark = pytest.mark.usefixtures("leak_check")

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
MOMENT = 1e-9  # seconds; a sleep of 0 would let file descriptors starve for 100 turns


@pytest.fixture
def forwarder(serve):
    return serve(ForwarderServer)


@pytest.fixture
def publisher(peer):
    """`publisher(forwarder)`: a bare XPUB, which is told of subscriptions."""
    return lambda forwarder, **options: peer("xpub", forwarder.sockets["in"].endpoint, **options)


@pytest.fixture
def subscriber(peer):
    """`subscriber(forwarder, b"id")`: a bare SUB."""
    return lambda forwarder, id, **options: peer("sub", forwarder.sockets.out.endpoint, subscribe=id, **options)


class Feed(Server):
    """Publishes what it is asked to."""

    out = connect("out", "pub")

    @bind_in("request", "rep")
    def publish(self, socket, received):
        self.sockets.out.send_text(received.text, id=received.id)
        return "published"


# Messages --------------------------------------------------------------------------------------------------------


def test_all_subscribers_get_what_all_publishers_publish_in_the_order_of_each(forwarder, publisher, subscriber):
    publishers = [publisher(forwarder) for _ in range(3)]
    subscribers = [subscriber(forwarder, b"") for _ in range(3)]
    subscribers[0].zmq_socket.subscribe(b"last")
    for one in publishers:
        assert sorted(one.receive() for _ in range(2)) == [[b"\1"], [b"\1last"]]
    # The others have subscribed as well when they get something.
    for one in subscribers[1:]:
        one.zmq_socket.subscribe(subscription := b"sync %d" % id(one))
        for each in publishers:
            assert each.receive() == [b"\1" + subscription]
    for number in range(300):
        for name, one in enumerate(publishers):
            one.send(b"%d" % name, b"%d" % number)
    for one in subscribers:
        got = [one.receive() for _ in range(900)]
        for name in range(3):
            assert [int(body) for id, body in got if id == b"%d" % name] == list(range(300))


@pytest.mark.parametrize(
    "frames",
    [
        [b"one"],
        [b""],
        [b"a", b"", b"\xff", b""],
        [b"id", b"mimetype", b"x" * 1_000_000],
        [b"y" * 200_000, b"z" * 200_000],
        [b"%d" % number for number in range(256)],
    ],
    ids=["one frame", "an empty one", "no envelope", "a large body", "large frames", "as many frames as may be"],
)
def test_messages_pass_as_they_are(forwarder, publisher, subscriber, frames):
    one, listening = publisher(forwarder), subscriber(forwarder, b"")
    one.receive()
    one.send(*frames)
    assert listening.receive() == frames


def test_what_has_too_many_frames_is_refused_and_told(serve, publisher, subscriber, caplog, monkeypatch):
    monkeypatch.setattr(module, "_COMPLAINT_INTERVAL", 3600)
    forwarder = serve(ForwarderServer, **{"in": {"max_frames": 3}})
    one, listening = publisher(forwarder), subscriber(forwarder, b"")
    one.receive()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            one.send(b"1", b"2", b"3", b"4")
        one.send(b"1", b"2", b"3")
        assert listening.receive() == [b"1", b"2", b"3"]
    assert forwarder.refused == 3
    assert [record.message for record in caplog.records] == [
        "server tested did not pass on a message: malformed envelope: more than the 3 frames that are taken (1 in all)"
    ]


def test_a_lack_of_memory_costs_a_message_and_not_the_server(forwarder, publisher, subscriber, monkeypatch):
    one, listening = publisher(forwarder), subscriber(forwarder, b"")
    one.receive()
    send = forwarder.sockets.out.send_frames

    def fail_for_a(frames):
        if frames[0] == b"a":
            raise TransientError("no memory")
        send(frames)

    monkeypatch.setattr(forwarder.sockets.out, "send_frames", fail_for_a)
    for id in (b"a", b"b"):
        one.send(id)
    assert listening.receive() == [b"b"]
    assert forwarder.refused == 1


def test_a_slow_subscriber_loses_messages_and_holds_up_nobody(serve, publisher, subscriber):
    forwarder = serve(ForwarderServer, out={"options": {"sndhwm": 10, "sndbuf": 4096}})
    one = publisher(forwarder)
    slow, quick = subscriber(forwarder, b"", rcvhwm=1, rcvbuf=4096), subscriber(forwarder, b"")
    one.receive()
    slow.zmq_socket.subscribe(b"slow")
    quick.zmq_socket.subscribe(b"quick")
    assert sorted(one.receive() for _ in range(2)) == [[b"\1quick"], [b"\1slow"]]
    for number in range(500):
        one.send(b"%d" % number, bytes(20_000))
        assert quick.receive()[0] == b"%d" % number
    assert forwarder.sockets.out.dropped > 0


def test_a_flood_of_messages_lets_subscriptions_through_and_others_run(forwarder, publisher, subscriber, spawn):
    turns = 0

    def run():
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(MOMENT)

    def flood(one):
        while True:
            for _ in range(500):
                one.send(b"flood")
            gevent.sleep(MOMENT)

    one = publisher(forwarder)
    subscriber(forwarder, b"flood")
    assert one.receive() == [b"\1flood"]
    spawn(flood, one)
    spawn(run)
    other = publisher(forwarder)
    assert other.receive() == [b"\1flood"]
    for number in range(5):
        before = turns
        late = subscriber(forwarder, b"%d" % number)
        assert other.receive() == [b"\1%d" % number]
        other.send(b"%d" % number, b"through")
        assert late.receive() == [b"%d" % number, b"through"]
        assert turns > before


# Subscriptions ---------------------------------------------------------------------------------------------------


def test_publishers_hear_of_the_first_subscription_to_an_id_and_of_the_end_of_the_last(
    forwarder, publisher, subscriber
):
    one = publisher(forwarder)
    first = subscriber(forwarder, b"a")
    assert one.receive() == [b"\1a"]
    second = subscriber(forwarder, b"a")
    second.zmq_socket.subscribe(b"b")
    assert one.receive() == [b"\1b"]
    first.zmq_socket.close()
    second.zmq_socket.unsubscribe(b"b")
    assert one.receive() == [b"\0b"]
    second.zmq_socket.unsubscribe(b"a")
    assert one.receive() == [b"\0a"]


def test_the_subscriptions_of_a_subscriber_that_is_killed_end(forwarder, publisher, process):
    one = publisher(forwarder)
    listening = process("listen.py", forwarder.sockets.out.endpoint, "a", "b")
    assert sorted(one.receive() for _ in range(2)) == [[b"\1a"], [b"\1b"]]
    one.send(b"a", b"hello")
    assert listening.line() == "hello"
    listening.kill()
    assert sorted(one.receive() for _ in range(2)) == [[b"\0a"], [b"\0b"]]


def test_a_publisher_that_comes_late_hears_of_all_subscriptions_that_there_are(forwarder, publisher, subscriber):
    first = publisher(forwarder)
    listening = subscriber(forwarder, b"a")
    listening.zmq_socket.subscribe(b"b")
    listening.zmq_socket.unsubscribe(b"a")
    assert [first.receive() for _ in range(3)] == [[b"\1a"], [b"\1b"], [b"\0a"]]
    late = publisher(forwarder)
    assert late.receive() == [b"\1b"]
    late.send(b"b", b"from the late one")
    assert listening.receive() == [b"b", b"from the late one"]


def test_no_subscription_is_lost_while_a_publisher_reads_nothing(serve, publisher, subscriber, wait_until):
    forwarder = serve(ForwarderServer, **{"in": {"options": {"sndbuf": 4096}}})
    listening = subscriber(forwarder, b"a", sndhwm=0)
    other = publisher(forwarder)
    assert other.receive() == [b"\1a"]
    with zmq.Context() as blocking, blocking.socket(zmq.XPUB) as deaf:  # a green one would read ahead
        deaf.set(zmq.RCVHWM, 1)
        deaf.set(zmq.RCVBUF, 4096)
        deaf.connect(forwarder.sockets["in"].endpoint)
        wait_until(lambda: deaf.poll(0))
        assert deaf.recv() == b"\1a"
        ids = [b"%d/" % number + bytes(200) for number in range(3000)]
        for id in ids:
            listening.zmq_socket.subscribe(id)
        assert [other.receive() for _ in ids] == [[b"\1" + id] for id in ids]
        deaf.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
        assert [deaf.recv() for _ in ids] == [b"\1" + id for id in ids]


def test_nothing_but_subscriptions_goes_to_publishers(forwarder, publisher, wait_until):
    one = publisher(forwarder)
    liar = Connection(forwarder.sockets.out.endpoint).shake_hands("xsub")
    try:
        for frames in ([b"text"], [b""], [b"\2"], [b"text", b"text"], [b"x" * 100_000], [b"\1a"]):
            liar.send(message(frames))
        assert one.receive() == [b"\1a"]
        liar.send(message([b"\1" + b"y" * 100_000]))
        assert one.receive() == [b"\1" + b"y" * 100_000]
    finally:
        liar.close()
    assert sorted(one.receive()[0][:2] for _ in range(2)) == [b"\0a", b"\0y"]


@pytest.mark.parametrize(
    "coordinator", [GreenletServerCoordinator, ThreadedServerCoordinator, ProcessServerCoordinator]
)
def test_subscriptions_are_confirmed_through_it_wherever_it_runs(coordinator):
    service = Service(coordinator=coordinator())
    service.add_server("forwarder", ForwarderServer)
    service.add_server("feed", Feed)
    config = {
        "servers": {
            "forwarder": {"in": {"uri": "tcp://127.0.0.1:14445"}, "out": {"uri": "tcp://127.0.0.1:*"}},
            "feed": {"out": {"uri": "tcp://127.0.0.1:14445"}, "request": {"uri": "tcp://127.0.0.1:*"}},
        }
    }
    with running(service, config) as it:
        listening = ListeningClient(it.endpoint("forwarder.out"), ["a", "b"])
        try:
            while not listening.wait_connected():  # the publisher may not be connected yet
                pass
            for id in ("c", "b", "a"):
                assert it.client("feed.request").request("news", id=id).text == "published"
            assert [listening.receive(timeout=10).id for _ in range(2)] == ["b", "a"]
        finally:
            listening.close()


def test_a_broadcast_server_may_publish_to_it(forwarder, serve, subscriber, wait_until):
    class Connected(BroadcastServer):
        out = connect("out", "xpub", options={"xpub_verboser": True})

    server = serve(Connected, out={"uri": forwarder.sockets["in"].endpoint})
    listening = [subscriber(forwarder, b"a") for _ in range(2)]
    wait_until(lambda: server.subscribers.by_id == {b"a": 1})
    server.publish(Envelope("a", "text/plain", "news"))
    assert listening[0].receive() == [b"a", b"text/plain", b"news"]
    for one in listening:
        one.zmq_socket.close()
    wait_until(lambda: server.subscribers.total == 0)


# The end ---------------------------------------------------------------------------------------------------------


def test_what_has_come_in_when_it_stops_is_passed_on(serve, subscriber, context, wait_until):
    forwarder = serve(ForwarderServer, **{"in": {"uri": "inproc://in"}})
    one = context.socket("xpub")
    one.connect("inproc://in")
    listening = subscriber(forwarder, b"", rcvhwm=0)
    assert one.receive_frames(timeout=10) == [b"\1"]
    forwarder._loop.stop()  # it reads nothing more, and what comes from now on waits
    for number in range(500):
        one.send_frames([b"%d" % number])
    assert forwarder.sockets["in"].received == 0
    serve.stop(forwarder)
    assert [listening.receive() for _ in range(500)] == [[b"%d" % number] for number in range(500)]


def test_publishers_that_go_on_do_not_keep_it(forwarder, serve, publisher, subscriber, spawn, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_END", 3600)

    def flood(one):
        while True:
            for _ in range(500):
                one.send(b"flood")
            gevent.sleep(MOMENT)

    one, listening = publisher(forwarder), subscriber(forwarder, b"")
    one.receive()
    spawn(flood, one)
    listening.receive()
    serve.stop(forwarder, graceful_timeout=3600)

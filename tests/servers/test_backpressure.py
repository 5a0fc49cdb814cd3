"""A slow handler slows its peers down instead of filling the memory, and what is lost all the same is counted."""

from collections import Counter
from itertools import pairwise

import psutil
import pytest
from gevent.event import Event

from dploylib.errors import SendTimeout, Unroutable
from dploylib.servers import Server, bind, bind_in
from dploylib.transport import socket as transport_socket

MARK = 10  # messages; the high-water mark of both sides
BUFFER = 65536  # bytes; of the kernel, on both sides
SIZE = 100_000  # bytes of a message
COUNT = 600  # messages: 60 MB, of which a service without limits would soon have all
# What fits between a peer and a handler. Linux doubles the sizes of its buffers, and lets the sender and the receiver
# have a message more than that; libzmq has one in each engine, between the queue and the kernel.
ROOM = 2 * MARK + 4 * BUFFER // SIZE + 2 + 2


class Gate(Server):
    """Its handlers wait until the test lets them go on."""

    def setup(self):
        self.open = Event()
        self.running = self.most = 0
        self.seen = []

    def wait(self, socket, received):
        self.seen.append(int(received.id))
        self.running += 1
        self.most = max(self.most, self.running)
        self.open.wait()
        self.running -= 1

    def answer(self, socket, received):
        self.wait(socket, received)
        return "done"

    pull = bind_in("pull", "pull")(wait)
    dealer = bind_in("dealer", "dealer")(wait)
    router = bind_in("router", "router")(wait)
    rep = bind_in("rep", "rep")(answer)


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(("name", "kind"), [("pull", "push"), ("router", "dealer"), ("rep", "dealer")])
def test_a_fast_peer_is_held_back_by_slow_handlers_and_nothing_is_lost(
    serve, process, wait_until, name, kind, concurrency
):
    options = {"rcvhwm": MARK, "rcvbuf": BUFFER}
    server = serve(Gate, **{name: {"concurrency": concurrency, "options": options}})
    memory = psutil.Process().memory_info
    before = memory().rss
    sender = process("fill.py", kind, server.endpoints[name][0], COUNT, SIZE)
    stuck, sent = None, int(sender.line())
    while stuck != sent:  # a peer that the machine keeps from running may only seem to be stuck
        stuck, sent = sent, int(sender.line())
    print(f"stuck after {sent} messages")
    assert MARK < sent <= ROOM + concurrency
    wait_until(lambda: server.running == concurrency)
    assert server.counts[name].received == concurrency
    assert memory().rss - before < COUNT * SIZE / 3
    server.open.set()
    wait_until(lambda: len(server.seen) == COUNT)
    assert server.seen == list(range(COUNT))
    assert server.most == concurrency
    assert memory().rss - before < COUNT * SIZE / 3
    wait_until(lambda: server.counts[name].handled == COUNT)
    assert server.counts[name].undelivered == server.sockets[name].dropped == 0


# What is lost, and counted ---------------------------------------------------------------------------------------


def test_what_a_router_sends_to_a_peer_that_is_gone_is_counted(serve, peer, wait_until):
    class Keeps(Server):
        @bind_in("router", "router")
        def keep(self, socket, received):
            self.route = received.envelope.request_frames
            return received

    server = serve(Keeps)
    client = peer("dealer", server.endpoints["router"][0])
    client.ask(b"", b"", b"m", b"hello")
    client.zmq_socket.close(linger=0)
    socket = server.sockets["router"]

    def is_gone():
        try:
            socket.send_frames([*server.route, b"", b"", b"m", b"too late"])
        except Unroutable:
            return True
        return False

    wait_until(is_gone)
    assert socket.dropped == 1
    assert socket.sent >= 1


class Publisher(Server):
    out = bind("out", "pub", options={"sndhwm": MARK, "sndbuf": 4096})
    xout = bind("xout", "xpub", options={"sndhwm": MARK, "sndbuf": 4096})

    def setup(self):
        self.published = 0

    def publish(self, name, topic="a", **options):
        frames = [f"{topic}{self.published}".encode(), b"m", b"x" * 20_000]
        self.published += 1
        self.sockets[name].send_frames(frames, **options)


def numbers(subscriber):
    """Read what has come to a subscriber: the numbers of its messages."""
    found = []
    while subscriber.zmq_socket.poll(10):
        id, mimetype, body = subscriber.receive()
        assert (mimetype, len(body)) == (b"m", 20_000)
        found.append(int(id[1:]))
    return found


def subscribe(peer, server, name, topic=b"a", **options):
    """A subscriber whom the publisher knows."""
    subscriber = peer("sub", server.endpoints[name][0], subscribe=topic, rcvbuf=4096, **options)
    while not numbers(subscriber):
        server.publish(name, topic.decode())
    return subscriber


@pytest.mark.parametrize("name", ["out", "xout"])
def test_what_a_publisher_loses_is_counted_once_for_each_time_that_a_subscriber_falls_behind(serve, peer, name):
    server = serve(Publisher)
    socket = server.sockets[name]
    stalled = subscribe(peer, server, name, rcvhwm=MARK)
    assert socket.dropped == 0
    good = subscribe(peer, server, name, rcvhwm=0)
    got = []
    for times in (1, 2):
        for _ in range(200):
            server.publish(name)
            assert int(good.receive()[0][1:]) == server.published - 1  # who has room gets everything
        before = len(got)
        while not got or got[-1] != server.published - 1:
            server.publish(name)
            good.receive()
            got += numbers(stalled)
        assert len(got) - before > MARK  # both marks, less what libzmq has not yet heard was read (pipe.cpp: lwm)
        gaps = sum(after != before + 1 for before, after in pairwise(got))
        assert socket.dropped == gaps >= times
    assert socket.sent == server.published


@pytest.mark.parametrize("name", ["out", "xout"])
def test_a_subscriber_that_has_read_what_there_was_loses_nothing(serve, name):
    """libzmq itself would drop the next message: it looks only every millisecond whether somebody has read."""
    server = serve(Publisher, **{name: {"uri": "inproc://published"}})
    with server.context.socket("sub", {"subscribe": "a", "rcvhwm": MARK}) as subscriber:
        subscriber.connect("inproc://published")
        while not subscriber.readable():
            server.publish(name)
        subscriber.receive_frames()
        for _ in range(50):
            first = server.published
            for _ in range(MARK):
                server.publish(name)
            got = [int(subscriber.receive_frames(timeout=10)[0][1:]) for _ in range(MARK)]
            assert got == list(range(first, first + MARK))
    assert server.sockets[name].dropped == 0


@pytest.mark.parametrize("name", ["out", "xout"])
def test_nothing_is_counted_where_nobody_has_subscribed_or_to_something_else(serve, peer, name):
    server = serve(Publisher)
    for _ in range(5 * MARK):
        server.publish(name)
    subscribe(peer, server, name, topic=b"b", rcvhwm=1)
    for _ in range(5 * MARK):
        server.publish(name)
    assert server.sockets[name].dropped == 0


@pytest.mark.parametrize("name", ["out", "xout"])
def test_a_publisher_that_is_told_to_drop_nothing_waits_instead(serve, peer, name):
    server = serve(Publisher, **{name: {"options": {"xpub_nodrop": True}}})
    stalled = subscribe(peer, server, name, rcvhwm=1)
    before = server.sockets[name].sent

    def fill():
        for _ in range(200):
            server.publish(name, timeout=0.1)

    with pytest.raises(SendTimeout):  # at the latest when all queues and buffers are full
        fill()
    sent = server.sockets[name].sent - before
    got = []
    while len(got) < sent:
        got += numbers(stalled)
    assert server.sockets[name].dropped == 0


@pytest.mark.parametrize("name", ["out", "xout"])
def test_to_count_what_is_lost_costs_nothing_while_nothing_is(serve, peer, name, monkeypatch):
    server = serve(Publisher, **{name: {"options": {"sndhwm": 1000}}})
    good = subscribe(peer, server, name, rcvhwm=0)
    calls = Counter()

    def counting(called, function):
        def counted(*arguments):
            calls[called] += 1
            return function(*arguments)

        return counted

    for called in ("_send", "_get"):
        monkeypatch.setattr(transport_socket, called, counting(called, getattr(transport_socket, called)))
    for _ in range(100):
        server.publish(name)
        good.receive()
    assert calls == {"_send": 300}

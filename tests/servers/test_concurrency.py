"""Several handlers at once: never more than declared, all of them answered, and bounded in time."""

import logging
import random
from collections import Counter

import gevent
import pytest
import zmq
from gevent.event import Event

from dploylib.servers import Server, bind, bind_in, connect, declare
from dploylib.transport import Envelope, ReceivedData

both = pytest.mark.parametrize("concurrency", [1, 10])
ANYWHERE = "tcp://127.0.0.1:*"


class Gate(Server):
    """Its handlers wait until the test lets them go on."""

    def setup(self):
        self.open = Event()
        self.running = self.most = self.done = 0
        self.seen: list[ReceivedData] = []

    def wait(self, socket, received):
        self.seen.append(received)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.open.wait()
        finally:
            self.running -= 1
            self.done += 1
        return received.text

    rep = bind_in("rep", "rep", concurrency=5)(wait)
    router = bind_in("router", "router", concurrency=5)(wait)
    pull = bind_in("pull", "pull", concurrency=5)(wait)
    one = bind_in("one", "rep")(wait)


@pytest.mark.parametrize(
    ("name", "kind", "configured", "limit"),
    [
        ("rep", "dealer", None, 5),
        ("rep", "dealer", 3, 3),
        ("rep", "dealer", 1, 1),
        ("router", "dealer", None, 5),
        ("router", "dealer", 2, 2),
        ("pull", "push", None, 5),
        ("one", "dealer", None, 1),
        ("one", "dealer", 4, 4),
    ],
)
def test_as_many_handlers_run_at_once_as_declared_or_configured_and_never_more(
    serve, peer, wait_until, name, kind, configured, limit
):
    server = serve(Gate, **{name: {"concurrency": configured} if configured else {}})
    client = peer(kind, server.endpoints[name][0])
    front = [b""] if kind == "dealer" else []
    for number in range(20):
        client.send(*front, b"", b"m", b"%d" % number)
    wait_until(lambda: server.running == limit)
    gevent.sleep(0.02)  # were there more to come, they would
    assert server.running == limit
    # While all are busy, nothing more is read: messages stay where the high-water mark counts them.
    assert server.counts[name].received == limit
    server.open.set()
    wait_until(lambda: server.done == 20)
    assert server.most <= limit
    if front:
        assert sorted(int(client.receive()[-1]) for _ in range(20)) == list(range(20))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_full_server_pushes_back_on_its_peers(serve, peer, wait_until, concurrency):
    """The peer's own queue fills, and it cannot send: not a message is lost or kept in memory here."""
    options = {"rcvhwm": 1, "rcvbuf": 4096}
    server = serve(Gate, pull={"concurrency": concurrency, "options": options})
    client = peer("push", server.endpoints["pull"][0], sndhwm=1, sndbuf=4096)
    body = b"x" * 100_000
    sent = 0
    while client.zmq_socket.poll(100, 2):  # POLLOUT
        client.send(b"", b"m", body)
        sent += 1
        assert sent < 200
    assert server.counts["pull"].received == server.running == concurrency
    assert sent > concurrency
    server.open.set()
    wait_until(lambda: server.done == sent)


def test_a_thousand_waiting_handlers_are_all_answered(serve, peer, wait_until):
    server = serve(Gate, rep={"concurrency": 1000})
    clients = [peer("dealer", server.endpoints["rep"][0]) for _ in range(4)]
    for number in range(1000):
        clients[number % 4].send(b"", b"", b"m", b"%d" % number)
    wait_until(lambda: server.running == 1000)
    server.open.set()
    replies = sorted(int(clients[number % 4].receive()[-1]) for number in range(1000))
    assert replies == list(range(1000))
    assert server.counts["rep"].replied == 1000


def test_a_slow_handler_does_not_hold_up_another_socket(serve, peer, wait_until):
    class Two(Gate):
        @bind_in("fast", "rep")
        def fast(self, socket, received):
            return received

    server = serve(Two)
    peer("req", server.endpoints["one"][0]).send(b"", b"m", b"waits")
    wait_until(lambda: server.running == 1)
    assert peer("req", server.endpoints["fast"][0]).ask_text("fast") == "fast"


def test_replies_of_concurrent_handlers_go_to_their_own_callers(serve, peer):
    class Shuffles(Server):
        @bind_in("request", "rep", concurrency=50)
        def request(self, socket, received):
            gevent.sleep(hash(received.text) % 7 / 1000)
            return received

    endpoint = serve(Shuffles).endpoints["request"][0]

    def call(number):
        client = peer("req", endpoint)
        return [client.ask_text(f"{number} {turn}") == f"{number} {turn}" for turn in range(5)]

    callers = [gevent.spawn(call, number) for number in range(40)]
    gevent.joinall(callers, raise_error=True)
    assert all(all(caller.value) for caller in callers)


# Time limits -----------------------------------------------------------------------------------------------------


class Sleeps(Server):
    def setup(self):
        self.called = 0
        self.ended = []

    def sleep(self, socket, received):
        self.called += 1
        try:
            gevent.sleep(float(received.text))
            return "awake"
        except BaseException as error:
            self.ended.append(error)
            raise

    limited = bind_in("limited", "rep", timeout=0.05)(sleep)
    unlimited = bind_in("unlimited", "rep")(sleep)
    pull = bind_in("pull", "pull", timeout=0.05)(sleep)
    router = bind_in("router", "router")(sleep)


@both
@pytest.mark.parametrize(
    ("name", "configured", "limit"), [("limited", None, "0.05"), ("limited", 0.1, "0.1"), ("unlimited", 0.03, "0.03")]
)
def test_a_handler_has_the_seconds_declared_or_configured(serve, peer, concurrency, name, configured, limit, caplog):
    server = serve(Sleeps, **{name: {"concurrency": concurrency, **({"timeout": configured} if configured else {})}})
    client = peer("req", server.endpoints[name][0])
    problem = client.ask_problem(b"", b"m", b"60")
    assert (problem["status"], problem["type"]) == (504, "urn:dploylib:handler-timeout")
    assert problem["detail"] == f"the handler of tested.{name} did not finish within {limit} s"
    assert isinstance(server.ended[0], gevent.Timeout)
    assert client.ask_text("0") == "awake"
    assert server.counts[name].timed_out == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_timeout_where_nobody_waits_is_counted(serve, peer, wait_until):
    server = serve(Sleeps)
    client = peer("push", server.endpoints["pull"][0])
    client.send(b"", b"m", b"60")
    client.send(b"", b"m", b"0")
    wait_until(lambda: server.called == 2)
    assert server.counts["pull"].timed_out == 1


def test_a_handler_that_catches_its_timeout_may_still_answer(serve, peer):
    class Tidy(Server):
        @bind_in("request", "rep", timeout=0.05)
        def request(self, socket, received):
            try:
                gevent.sleep(60)
            except gevent.Timeout:
                return "a short answer"

    assert peer("req", serve(Tidy).endpoints["request"][0]).ask_text("x") == "a short answer"


DEADLINE_SOCKETS = pytest.mark.parametrize(("name", "concurrency"), [("router", 1), ("router", 10), ("unlimited", 10)])


@DEADLINE_SOCKETS
@pytest.mark.parametrize("milliseconds", [0, -5, -1e300, float("nan"), float("-inf")])
def test_a_call_whose_deadline_has_passed_is_not_handled(
    serve, peer, metadata_frame, name, concurrency, milliseconds, caplog
):
    server = serve(Sleeps, **{name: {"concurrency": concurrency}})
    client = peer("dealer", server.endpoints[name][0])
    frame = metadata_frame(d=milliseconds)
    reply = client.ask(frame, b"", b"id", b"m", b"0")
    assert reply[:3] == [frame, b"", b"id"]
    problem = client.problem_in(reply)
    assert (problem["status"], problem["type"]) == (504, "urn:dploylib:deadline-exceeded")
    assert (server.called, server.counts[name].timed_out) == (0, 1)
    assert client.ask(b"", b"", b"m", b"0")[-1] == b"awake"


@DEADLINE_SOCKETS
def test_a_handler_is_ended_at_the_deadline_of_its_caller(serve, peer, metadata_frame, name, concurrency):
    server = serve(Sleeps, **{name: {"concurrency": concurrency, "timeout": 50}})
    client = peer("dealer", server.endpoints[name][0])
    reply = client.ask(metadata_frame(d=50), b"", b"", b"m", b"60")
    assert client.problem_in(reply)["type"] == "urn:dploylib:deadline-exceeded"
    assert isinstance(server.ended[0], gevent.Timeout)


@DEADLINE_SOCKETS
@pytest.mark.parametrize("milliseconds", [60_000, 1e300, float("inf"), 2**63])
def test_the_shorter_of_deadline_and_timeout_counts(serve, peer, metadata_frame, name, concurrency, milliseconds):
    server = serve(Sleeps, **{name: {"concurrency": concurrency, "timeout": 0.05}})
    client = peer("dealer", server.endpoints[name][0])
    reply = client.ask(metadata_frame(d=milliseconds), b"", b"", b"m", b"60")
    assert client.problem_in(reply)["type"] == "urn:dploylib:handler-timeout"
    assert client.ask(metadata_frame(d=milliseconds), b"", b"", b"m", b"0")[-1] == b"awake"


@DEADLINE_SOCKETS
def test_a_handler_sees_what_the_caller_said_about_the_call(serve, peer, metadata_frame, name, concurrency):
    class Looks(Sleeps):
        def look(self, socket, received):
            self.received = received
            return "seen"

        router = bind_in("router", "router")(look)
        unlimited = bind_in("unlimited", "rep")(look)

    server = serve(Looks, **{name: {"concurrency": concurrency}})
    client = peer("dealer", server.endpoints[name][0])
    client.ask(b"other", metadata_frame(r="id 1", d=5000, t="00-1-2-01"), b"", b"", b"m", b"")
    metadata = server.received.metadata
    assert (metadata.request_id, metadata.milliseconds_left, metadata.traceparent) == ("id 1", 5000, "00-1-2-01")
    assert server.received.deadline is not None
    client.ask(b"other", b"", b"", b"m", b"")
    assert (server.received.metadata, server.received.deadline) == (None, None)


# Peers that are gone or do not read ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("router", 1), ("router", 5), ("rep", 5)])
@pytest.mark.parametrize("by_socket", [False, True])
def test_a_reply_to_a_peer_that_is_gone_is_counted_and_no_failure(
    serve, peer, wait_until, name, limit, by_socket, caplog
):
    class Sends(Gate):
        def wait(self, socket, received):
            super().wait(socket, received)
            return socket.send_envelope(received) if by_socket else received

        rep = bind_in("rep", "rep", concurrency=5)(wait)
        router = bind_in("router", "router", concurrency=5)(wait)

    server = serve(Sends, **{name: {"concurrency": limit}})
    client = peer("req", server.endpoints[name][0], linger=0)
    client.send(b"", b"m", b"b")
    wait_until(lambda: server.running == 1)
    client.zmq_socket.close()
    zmq_socket = server.sockets[name].zmq_socket
    wait_until(lambda: not zmq_socket.get(zmq.EVENTS) & zmq.POLLOUT)  # the ROUTER has no peer any more
    server.open.set()
    wait_until(lambda: server.counts[name].undelivered == 1)
    assert server.counts[name].failed == server.counts[name].replied == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "was not delivered" in caplog.text
    assert peer("req", server.endpoints[name][0]).ask_text("next") == "next"


@pytest.mark.parametrize(("name", "limit"), [("router", 1), ("router", 4), ("rep", 4)])
def test_a_peer_that_does_not_read_its_replies_does_not_block_the_others(
    serve, peer, wait_until, name, limit, monkeypatch
):
    """It may let a few replies wait, once. Were it every reply, these here would take half a minute."""
    monkeypatch.setattr(declare, "_REPLY_PATIENCE", 1000)

    class Big(Server):
        def reply(self, socket, received):
            return bytes(int(received.text))

        rep = bind_in("rep", "rep", concurrency=4, options={"sndhwm": 1, "sndbuf": 4096})(reply)
        router = bind_in("router", "router", options={"sndhwm": 1, "sndbuf": 4096})(reply)

    server = serve(Big, **{name: {"concurrency": limit}})
    deaf = peer("dealer", server.endpoints[name][0], rcvhwm=1, rcvbuf=4096)
    good = peer("req", server.endpoints[name][0])
    for _ in range(150):
        deaf.send(b"", b"", b"m", b"500000")
    for _ in range(10):
        assert len(good.ask(b"", b"m", b"10")[-1]) == 10
    wait_until(lambda: server.counts[name].undelivered > 120)
    assert server.counts[name].failed == 0
    deaf.receive()


def test_a_peer_that_reads_again_gets_its_replies_again(serve, peer, wait_until, monkeypatch):
    monkeypatch.setattr(declare, "_REPLY_PATIENCE", 50)

    class Big(Server):
        @bind_in("request", "rep", concurrency=4, options={"sndhwm": 1, "sndbuf": 4096})
        def request(self, socket, received):
            return bytes(int(received.text))

    server = serve(Big)
    counts = server.counts["request"]
    slow = peer("dealer", server.endpoints["request"][0], rcvhwm=1, rcvbuf=4096)
    for _ in range(50):
        slow.send(b"", b"", b"m", b"500000")
    wait_until(lambda: counts.undelivered + counts.replied == 50)
    assert counts.undelivered
    for _ in range(counts.replied):
        slow.receive()
    assert slow.silent()
    assert len(slow.ask(b"", b"", b"m", b"500000")[-1]) == 500_000
    assert server.sockets.request._deaf == set()


def test_a_send_to_another_service_that_fails_is_no_lost_reply(serve, peer, context):
    """The caller is still there, and is told: or its REQ would wait for ever."""

    class Forwards(Server):
        backend = connect("backend", "push")
        other = bind("other", "router", options={"router_mandatory": 1})

        @bind_in("request", "rep")
        def request(self, socket, received):
            if received.text == "timeout":
                self.sockets.backend.send_text("work", timeout=0.01)
            self.sockets.other.send_frames([b"nobody", b"", b"", b"", b""])

    server = serve(Forwards, backend={"uri": "inproc://nobody-listens", "options": {"sndhwm": 1}}, request={})
    server.sockets.backend.send_text("the one that has room")
    client = peer("req", server.endpoints["request"][0])
    for text in (b"timeout", b"unroutable"):
        assert client.ask_problem(b"", b"m", text)["type"] == "urn:dploylib:handler-failed"
    assert (server.counts["request"].failed, server.counts["request"].undelivered) == (2, 0)


def test_a_mistake_of_another_service_is_not_blamed_on_the_caller(serve, peer, context):
    """A handler asks another service, which answers with something else than was expected."""

    class Asks(Server):
        backend = connect("backend", "req")

        @bind_in("request", "rep")
        def request(self, socket, received):
            self.sockets.backend.send_text("question")
            return self.sockets.backend.receive_json(timeout=5)

    with context.socket("rep") as backend:
        backend.bind(ANYWHERE)
        server = serve(Asks, backend={"uri": backend.endpoint})
        client = peer("req", server.endpoints["request"][0])
        client.send(b"", b"m", b"b")
        backend.receive_text(timeout=5)
        backend.send_text("no json")
        problem = client.problem_in(client.receive())
        assert (problem["status"], problem["type"]) == (500, "urn:dploylib:handler-failed")
        client.send(b"", b"m", b"b")
        backend.receive_text(timeout=5)
        backend.send_json(1)
        assert client.receive()[-1] == b"1"


def test_two_greenlets_cannot_both_answer_one_request_while_the_first_waits(serve, peer, wait_until):
    """Its reply waits for room in the peer's queue; a second one must not slip past it when there is some."""

    class Twice(Server):
        @bind_in("request", "rep", concurrency=2, options={"sndhwm": 1, "sndbuf": 4096})
        def request(self, socket, received):
            if received.text == "fill":
                return bytes(500_000)
            self.first = gevent.spawn(socket.send_text, "first")
            wait_until(lambda: socket.sent or self.first.ready())
            return "second"

    server = serve(Twice)
    client = peer("dealer", server.endpoints["request"][0], rcvhwm=1, rcvbuf=4096)
    for _ in range(30):
        client.send(b"", b"", b"m", b"fill")
    client.send(b"", b"", b"m", b"twice")
    replies = [client.receive()[-1] for _ in range(31)]
    assert replies.count(b"first") == 1
    assert client.silent()
    assert server.counts["request"].failed == 1


def test_a_router_that_cannot_reach_another_peer_tells_its_caller(serve, peer):
    class Broker(Server):
        @bind_in("request", "router")
        def request(self, socket, received):
            socket.send_envelope(Envelope("", "m", b"work", [b"a worker that is gone"]))

    server = serve(Broker)
    problem = peer("req", server.endpoints["request"][0]).ask_problem(b"", b"m", b"b")
    assert problem["type"] == "urn:dploylib:handler-failed"
    assert (server.counts["request"].failed, server.counts["request"].undelivered) == (1, 0)


def test_a_router_may_answer_with_more_than_a_queue_takes(serve, peer):
    class Streams(Server):
        @bind_in("request", "router")
        def request(self, socket, received):
            for number in range(5000):
                socket.send_envelope(received.envelope.response_envelope("text/plain", str(number)))

    server = serve(Streams)
    client = peer("dealer", server.endpoints["request"][0])
    client.send(b"", b"", b"m", b"b")
    assert [client.receive()[-1] for _ in range(5000)] == [b"%d" % number for number in range(5000)]


@pytest.mark.parametrize("stray", ["timeout", "kill"])
def test_what_comes_too_late_for_its_handler_does_not_disturb_the_error_reply(serve, peer, wait_until, stray):
    """The reply waits for room in the queue of a peer that reads slowly, and there it arrives."""

    class Fails(Server):
        @bind_in("request", "rep", concurrency=4, options={"sndhwm": 1, "sndbuf": 4096})
        def request(self, socket, received):
            if received.text == "fill":
                return bytes(500_000)
            if received.text == "fine":
                return "fine"
            self.greenlet = gevent.getcurrent()
            raise ValueError

    server = serve(Fails)
    counts = server.counts["request"]
    slow = peer("dealer", server.endpoints["request"][0], rcvhwm=1, rcvbuf=4096)
    sent = 0
    while counts.handled == sent and sent < 100:  # until a reply waits
        slow.send(b"", b"", b"m", b"fill")
        sent += 1
        wait_until(lambda sent=sent: counts.received == sent)
        gevent.sleep(0.01)
    slow.send(b"", b"", b"m", b"fail")
    wait_until(lambda: counts.failed == 1)
    gevent.sleep(0)
    error = gevent.Timeout() if stray == "timeout" else gevent.GreenletExit()
    gevent.get_hub().loop.run_callback(server.greenlet.throw, error)
    gevent.sleep(0.01)
    assert peer("req", server.endpoints["request"][0]).ask_text("fine") == "fine"
    replies = [slow.receive() for _ in range(sent + 1)]
    assert sum(frames[1] == b"m" or frames[2] == b"application/problem+json" for frames in replies) == 1
    assert counts.undelivered == 0


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("stray", ["timeout", "kill"])
def test_what_comes_while_a_failure_is_logged_ends_no_server(serve, peer, stray, concurrency):
    """A log may make us wait, as one that goes over a socket does."""

    class Slow(logging.Handler):
        def emit(self, record):
            gevent.sleep(0.02)

    class Fails(Server):
        @bind_in("request", "rep", concurrency=concurrency)
        def request(self, socket, received):
            if received.text == "fine":
                return "fine"
            if stray == "timeout":
                gevent.Timeout(0.005).start()
            else:
                gevent.spawn_later(0.005, gevent.getcurrent().kill, block=False)
            raise ValueError

    server = serve(Fails)
    client = peer("req", server.endpoints["request"][0])
    handler = Slow()
    logging.getLogger("dploylib").addHandler(handler)
    try:
        for _ in range(3):
            assert client.ask_problem(b"", b"m", b"fail")["type"] == "urn:dploylib:handler-failed"
            assert client.ask_text("fine") == "fine"
    finally:
        logging.getLogger("dploylib").removeHandler(handler)
    assert not serve.greenlet(server).dead


# Whatever handlers do --------------------------------------------------------------------------------------------


class Unruly(Server):
    """Its handlers do one of many things, in an order that is the same for each run."""

    def setup(self):
        self.random = random.Random(1)
        self.running = self.most = 0
        self.begun = Counter()

    @bind_in("request", "rep", options={"sndhwm": 0})
    def request(self, socket, received):
        self.begun[received.text] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return self.random.choice(self.WAYS)(self, socket, received)
        finally:
            self.running -= 1

    def send(self, socket, received):
        socket.send_text("sent")

    def send_twice(self, socket, received):
        socket.send_text("sent")
        socket.send_text("sent again")

    def send_and_return(self, socket, received):
        socket.send_text("sent")
        return "returned too"

    def fail(self, socket, received):
        raise ValueError

    def leave(self, socket, received):
        raise SystemExit(3)

    def wait(self, socket, received):
        gevent.sleep(self.random.random() / 2000)
        return "waited"

    def give_way(self, socket, received):
        gevent.sleep(0)
        return "gave way"

    def leave_a_timeout_behind(self, socket, received):
        gevent.Timeout(self.random.random() / 1000).start()
        gevent.sleep(self.random.choice([0, 0.0005]))
        return "in time"

    def end_itself(self, socket, received):
        gevent.getcurrent().kill()

    def be_killed_soon(self, socket, received):
        gevent.spawn_later(self.random.random() / 1000, gevent.getcurrent().kill, block=False)
        gevent.sleep(self.random.choice([0, 0.0005]))
        return "alive"

    WAYS = (
        lambda self, socket, received: received.text,
        lambda self, socket, received: None,
        *(send, send_twice, send_and_return, fail, leave, wait, give_way, leave_a_timeout_behind, end_itself),
        be_killed_soon,
    )


@pytest.mark.usefixtures("leak_check")
@pytest.mark.parametrize("concurrency", [1, 2, 30])
@pytest.mark.parametrize("stop_at", [None, 700])
def test_each_request_is_handled_once_and_answered_once_whatever_handlers_do(
    serve, peer, wait_until, concurrency, stop_at
):
    server = serve(Unruly, request={"concurrency": concurrency})
    counts, clients, each = server.counts["request"], 4, 400
    replies = Counter()

    def call(client):
        for number in range(each):
            client.send(b"%d" % number, b"", b"", b"text/plain", b"%d of %d" % (number, id(client)))
            if number % 20 == 0:
                gevent.sleep(0)

    def hear(client):
        while True:
            replies[id(client), client.zmq_socket.recv_multipart()[0]] += 1

    peers = [peer("dealer", server.endpoints["request"][0]) for _ in range(clients)]
    greenlets = [gevent.spawn(work, client) for client in peers for work in (call, hear)]
    try:
        wait_until(lambda: counts.received >= (stop_at or clients * each))
        if stop_at:
            serve.stop(server)
        wait_until(lambda: sum(replies.values()) == counts.received)
    finally:
        gevent.killall(greenlets)
    assert counts.handled == counts.received == len(replies)
    # At a stop, those that were not begun, and those that were ended, are rejected.
    assert 0 <= len(server.begun) + counts.rejected - len(replies) <= (concurrency if stop_at else 0)
    assert bool(counts.rejected) == bool(stop_at)
    assert server.most <= concurrency

"""What becomes of messages that come, or have come, when a server stops."""

import gevent
import pytest
import zmq
from gevent.event import Event

from dploylib.servers import Hook, Server, bind_in, connect_in
from dploylib.transport import PollLoop, ReceiveLoop
from tests.servers.conftest import Peer

ANYWHERE = "tcp://127.0.0.1:*"
both = pytest.mark.parametrize("concurrency", [1, 10])


class Works(Server):
    """Its handlers wait for the test."""

    def setup(self):
        self.handled, self.running, self.go_on = [], Event(), Event()

    def handle(self, received):
        self.running.set()
        self.go_on.wait()
        self.handled.append(received.text)
        return "done"

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return self.handle(received)

    @bind_in("router", "router")
    def router(self, socket, received):
        return self.handle(received)

    @bind_in("dealer", "dealer")
    def dealer(self, socket, received):
        return self.handle(received)

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.handle(received)


@pytest.fixture
def inside():
    """`inside(server, "push", "pull")`: a peer in the server's context. What it sends is there at once (inproc)."""
    sockets = []

    def connect(server, kind, name):
        sockets.append(server.context.zmq_context.socket(getattr(zmq, kind.upper())))
        sockets[-1].connect(server.endpoints[name][0])
        return Peer(sockets[-1])

    yield connect
    for socket in sockets:
        socket.close(linger=0)


# Those who wait for an answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_loop", [ReceiveLoop, PollLoop.new])
@pytest.mark.parametrize(("kind", "front"), [("rep", [b""]), ("router", [b"hop", b""]), ("dealer", [])])
def test_requests_that_lie_ready_are_answered_while_a_handler_still_runs(serve, peer, kind, front, make_loop):
    server = serve(Works, poll_loop=make_loop())
    client = peer("dealer", server.endpoints[kind][0])
    for number in range(50):
        client.send(*front, b"%d" % number, b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    replies = [client.receive() for _ in range(49)]
    assert {client.problem_in(reply)["type"] for reply in replies} == {"urn:dploylib:shutting-down"}
    assert [reply[: len(front)] for reply in replies] == [front] * 49
    assert [reply[-3] for reply in replies] == [b"%d" % number for number in range(1, 50)]
    assert not serve.greenlet(server).dead
    server.go_on.set()
    serve.result(server)
    assert client.receive()[-1] == b"done"
    assert client.silent()
    counts = server.counts[kind]
    assert (counts.received, counts.handled, counts.rejected) == (50, 50, 49)


def test_malformed_messages_are_answered_during_a_stop_too(serve, peer):
    server = serve(Works)
    client, other = peer("req", server.endpoints["rep"][0]), peer("req", server.endpoints["rep"][0])
    client.send(b"", b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    assert other.ask_problem(b"one frame")["status"] == 400
    server.go_on.set()
    serve.result(server)


@both
def test_who_asks_again_when_it_has_its_answer_is_answered_as_well(serve, peer, concurrency):
    """It cannot know yet that the server stops."""
    server = serve(Works, rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    client.send(b"", b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    server.go_on.set()
    assert client.receive()[-1] == b"done"
    assert client.ask_problem(b"", b"text/plain", b"x")["type"] == "urn:dploylib:shutting-down"
    assert client.ask_problem(b"", b"text/plain", b"x")["type"] == "urn:dploylib:shutting-down"
    serve.result(server)


def test_peers_who_never_cease_to_ask_do_not_keep_a_server(serve, peer):
    server = serve(Works)
    server.go_on.set()
    client = peer("req", server.endpoints["rep"][0])

    def ask_for_ever():
        while True:
            client.ask(b"", b"text/plain", b"x")

    asking = gevent.spawn(ask_for_ever)
    server.running.wait(10)
    serve.stop(server, 60)
    assert server.counts["rep"].rejected > 1
    asking.kill()


def test_requests_that_lie_ready_are_answered_when_a_server_fails(serve, inside):
    class Dies(Works):
        def setup(self):
            super().setup()
            self.spawn(self.die)

        def die(self):
            self.running.wait()
            raise KeyError("broken")

    server = serve(Dies, rep={"uri": "inproc://rep"})
    client = inside(server, "dealer", "rep")
    for number in range(50):
        client.send(b"", b"%d" % number, b"text/plain", b"x")
    with pytest.raises(Exception, match="broken"):
        serve.result(server)
    assert {client.problem_in(client.receive())["status"] for _ in range(50)} == {503}


def test_requests_that_lie_ready_are_answered_when_a_server_is_killed(serve, inside):
    server = serve(Works, rep={"uri": "inproc://rep"})
    client = inside(server, "dealer", "rep")
    for number in range(50):
        client.send(b"", b"%d" % number, b"text/plain", b"x")
    server.running.wait(10)
    serve.greenlet(server).kill(timeout=10)
    assert {client.problem_in(client.receive())["status"] for _ in range(50)} == {503}


# Those who do not ------------------------------------------------------------------------------------------------


@both
def test_what_a_pull_has_received_is_handled(serve, inside, concurrency):
    server = serve(Works, pull={"uri": "inproc://pull", "concurrency": concurrency})
    client = inside(server, "push", "pull")
    for number in range(100):
        client.send(b"", b"text/plain", b"%d" % number)
    server.running.wait(10)
    server.stop(60)
    server.go_on.set()
    serve.result(server)
    assert sorted(server.handled, key=int) == [str(number) for number in range(100)]
    if concurrency == 1:
        assert server.handled == sorted(server.handled, key=int)


@both
def test_a_pull_takes_nothing_more_from_its_peers(serve, peer, concurrency, wait_until):
    """What they send meanwhile stays with them, and another server gets it."""
    server = serve(Works, pull={"concurrency": concurrency})
    endpoint = server.endpoints["pull"][0]
    client = peer("push", endpoint, reconnect_ivl=10, immediate=1)
    client.send(b"", b"text/plain", b"first")
    server.running.wait(10)
    server.stop(60)
    wait_until(lambda: not client.zmq_socket.poll(0, zmq.POLLOUT))  # it has nobody to send to
    server.go_on.set()
    serve.result(server)
    assert server.handled == ["first"]
    heir = serve(Works, pull={"uri": endpoint})
    heir.go_on.set()
    client.send(b"", b"text/plain", b"second")
    wait_until(lambda: heir.handled == ["second"])


@both
def test_what_a_pull_has_no_time_for_is_told_to_the_log(serve, inside, concurrency, caplog):
    server = serve(Works, pull={"uri": "inproc://pull", "concurrency": concurrency})
    client = inside(server, "push", "pull")
    for number in range(100):
        client.send(b"", b"text/plain", b"%d" % number)
    server.running.wait(10)
    serve.stop(server, 0)
    lost = 100 - server.counts["pull"].received
    assert lost >= 90
    assert f"{lost} messages that tested.pull had received were not handled before the stop" in caplog.text


def test_a_connected_pull_hands_on_what_can_have_been_waiting_and_then_stops(serve, context, wait_until):
    class Connects(Works):
        @connect_in("pull", "pull")
        def pull(self, socket, received):
            self.handle(received)

    with context.socket("push") as push:
        push.bind(ANYWHERE)
        server = serve(Connects, pull={"uri": push.endpoint, "options": {"rcvhwm": 20}})
        sent = 0

        def send_for_ever():
            nonlocal sent
            while True:
                push.send_text(str(sent))
                sent += 1

        sending = gevent.spawn(send_for_ever)
        server.running.wait(10)
        server.stop(60)
        server.go_on.set()
        serve.result(server)
        sending.kill()
        assert server.handled == [str(number) for number in range(len(server.handled))]
        assert len(server.handled) > 20
        push.close(linger=0)


@both
def test_a_pull_handler_that_the_stop_ends_is_told_to_the_log(serve, peer, concurrency, caplog):
    server = serve(Works, pull={"concurrency": concurrency})
    peer("push", server.endpoints["pull"][0]).send(b"", b"text/plain", b"x")
    server.running.wait(10)
    serve.stop(server, 0)
    assert "a handler of tested.pull was ended: the service is shutting down" in caplog.text
    assert server.counts["pull"].rejected == 1


def test_a_malformed_message_during_a_stop_is_not_decided_about(serve, peer):
    """`on_error` may take its time, which the stop has not."""

    class Ponders(Works):
        def on_error(self, socket, received, error):
            gevent.sleep(3600)

    server = serve(Ponders)
    client, other = peer("req", server.endpoints["rep"][0]), peer("req", server.endpoints["rep"][0])
    client.send(b"", b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    assert other.ask_problem(b"one frame")["status"] == 400
    server.go_on.set()
    serve.result(server)


def test_what_has_come_in_the_last_moment_is_answered_too(serve, inside):
    """After `teardown`, when nobody else runs any more."""

    class AsksItself(Works):
        def teardown(self):
            for number in range(50):
                self.client.send(b"", b"%d" % number, b"text/plain", b"x")
            self._farewell._loop.kill()  # so that only the very end is left to answer

    server = serve(AsksItself, rep={"uri": "inproc://rep"})
    server.client = inside(server, "dealer", "rep")
    serve.stop(server)
    assert {server.client.problem_in(server.client.receive())["status"] for _ in range(50)} == {503}
    assert server.counts["rep"].rejected == 50


def test_hooks_that_wait_hold_up_nobody_who_is_turned_away(serve, inside):
    told = []

    class Waits(Hook):
        def message_failed(self, server, socket, received, error, seconds):
            told.append(received.id)
            gevent.sleep(3600)

    class Hooked(Works):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.hooks = [Waits()]

    server = serve(Hooked, rep={"uri": "inproc://rep"})
    client = inside(server, "dealer", "rep")
    for number in range(20):
        client.send(b"", b"%d" % number, b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    assert {client.problem_in(client.receive())["status"] for _ in range(19)} == {503}
    server.go_on.set()
    assert client.receive()[-1] == b"done"
    serve.result(server)
    assert len(told) == 19


def test_a_pull_does_not_wait_for_the_handlers_of_other_sockets(serve, inside, peer, wait_until):
    class Hangs(Works):
        @bind_in("rep", "rep")
        def rep(self, socket, received):
            self.running.set()
            Event().wait()

        @bind_in("pull", "pull")
        def pull(self, socket, received):
            self.running.wait()
            self.handled.append(received.text)

    server = serve(Hangs, pull={"uri": "inproc://pull"})
    client = inside(server, "push", "pull")
    for number in range(100):
        client.send(b"", b"text/plain", b"%d" % number)
    wait_until(lambda: server.counts["pull"].received)
    peer("req", server.endpoints["rep"][0]).send(b"", b"text/plain", b"x")
    server.running.wait(10)
    server.stop(60)
    wait_until(lambda: len(server.handled) == 100)
    assert server.handled == [str(number) for number in range(100)]
    server.stop(0)
    serve.result(server)

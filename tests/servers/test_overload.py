"""`overload="reject"`: what comes while all handlers are busy is told so at once."""

import gevent
import pytest
from gevent.event import Event

from dploylib.errors import DeclarationError
from dploylib.servers import Handler, Server, bind_in, connect_in

both = pytest.mark.parametrize("concurrency", [1, 10])


class Waits(Server):
    def setup(self):
        self.go_on = Event()

    @bind_in("request", "rep", overload="reject")
    def request(self, socket, received):
        if received.text == "wait":
            self.go_on.wait()
        return received.text


@both
def test_what_comes_while_all_handlers_are_busy_is_refused(serve, peer, concurrency, wait_until, caplog):
    server = serve(Waits, request={"concurrency": concurrency})
    endpoint = server.endpoints["request"][0]
    busy = [peer("req", endpoint) for _ in range(concurrency)]
    for client in busy:
        client.send(b"", b"text/plain", b"wait")
    counts = server.counts["request"]
    wait_until(lambda: counts.received == concurrency)
    client = peer("req", endpoint)
    for _ in range(20):
        problem = client.ask_problem(b"", b"text/plain", b"refused")
        assert (problem["status"], problem["type"]) == (503, "urn:dploylib:overloaded")
    assert counts.rejected == 20
    assert (
        f"rejected a message since all handlers of tested.request are busy (concurrency: {concurrency})" in caplog.text
    )
    assert len(caplog.records) == 1
    server.go_on.set()
    assert [client.receive()[-1] for client in busy] == [b"wait"] * concurrency
    assert client.ask_text("served") == "served"
    assert counts.rejected == 20


@both
def test_no_more_handlers_run_than_may(serve, peer, concurrency, wait_until):
    class Counts(Waits):
        running = most = 0

        def request(self, socket, received):
            self.running += 1
            self.most = max(self.most, self.running)
            gevent.sleep(0)
            self.running -= 1
            return "done"

    server = serve(Counts, request={"concurrency": concurrency})
    client = peer("dealer", server.endpoints["request"][0])
    for _ in range(500):
        client.send(b"", b"", b"text/plain", b"x")
    replies = [client.receive()[-1] for _ in range(500)]
    assert server.most <= concurrency
    assert replies.count(b"done") + server.counts["request"].rejected == 500
    assert replies.count(b"done") >= concurrency


def test_the_configuration_decides(serve, peer, wait_until):
    server = serve(Waits, request={"overload": "wait"})
    clients = [peer("req", server.endpoints["request"][0]) for _ in range(3)]
    for client in clients:
        client.send(b"", b"text/plain", b"wait")
    wait_until(lambda: server.counts["request"].received)
    server.go_on.set()
    assert [client.receive()[-1] for client in clients] == [b"wait"] * 3
    assert server.counts["request"].rejected == 0


def test_it_is_declared_on_handler_classes_too(serve):
    class Busy(Handler):
        socket_type = "router"
        overload = "reject"

        def __call__(self, server, socket, received):
            return "done"

    assert Busy.bind("a").overload == "reject"


@pytest.mark.parametrize("kind", ["pull", "sub"])
def test_where_nobody_could_be_told_it_is_refused(kind):
    with pytest.raises(DeclarationError, match=f"nothing can be sent back on a {kind} socket"):
        connect_in("in", kind, overload="reject")
    with pytest.raises(DeclarationError, match="overload is 'wait' or 'reject', not 'drop'"):
        connect_in("in", "rep", overload="drop")


def test_what_is_configured_is_checked_where_no_service_does_it(serve):
    class Pulls(Server):
        @bind_in("work", "pull")
        def work(self, socket, received):
            pass

    with pytest.raises(DeclarationError, match=r"tested\.work: overload is 'reject', but nothing can be sent back"):
        serve(Pulls, work={"overload": "reject"})


def test_a_message_that_is_no_request_takes_nobodys_place(serve, peer, wait_until):
    """`on_error` may take its time over a malformed one."""

    class Ponders(Waits):
        def on_error(self, socket, received, error):
            self.go_on.wait()

    server = serve(Ponders)
    client, other = peer("req", server.endpoints["request"][0]), peer("req", server.endpoints["request"][0])
    client.send(b"malformed")
    wait_until(lambda: server.counts["request"].malformed)
    assert other.ask_text("served") == "served"
    server.go_on.set()
    assert client.problem_in(client.receive())["status"] == 400

"""`on_error`, which lets a server decide what becomes of a message that was not handled."""

import asyncio

import gevent
import pytest
from gevent.event import Event

from dploylib.errors import (
    DeadlineExceeded,
    HandlerTimeout,
    InvalidData,
    MalformedEnvelope,
    NoReply,
    UnexpectedMimetype,
)
from dploylib.servers import Server, bind_in
from dploylib.transport import Problem

both = pytest.mark.parametrize("concurrency", [1, 10])


class Decides(Server):
    """Its handlers do what they are told to, and so does its on_error."""

    def setup(self):
        self.seen = []
        self.pulled = Event()

    def on_error(self, socket, received, error):
        self.seen.append((received and received.data, error))
        return self.decide(socket, received, error)

    def decide(self, socket, received, error):
        return f"decided: {type(error).__name__}"

    def handle(self, socket, received):
        if received.text == "raise":
            raise KeyError("secret")
        if received.text == "wait":
            gevent.sleep(60)
        if received.text == "number":
            return received.json
        if received.text == "send and raise":
            socket.send_text("sent")
            raise KeyError("secret")
        return received.text if received.text == "good" else None

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return self.handle(socket, received)

    @bind_in("router", "router")
    def router(self, socket, received):
        return self.handle(socket, received)

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        if received.text == "good":
            self.pulled.set()
        return self.handle(socket, received)


CASES = {
    "raise": KeyError,
    "wait": HandlerTimeout,
    "number": UnexpectedMimetype,
    "nothing": NoReply,
}


@both
@pytest.mark.parametrize("what", CASES)
def test_what_it_returns_is_the_reply_and_nothing_is_logged(serve, peer, what, concurrency, caplog):
    server = serve(Decides, rep={"concurrency": concurrency, "timeout": 0.05})
    client = peer("req", server.endpoints["rep"][0])
    assert client.ask_text(what) == f"decided: {type(server.seen[0][1]).__name__}"
    assert isinstance(server.seen[0][1], CASES[what])
    assert server.seen[0][0] == what.encode()
    assert client.ask_text("good") == "good"
    assert caplog.records == []
    assert server.counts["rep"].replied == 2


@both
def test_it_is_asked_about_malformed_messages_and_its_answer_finds_the_way_back(serve, peer, concurrency):
    server = serve(Decides, rep={"concurrency": concurrency}, router={"concurrency": concurrency})
    for kind, front in (("rep", []), ("router", [b"hop", b""])):
        client = peer("dealer", server.endpoints[kind][0])
        client.send(*(front or [b""]), b"one frame")
        assert client.receive()[-3:] == [b"", b"text/plain", b"decided: MalformedEnvelope"]
        data, error = server.seen.pop()
        assert data is None
        assert isinstance(error, MalformedEnvelope)
        assert error.frames[-1] == b"one frame"
        assert server.counts[kind].malformed == 1


def test_it_is_asked_about_deadlines_and_bodies_that_are_not_what_was_declared(serve, peer, metadata_frame):
    class Typed(Decides):
        rep = bind_in("rep", "rep", obj=Problem)(lambda self, socket, received: received.obj.title)

    server = serve(Typed)
    client = peer("dealer", server.endpoints["rep"][0])
    assert client.ask(b"", b"", b"application/json", b"{}")[-1] == b"decided: InvalidData"
    assert client.ask(metadata_frame(d=0), b"", b"", b"text/plain", b"wait")[-1] == b"decided: DeadlineExceeded"
    assert [type(error) for _, error in server.seen] == [InvalidData, DeadlineExceeded]


def test_where_nobody_waits_for_an_answer_a_value_means_that_it_is_taken_care_of(serve, peer, caplog):
    server = serve(Decides)
    client = peer("push", server.endpoints["pull"][0])
    client.send(b"", b"text/plain", b"raise")
    client.send(b"only one frame")
    client.send(b"", b"text/plain", b"good")
    server.pulled.wait(10)
    assert [type(error) for _, error in server.seen] == [KeyError, MalformedEnvelope]
    assert server.counts["pull"].failed == 1
    assert caplog.records == [caplog.records[-1]]  # that of the good one, which returned something
    assert "nobody waits for a reply" in caplog.text


@both
def test_without_a_decision_everything_is_as_without_it(serve, peer, concurrency, caplog):
    class Undecided(Decides):
        def decide(self, socket, received, error):
            return None

    server = serve(Undecided, rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    assert client.ask_problem(b"", b"text/plain", b"raise")["status"] == 500
    assert client.ask_problem(b"x")["status"] == 400
    assert len(server.seen) == 2
    assert "the handler of tested.rep failed" in caplog.text
    assert "tested.rep received a malformed envelope" in caplog.text


@both
@pytest.mark.parametrize(
    "failure", ["raises", "leaves", "is cancelled", "waits too long", "returns what cannot be sent", "is killed"]
)
def test_when_it_fails_too_the_default_happens(serve, peer, concurrency, failure, caplog):
    class Fails(Decides):
        def decide(self, socket, received, error):
            if failure == "raises":
                raise ValueError("broken")
            if failure == "leaves":
                raise SystemExit(1)
            if failure == "is cancelled":
                raise asyncio.CancelledError
            if failure == "waits too long":
                gevent.sleep(60)
            if failure == "is killed":
                raise gevent.GreenletExit
            return {1, object()}

    server = serve(Fails, rep={"concurrency": concurrency, "timeout": 0.05})
    client = peer("req", server.endpoints["rep"][0])
    assert client.ask_problem(b"", b"text/plain", b"raise")["type"] == "urn:dploylib:handler-failed"
    assert "on_error of server tested failed for a message of tested.rep" in caplog.text
    assert "the handler of tested.rep failed" in caplog.text
    assert client.ask_text("good") == "good"


@both
def test_it_may_send_the_reply_itself(serve, peer, concurrency, caplog):
    class Sends(Decides):
        def decide(self, socket, received, error):
            socket.send_text("sent by on_error")

    server = serve(Sends, rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    assert client.ask_text("raise") == "sent by on_error"
    assert client.ask_text("good") == "good"
    assert caplog.records == []


@both
def test_a_request_that_was_answered_before_its_handler_failed_gets_no_second_answer(serve, peer, concurrency):
    server = serve(Decides, rep={"concurrency": concurrency})
    client = peer("dealer", server.endpoints["rep"][0])
    assert client.ask(b"", b"", b"text/plain", b"send and raise")[-1] == b"sent"
    assert client.ask(b"", b"", b"text/plain", b"good")[-1] == b"good"
    assert len(server.seen) == 1
    assert client.silent()


@both
def test_a_problem_is_not_answered_by_a_problem(serve, peer, concurrency):
    """Else two peers could tell each other so for ever."""

    class Plain(Server):
        @bind_in("router", "router")
        def router(self, socket, received):
            raise KeyError

    server = serve(Plain, router={"concurrency": concurrency})
    client = peer("dealer", server.endpoints["router"][0])
    client.send(b"", b"", b"application/problem+json; charset=utf-8", b"{}")
    assert client.ask(b"", b"", b"text/plain", b"x")[-2] == b"application/problem+json"
    assert client.silent()
    assert server.counts["router"].failed == 2


@both
def test_a_malformed_request_that_it_has_answered_gets_no_second_answer(serve, peer, concurrency, caplog):
    class Sends(Decides):
        def decide(self, socket, received, error):
            if self.fails and isinstance(error, MalformedEnvelope):
                socket.send_text("sent")
                raise KeyError
            if isinstance(error, MalformedEnvelope):
                socket.send_text("sent")
                return "returned"
            return None

    server = serve(Sends, rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    for server.fails in (False, True):
        assert client.ask(b"one frame")[-1] == b"sent"
        assert client.ask_text("good") == "good"
    assert server.counts["rep"].undelivered == 0


def test_a_deadline_of_the_caller_bounds_it(serve, peer, metadata_frame):
    class Ponders(Decides):
        def decide(self, socket, received, error):
            gevent.sleep(3600)

    server = serve(Ponders)
    client = peer("dealer", server.endpoints["rep"][0])
    reply = client.ask(metadata_frame(d=100), b"", b"", b"text/plain", b"raise")
    assert client.problem_in(reply)["type"] == "urn:dploylib:handler-failed"

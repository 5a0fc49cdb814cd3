"""Hooks, which are called when something happens to servers and their messages."""

import asyncio
import contextvars
import logging

import gevent
import pytest
from gevent.event import Event

from dploylib.errors import (
    HandlerEnded,
    HandlerTimeout,
    MalformedEnvelope,
    NoReply,
    Overloaded,
    ServerFailing,
    ShuttingDown,
)
from dploylib.servers import Hook, MessageLog, Server, bind_in

both = pytest.mark.parametrize("concurrency", [1, 10])


class Works(Server):
    def setup(self):
        self.running, self.go_on = Event(), Event()

    def handle(self, socket, received):
        if received.text == "raise":
            raise KeyError("secret")
        if received.text == "wait":
            self.running.set()
            self.go_on.wait()
        return received.text if received.text != "nothing" else None

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return self.handle(socket, received)

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.handle(socket, received)


class Recorder(Hook):
    """Takes note of everything."""

    def __init__(self):
        self.events = []

    def server_started(self, server):
        self.events.append(("started", server.name))

    def server_stopping(self, server):
        self.events.append(("stopping", server.name))

    def server_stopped(self, server):
        assert server.sockets.rep.closed
        self.events.append(("stopped", server.name))

    def server_failed(self, server, error):
        self.events.append(("server failed", type(error)))

    def message_received(self, server, socket, received):
        self.events.append(("received", socket, received.text))

    def message_handled(self, server, socket, received, seconds):
        assert 0 <= seconds < 60
        self.events.append(("handled", socket, received.text))

    def message_failed(self, server, socket, received, error, seconds):
        assert 0 <= seconds < 60
        self.events.append(("failed", socket, received and received.text, type(error)))


@pytest.fixture
def hooked(serve):
    """A server of this class with these hooks."""

    def hooked(server_cls, *hooks, **settings):
        made = type("Hooked", (server_cls,), {"__init__": _with_hooks(server_cls, hooks)})
        return serve(made, **settings)

    return hooked


def _with_hooks(server_cls, hooks):
    def init(self, *args):
        server_cls.__init__(self, *args)
        self.hooks = hooks

    return init


@both
def test_the_life_of_a_message_is_told(hooked, serve, peer, concurrency):
    recorder = Recorder()
    server = hooked(Works, recorder, rep={"concurrency": concurrency, "timeout": 0.05})
    client = peer("req", server.endpoints["rep"][0])
    for text in ("good", "raise", "nothing", "wait"):
        client.ask(b"", b"text/plain", text.encode())
    client.ask(b"malformed")
    serve.stop(server)
    assert recorder.events == [
        ("started", "tested"),
        ("received", "rep", "good"),
        ("handled", "rep", "good"),
        ("received", "rep", "raise"),
        ("failed", "rep", "raise", KeyError),
        ("received", "rep", "nothing"),
        ("failed", "rep", "nothing", NoReply),
        ("received", "rep", "wait"),
        ("failed", "rep", "wait", HandlerTimeout),
        ("failed", "rep", None, MalformedEnvelope),
        ("stopping", "tested"),
        ("stopped", "tested"),
    ]


def test_what_is_turned_away_is_told_too(hooked, serve, peer):
    recorder = Recorder()
    server = hooked(Works, recorder, rep={"overload": "reject"})
    busy, refused, late = (peer("req", server.endpoints["rep"][0]) for _ in range(3))
    busy.send(b"", b"text/plain", b"wait")
    server.running.wait(10)
    assert refused.ask_problem(b"", b"text/plain", b"refused")["type"] == "urn:dploylib:overloaded"
    server.stop(60)
    assert late.ask_problem(b"", b"text/plain", b"late")["type"] == "urn:dploylib:shutting-down"
    server.stop(0)
    serve.result(server)
    assert busy.problem_in(busy.receive())["type"] == "urn:dploylib:handler-ended"
    assert recorder.events[2:] == [
        ("failed", "rep", "refused", Overloaded),
        ("stopping", "tested"),
        ("failed", "rep", "late", ShuttingDown),
        ("failed", "rep", "wait", HandlerEnded),
        ("stopped", "tested"),
    ]


def test_a_server_that_fails_tells_so(hooked, serve):
    class Dies(Works):
        def setup(self):
            super().setup()
            self.spawn(self.die)

        def die(self):
            raise KeyError

    recorder = Recorder()
    server = hooked(Dies, recorder)
    with pytest.raises(ServerFailing):
        serve.result(server)
    assert recorder.events[-1] == ("server failed", ServerFailing)


@both
def test_a_hook_that_fails_is_logged_and_changes_nothing(hooked, serve, peer, concurrency, caplog):
    class Broken(Hook):
        pass

    for event in vars(Hook):
        if event.startswith(("server_", "message_")):
            setattr(Broken, event, lambda *_: 1 / 0)

    recorder = Recorder()
    server = hooked(Works, Broken(), recorder, rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    for _ in range(50):
        assert client.ask_text("good") == "good"
    assert client.ask_problem(b"", b"text/plain", b"raise")["status"] == 500
    serve.stop(server)
    assert recorder.events.count(("handled", "rep", "good")) == 50
    assert recorder.events[-1] == ("stopped", "tested")
    messages = [record.getMessage() for record in caplog.records]
    # The first time, and then not more often than once a second.
    assert messages.count("message_received of the hook Broken failed") < 10
    for event in ("server_started", "server_stopping", "server_stopped", "message_handled", "message_failed"):
        assert f"{event} of the hook Broken failed" in messages
    assert "ZeroDivisionError" in caplog.text


def test_hooks_run_in_the_context_of_the_handler(hooked, peer):
    """So that a trace that one of them begins is there in the handler."""
    trace = contextvars.ContextVar("trace", default="none")
    ended = []

    class Traces(Hook):
        def message_received(self, server, socket, received):
            assert trace.get() == "none"
            trace.set(received.text)

        def message_handled(self, server, socket, received, seconds):
            ended.append(trace.get())

    class Tells(Works):
        def handle(self, socket, received):
            gevent.sleep(0)
            return trace.get()

    server = hooked(Tells, Traces(), rep={"concurrency": 10})
    client = peer("dealer", server.endpoints["rep"][0])
    for number in range(20):
        client.send(b"", b"", b"text/plain", b"%d" % number)
    assert {client.receive()[-1] for _ in range(20)} == {b"%d" % number for number in range(20)}
    assert sorted(map(int, ended)) == list(range(20))


def test_a_log_of_messages_is_there_to_be_used(hooked, peer, caplog):
    server = hooked(Works, MessageLog())
    client = peer("req", server.endpoints["rep"][0])
    with caplog.at_level(logging.INFO):
        client.ask(b"id 1", b"text/plain", b"good")
        client.ask(b"", b"text/plain", b"raise")
        client.ask(b"malformed")
    lines = [record.getMessage() for record in caplog.records if record.name == "dploylib.access"]
    assert len(lines) == 3
    assert lines[0].startswith("tested.rep handled text/plain of 4 bytes with id 'id 1' in ")
    assert lines[1].startswith("tested.rep did not handle text/plain of 5 bytes: KeyError after ")
    assert lines[2] == "tested.rep did not handle a malformed message: MalformedEnvelope after 0.0 ms"


@both
@pytest.mark.parametrize("what", ["SystemExit", "CancelledError", "waits too long", "is killed"])
def test_whatever_a_hook_does_before_the_handler_the_request_is_answered(hooked, peer, concurrency, what, caplog):
    class Unruly(Hook):
        def message_received(self, server, socket, received):
            if received.text != "unruly":
                return
            if what == "SystemExit":
                raise SystemExit(1)
            if what == "CancelledError":
                raise asyncio.CancelledError
            if what == "is killed":
                gevent.getcurrent().kill()
            gevent.sleep(3600)

    server = hooked(Works, Unruly(), rep={"concurrency": concurrency, "timeout": 0.05})
    client = peer("req", server.endpoints["rep"][0])
    reply = client.ask(b"", b"text/plain", b"unruly")
    if what in ("SystemExit", "CancelledError"):
        assert reply[-1] == b"unruly"
        assert "message_received of the hook Unruly failed" in caplog.text
    else:
        assert client.problem_in(reply)["status"] == (504 if what == "waits too long" else 500)
    assert client.ask_text("good") == "good"


@both
def test_a_hook_that_waits_when_a_stop_is_out_of_time_leaves_nobody_without_an_answer(hooked, serve, peer, concurrency):
    began = Event()

    class Waits(Hook):
        def message_received(self, server, socket, received):
            began.set()
            gevent.sleep(3600)

    server = hooked(Works, Waits(), rep={"concurrency": concurrency})
    client = peer("req", server.endpoints["rep"][0])
    client.send(b"", b"text/plain", b"good")
    began.wait(10)
    serve.stop(server, 0)
    assert client.problem_in(client.receive())["type"] == "urn:dploylib:handler-ended"


def test_a_handler_is_known_by_its_own_name_with_hooks_too(hooked, serve):
    """Whoever looks for what blocks the hub wants to know it."""
    names = [server._dispatchers["rep"].handler_name for server in (hooked(Works, Recorder()), serve(Works))]
    assert names == ["Works.rep", "Works.rep"]

"""Reading, sending and waiting fail for lack of memory or descriptors, once or for a while: the server goes on.

The errors are injected below everything of ours, where pyzmq is called. The server runs in this process.
"""

import errno
import logging
import resource

import gevent
import pytest
import zmq
import zmq.green

from dploylib import Service
from dploylib.errors import ServiceFailing, TransientError
from dploylib.transport import Context, PollLoop, Socket, reading, waiting
from dploylib.transport import socket as transport_socket
from tests.hard.running import ask, wait_until
from tests.servers.echo import Echo

PASSING = [errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.EINTR]
# Which errors pass is known in one place, and what each kind of socket does then is the same for all of them.
FAILURES = [("rep", number) for number in PASSING] + [(name, errno.ENOMEM) for name in ("pool", "router", "dealer")]
KINDS = {"rep": "req", "pool": "req", "router": "req", "dealer": "dealer"}


class Polled(Echo):
    """The same on a poll loop."""

    def __init__(self, *arguments):
        super().__init__(*arguments, PollLoop.new())


each_failure = pytest.mark.parametrize(
    ("name", "number"), FAILURES, ids=[f"{name}-{errno.errorcode[number]}" for name, number in FAILURES]
)


@pytest.fixture(params=[Echo, Polled])
def service(leak_check, request):
    service = Service()
    service.add_server("echo", request.param)
    anywhere = {name: {"uri": "tcp://127.0.0.1:*"} for name in Echo.description.socket_names}
    with service.start(config_dict={"servers": {"echo": anywhere}}):
        yield service


@pytest.fixture
def peer(service):
    """`peer(name)`: a plain pyzmq socket that is connected to a socket of the service, and has been answered."""
    context = zmq.green.Context()

    def peer(name):
        socket = context.socket(getattr(zmq, KINDS[name].upper()))
        socket.linger = 0
        socket.connect(service.endpoints["echo"][name])
        assert ask(socket, b"", b"text/plain", b"first") == [b"", b"text/plain", b"first"]
        return socket

    yield peer
    context.destroy(linger=0)


class Failing:
    """Stands for a function of pyzmq: as long as `times` is above 0, a call for the service fails."""

    def __init__(self, function, number, sockets):
        self.function = function
        self.number = number
        self.sockets = sockets
        self.times = 0
        self.failed = 0

    def __call__(self, zmq_socket, *arguments):
        if self.times > 0 and zmq_socket in self.sockets:
            self.times -= 1
            self.failed += 1
            raise zmq.ZMQError(self.number)
        return self.function(zmq_socket, *arguments)


@pytest.fixture
def failing(service, monkeypatch):
    """`failing(module, name, number)`: let a function of pyzmq fail for the sockets of the service."""
    server = service.servers["echo"]
    sockets = {socket._zmq_socket for _, socket in server.sockets.items()}

    def failing(module, name, number):
        spy = Failing(getattr(module, name), number, sockets)
        monkeypatch.setattr(module, name, spy)
        return spy

    return failing


@each_failure
def test_a_read_that_fails_is_tried_again_and_no_request_is_lost(peer, failing, caplog, name, number):
    client = peer(name)
    spy = failing(reading, "_receive", number)
    for times in (1, 3):
        spy.times = times
        assert ask(client, b"", b"text/plain", b"good") == [b"", b"text/plain", b"good"]
        assert spy.times == 0
    complaints = [record for record in caplog.records if "trying again" in record.getMessage()]
    assert complaints[0].levelno == logging.WARNING
    assert f"echo.{name}" in complaints[0].getMessage()


def test_a_read_that_fails_for_long_is_logged_now_and_then(peer, failing, caplog, service):
    client = peer("rep")
    spy = failing(reading, "_receive", errno.ENOMEM)
    spy.times = 10**9
    client.send_multipart([b"", b"text/plain", b"good"])
    wait_until(lambda: spy.failed >= 20)
    assert 1 <= len(caplog.records) < spy.failed / 2
    spy.times = 0
    assert client.recv_multipart() == [b"", b"text/plain", b"good"]


def test_a_stop_does_not_wait_for_a_read_that_fails(peer, failing, service):
    client = peer("rep")
    spy = failing(reading, "_receive", errno.ENOMEM)
    spy.times = 10**9
    client.send_multipart([b"", b"text/plain", b"never received"])
    wait_until(lambda: spy.failed >= 3)
    service.stop(30)
    service.wait()  # it has not failed


@each_failure
def test_a_look_at_the_events_that_fails_keeps_nobody_from_being_woken(peer, failing, name, number):
    """The hub looks at the events when something has happened; it must do so the next time too."""
    client = peer(name)
    spies = [failing(module, "_get", number) for module in (waiting, transport_socket)]
    for times in (1, 5):
        for spy in spies:
            spy.times = times
        for _ in range(20):
            assert ask(client, b"", b"text/plain", b"good") == [b"", b"text/plain", b"good"]
    assert sum(spy.failed for spy in spies) >= 6


@pytest.mark.parametrize(
    ("name", "number"),
    [("rep", errno.ENOMEM), ("rep", errno.ENOBUFS), ("pool", errno.ENOMEM), ("router", errno.ENOMEM)],
)
def test_a_reply_that_cannot_be_sent_is_an_error_to_its_caller_and_the_next_one_is_sent(peer, failing, name, number):
    client = peer(name)
    spy = failing(transport_socket, "_send", number)
    spy.times = 1
    assert b"urn:dploylib:handler-failed" in ask(client, b"", b"text/plain", b"good")[-1]
    assert ask(client, b"", b"text/plain", b"good") == [b"", b"text/plain", b"good"]


@pytest.mark.parametrize("name", ["rep", "pool", "router"])
def test_when_nothing_can_be_sent_for_a_while_only_those_callers_go_without_a_reply(peer, failing, service, name):
    clients = [peer(name) for _ in range(5)]
    spy = failing(transport_socket, "_send", errno.ENOMEM)
    spy.times = 10**9
    for client in clients:
        client.send_multipart([b"", b"text/plain", b"good"])
    wait_until(lambda: service.servers["echo"].counts[name].undelivered == len(clients))
    spy.times = 0
    assert ask(peer(name), b"", b"text/plain", b"good") == [b"", b"text/plain", b"good"]


@pytest.mark.parametrize("kind", ["push", "dealer", "router"])
def test_a_body_for_which_there_is_no_memory_leaves_no_half_message_behind(kind, monkeypatch):
    """The frames before it must not become part of the next message."""
    with Context.new() as context:
        receiver = Socket.bind_new("pull" if kind == "push" else "dealer", "inproc://here", context=context)
        sender = context.socket(kind, {"router_mandatory": True} if kind == "router" else {})
        sender.connect("inproc://here")
        route = []
        if kind == "router":
            receiver.send_text("here I am")
            route = sender.receive_frames(timeout=10)[:1]
        body = bytes(100_000_000)
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 50_000_000, limit[1]))
        try:
            with pytest.raises(TransientError, match="Cannot allocate memory"):
                sender.send_frames([*route, b"id", b"mimetype", body])
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
        sender.send_frames([*route, b"the", b"next", b"one"])
        assert receiver.receive_frames(timeout=10) == [b"the", b"next", b"one"]


def address_space() -> int:
    """The bytes of this process's address space that are in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def test_what_is_no_passing_error_still_makes_the_server_fail(peer, failing, service):
    """Nobody should try for ever what can never work."""
    spy = failing(reading, "_receive", errno.EINVAL)
    client = peer("rep")
    spy.times = 1
    client.send_multipart([b"", b"text/plain", b"never received"])
    with gevent.Timeout(10, TimeoutError("it goes on")), pytest.raises(ServiceFailing, match="Invalid argument"):
        service.wait()


@pytest.mark.parametrize("number", PASSING)
def test_a_server_hears_of_the_stop_although_the_read_of_its_control_socket_fails(service, monkeypatch, caplog, number):
    control = service.servers["echo"]._control._socket.zmq_socket
    failing = Failing(reading._receive, number, {control})
    monkeypatch.setattr(reading, "_receive", failing)
    failing.times = 2
    service.stop()
    service.wait()
    assert failing.failed == 2
    assert "did not stop within" not in caplog.text

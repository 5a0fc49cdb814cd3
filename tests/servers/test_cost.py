"""What a message costs, in numbers of calls: they are the same on every machine, so that a bound on them cannot flake.

`make bench` measures times. Here a fixed run is counted: messages that lie ready are handled one after the other, and
their number divides what was called meanwhile. A bound that does not hold any longer says that somebody put something
into the way of every message. Each bound has its reason beside it; lower it when it can be lower.
"""

import sys
from collections import Counter

import gevent
import msgspec
import pytest
import zmq

from dploylib.servers import Server, bind_in
from dploylib.transport import reading, receive_loop, waiting
from dploylib.transport import socket as transport_socket

MESSAGES = 500
BODY = b"x" * 64
IN_VAIN = 1  # the attempt after the last message
LOOKS = 20  # for the first few messages, where it is not known yet that there are many, and when all are handled


class Item(msgspec.Struct):
    name: str
    count: int


class Counted(Server):
    """Its handlers begin to count the calls with the first message, and end with the last one."""

    def setup(self):
        self.handled = 0
        self.python = Counter()
        self.greenlets = set()

    def count(self):
        self.handled += 1
        self.greenlets.add(gevent.getcurrent())
        if self.handled == 1:
            sys.setprofile(self.profile)  # of this greenlet, which handles all of them
        elif self.handled == MESSAGES:
            sys.setprofile(None)

    def profile(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename != __file__:
            self.python[frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name] += 1

    def by_socket(self, socket, received):
        self.count()
        socket.send_envelope(received)

    def by_return(self, socket, received):
        self.count()
        return received.text

    def by_object(self, socket, received):
        self.count()
        return received.obj

    def silently(self, socket, received):
        self.count()

    rep = bind_in("rep", "rep")(by_socket)
    rep_return = bind_in("rep_return", "rep")(by_return)
    rep_object = bind_in("rep_object", "rep", obj=Item)(by_object)
    many = bind_in("many", "rep", concurrency=100)(by_return)
    router = bind_in("router", "router")(by_socket)
    router_return = bind_in("router_return", "router")(by_return)
    pull = bind_in("pull", "pull")(silently)
    dealer = bind_in("dealer", "dealer")(by_socket)


@pytest.fixture
def calls(monkeypatch):
    """How often pyzmq was called, by what for."""
    calls = Counter()

    def counting(name, function):
        def counted(zmq_socket, *arguments):
            calls[name if arguments[-1] is not False else f"{name} as a frame object"] += 1
            return function(zmq_socket, *arguments)

        return counted

    for module, name in [
        (reading, "_receive"),
        (transport_socket, "_send"),
        (transport_socket, "_get"),
        (waiting, "_get"),
    ]:
        monkeypatch.setattr(module, name, counting(name.strip("_"), getattr(module, name)))
    return calls


@pytest.fixture
def run(serve, calls, wait_until, monkeypatch):
    """Run the messages through a socket, and return the calls of Python functions a message."""

    def run(name, kind, *frames):
        monkeypatch.setattr(receive_loop, "_TURN_SECONDS", 60)  # how often others get their turn is a matter of time
        server = serve(Counted, **{name: {"uri": "inproc://counted", "options": {"hwm": 0}}})
        zmq_socket = server.context.zmq_context.socket(getattr(zmq, kind.upper()))
        with zmq_socket:
            zmq_socket.set_hwm(0)
            zmq_socket.connect("inproc://counted")
            calls.clear()
            for _ in range(MESSAGES):
                zmq_socket.send_multipart(frames, zmq.DONTWAIT)
            wait_until(lambda: server.counts[name].handled == MESSAGES)
            if kind == "dealer":
                assert zmq_socket.recv_multipart(zmq.DONTWAIT) == list(frames)
        assert len(server.greenlets) == 1
        return sum(server.python.values()) / (MESSAGES - 1)

    return run


TEXT = [b"", b"", b"text/plain", BODY]
OBJECT = [b"", b"", b"application/json", b'{"name":"x","count":1}']

COSTS = {
    # socket: (kind of the peer, frames, bytes received, frame objects received, frames sent, Python functions called)
    #
    # A ROUTER underneath: the routing id always has a frame behind it, the other four may be the last. A REP itself
    # would take two frames less each way, and cannot do what RepDispatcher says. Functions, in their order: readable,
    # read_routed, _with_rest; __call__, receive_frames, _open, adopt, the constructors of ReplySocket and ReceivedData;
    # _serve, the handler (not counted), send_envelope, send_frames of the reply and of the socket, _send_now.
    "rep": ("dealer", TEXT, 1, 4, 5, 14),
    # Instead of send_envelope: text, to_text and data of what was received; _reply and _reply_frames.
    "rep_return": ("dealer", TEXT, 1, 4, 5, 18),
    # Besides: what decodes an object by its mimetype, encodes it, and makes an envelope of it.
    "rep_object": ("dealer", OBJECT, 1, 4, 5, 28),
    # That several handlers may run at once costs one look at a flag a message, as long as none of them waits.
    "many": ("dealer", TEXT, 1, 4, 5, 18),
    # No ReplySocket.
    "router": ("dealer", TEXT, 1, 4, 5, 12),
    "router_return": ("dealer", TEXT, 1, 4, 5, 16),
    # Nothing tells where a message ends but the frames themselves.
    "pull": ("push", TEXT[1:], 0, 3, 0, 9),
    "dealer": ("dealer", [b"route", *TEXT], 0, 5, 5, 13),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_message_that_lies_ready_costs_no_more_calls_than_it_must(name, run, calls):
    kind, frames, as_bytes, as_objects, sent, most_functions = COSTS[name]
    functions = run(name, kind, *frames)
    print(f"{functions:.2f} functions a message; {dict(calls)}")
    assert calls["receive"] + calls["receive as a frame object"] == (as_bytes + as_objects) * MESSAGES + IN_VAIN
    assert calls["receive as a frame object"] <= as_objects * MESSAGES + IN_VAIN
    assert calls["send"] == sent * MESSAGES
    assert calls["get"] <= LOOKS  # 0.8 us each: no message of many may cost one
    assert int(functions) <= most_functions


def test_a_message_that_comes_alone_costs_two_looks_and_no_attempt_in_vain(serve, peer, calls):
    """An attempt that finds nothing costs 3 us, which are those of an exception; to ask first costs 0.8 us."""
    server = serve(Counted, rep={"uri": "inproc://counted"})
    with server.context.zmq_context.socket(zmq.REQ) as client:
        client.connect("inproc://counted")
        for count in range(2, 52):
            client.send_multipart(TEXT[1:])
            assert client.recv_multipart() == TEXT[1:]
            if count == 2:
                calls.clear()
                server.handled = 2  # no profile
    # One look when libzmq said that something happened, and one whether there is more.
    assert calls["get"] <= 2.5 * 49
    assert calls["receive"] <= 2 * 49 + 5
    assert calls["receive as a frame object"] == 4 * 49


def test_a_large_body_is_sent_on_without_a_copy(serve, peer, monkeypatch):
    """It saves two copies of it, and what the kernel takes for the memory: at 1 MB half of all that an echo costs."""
    sent = []
    send = transport_socket._send

    def spy(zmq_socket, frame, flags):
        sent.append(type(frame))
        send(zmq_socket, frame, flags)

    monkeypatch.setattr(transport_socket, "_send", spy)
    server = serve(Counted)
    body = b"x" * 1_000_000
    for name in ("rep", "router"):
        assert peer("req", server.endpoints[name][0]).ask(b"", b"m", body)[-1] == body
        assert sent[-1] is zmq.Frame
        server.handled = 2
    sys.setprofile(None)

"""What goes back to the caller: replies by return value, by the socket, and when a handler does anything else.

The peers are plain pyzmq sockets. Whatever a handler of `rep` does, its caller gets one reply and the next is served,
and all of it is the same for one request at a time and for several.
"""

import asyncio
import dataclasses
import logging
import sys
import textwrap

import gevent
import msgspec
import pytest
import zmq
from gevent import subprocess  # the one that lets our server run meanwhile
from gevent.event import Event

from dploylib import servers
from dploylib.errors import InvalidData, SendTimeout, SocketStateError
from dploylib.servers import Server, bind, bind_in, dispatch
from dploylib.transport import Envelope, Problem, ReceivedData

both = pytest.mark.parametrize("concurrency", [1, 10])


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Colour:
    red: int


class Serializable:
    def serialize(self):
        return {"made": "by serialize"}


class OldSerializable:
    def __serialize__(self):
        return ["made by __serialize__"]


class EndsOddly(BaseException):
    """Like those of frameworks that steer with exceptions."""


class Replies(Server):
    """Its handler does what the request names."""

    @bind_in("request", "rep", timeout=5)
    def request(self, socket, received):
        return getattr(self, received.text.partition(" ")[0])(socket, received)

    def text(self, socket, received):
        return received.text

    # By return value

    def returns_str(self, socket, received):
        return "é"

    def returns_empty_str(self, socket, received):
        return ""

    def returns_bytes(self, socket, received):
        return b"\xff\x00"

    def returns_bytearray(self, socket, received):
        return bytearray(b"\xff")

    def returns_dict(self, socket, received):
        return {"a": [1]}

    def returns_list(self, socket, received):
        return [1, None]

    def returns_int(self, socket, received):
        return 0

    def returns_bool(self, socket, received):
        return False

    def returns_dataclass(self, socket, received):
        return Colour(3)

    def returns_struct(self, socket, received):
        return Point(4)

    def returns_serializable(self, socket, received):
        return Serializable()

    def returns_old_serializable(self, socket, received):
        return OldSerializable()

    def returns_problem(self, socket, received):
        return Problem("urn:x", "X", 404)

    def returns_envelope(self, socket, received):
        return Envelope("an id", "a/mimetype", b"body")

    def returns_received(self, socket, received):
        return received

    def returns_new_received(self, socket, received):
        return ReceivedData(Envelope("i", "m", b"b"))

    # By the socket

    def sends_text(self, socket, received):
        socket.send_text("é", id="1")

    def sends_obj(self, socket, received):
        socket.send_obj(Point(4))

    def sends_json(self, socket, received):
        socket.send_json([1], id="2")

    def sends_envelope(self, socket, received):
        socket.send_envelope(received.envelope.response_envelope("m", b"b", id="3"))

    def sends_received(self, socket, received):
        socket.send_envelope(received)

    def sends_frames(self, socket, received):
        socket.send_frames([b"4", b"m", b"b"])

    # Neither, or both, or worse

    def returns_none(self, socket, received):
        return None

    def returns_unencodable(self, socket, received):
        return object()

    def returns_surrogate(self, socket, received):
        return "\udcff"

    def raises(self, socket, received):
        raise ValueError("a secret of ours")

    def raises_system_exit(self, socket, received):
        raise SystemExit("a secret of ours")

    def raises_timeout_of_its_own(self, socket, received):
        raise gevent.Timeout(1)

    def raises_base_exception(self, socket, received):
        raise EndsOddly

    def raises_cancelled(self, socket, received):
        raise asyncio.CancelledError

    def raises_greenlet_exit(self, socket, received):
        raise gevent.GreenletExit

    def is_killed(self, socket, received):
        gevent.spawn_later(0, gevent.getcurrent().kill, block=False)
        gevent.sleep(5)

    def kills_itself(self, socket, received):
        gevent.getcurrent().kill()

    def raises_send_timeout_of_another_socket(self, socket, received):
        raise SendTimeout("another service does not read")

    def raises_mistake_of_another_service(self, socket, received):
        raise InvalidData("another service sent nonsense, a secret of ours")

    def times_out(self, socket, received):
        gevent.sleep(60)

    def sends_and_raises(self, socket, received):
        socket.send_text("sent")
        raise ValueError

    def sends_and_returns(self, socket, received):
        socket.send_text("sent")
        return "returned"

    def sends_twice(self, socket, received):
        socket.send_text("sent")
        socket.send_text("sent again")

    def sends_nothing(self, socket, received):
        socket.send_frames([])

    def sends_and_times_out(self, socket, received):
        socket.send_text("sent")
        gevent.sleep(60)

    def sends_and_is_killed(self, socket, received):
        socket.send_text("sent")
        raise gevent.GreenletExit

    def fails_to_send_and_returns(self, socket, received):
        try:
            socket.send_frames([b"", b"m", "no bytes"])
        except TypeError:
            return "sent"


@pytest.fixture
def ask(serve, peer):
    """Ask a server of `Replies` for something; which one, and the peer, can be had by name."""

    def prepare(concurrency=1, timeout=5.0):
        prepare.server = serve(Replies, request={"concurrency": concurrency, "timeout": timeout})
        prepare.peer = peer("req", prepare.server.sockets.request.endpoint)
        return lambda what: prepare.peer.ask(b"", b"text/plain", what.encode())

    return prepare


JSON = b"application/json"
ANSWERS = {
    "returns_str": [b"", b"text/plain", "é".encode()],
    "returns_empty_str": [b"", b"text/plain", b""],
    "returns_bytes": [b"", b"application/octet-stream", b"\xff\x00"],
    "returns_bytearray": [b"", b"application/octet-stream", b"\xff"],
    "returns_dict": [b"", JSON, b'{"a":[1]}'],
    "returns_list": [b"", JSON, b"[1,null]"],
    "returns_int": [b"", JSON, b"0"],
    "returns_bool": [b"", JSON, b"false"],
    "returns_problem": [b"", b"application/problem+json", b'{"type":"urn:x","title":"X","status":404,"detail":""}'],
    "returns_dataclass": [b"", JSON, b'{"red":3}'],
    "returns_struct": [b"", JSON, b'{"x":4}'],
    "returns_serializable": [b"", JSON, b'{"made":"by serialize"}'],
    "returns_old_serializable": [b"", JSON, b'["made by __serialize__"]'],
    "returns_envelope": [b"an id", b"a/mimetype", b"body"],
    "returns_received": [b"", b"text/plain", b"returns_received"],
    "returns_new_received": [b"i", b"m", b"b"],
    "sends_text": [b"1", b"text/plain", "é".encode()],
    "sends_obj": [b"", JSON, b'{"x":4}'],
    "sends_json": [b"2", JSON, b"[1]"],
    "sends_envelope": [b"3", b"m", b"b"],
    "sends_received": [b"", b"text/plain", b"sends_received"],
    "sends_frames": [b"4", b"m", b"b"],
    "fails_to_send_and_returns": [b"", b"text/plain", b"sent"],
}


@both
def test_a_reply_is_what_the_handler_returned_or_sent(ask, concurrency):
    ask = ask(concurrency)
    assert {what: ask(what) for what in ANSWERS} == ANSWERS


def test_a_reply_by_return_value_keeps_the_id_of_the_request(serve, peer):
    client = peer("req", serve(Replies).sockets.request.endpoint)
    assert client.ask(b"the id", b"text/plain", b"returns_dict") == [b"the id", JSON, b'{"a":[1]}']


# What the caller gets, what is counted, and whether the log has an error.
ODD = {
    "returns_none": ("no-reply", 500, "unanswered", True),
    "returns_unencodable": ("handler-failed", 500, "failed", True),
    "returns_surrogate": ("handler-failed", 500, "failed", True),
    "raises": ("handler-failed", 500, "failed", True),
    "raises_system_exit": ("handler-failed", 500, "failed", True),
    "raises_timeout_of_its_own": ("handler-failed", 500, "failed", True),
    "raises_base_exception": ("handler-failed", 500, "failed", True),
    "raises_cancelled": ("handler-failed", 500, "failed", True),
    "raises_greenlet_exit": ("handler-failed", 500, "failed", True),
    "is_killed": ("handler-failed", 500, "failed", True),
    "kills_itself": ("handler-failed", 500, "failed", True),
    "raises_send_timeout_of_another_socket": ("handler-failed", 500, "failed", True),
    "raises_mistake_of_another_service": ("handler-failed", 500, "failed", True),
    "times_out": ("handler-timeout", 504, "timed_out", False),
}


@both
@pytest.mark.parametrize("what", ODD)
def test_a_handler_that_gives_no_reply_gets_a_problem_sent_for_it(ask, concurrency, what, caplog):
    type, status, counted, logged = ODD[what]
    ask, fixture = ask(concurrency, timeout=0.05 if what == "times_out" else 5), ask
    problem = fixture.peer.problem_in(ask(what))
    assert (problem["type"], problem["status"]) == (f"urn:dploylib:{type}", status)
    assert "secret" not in str(problem)
    assert "tested.request" in problem["detail"]
    assert ask("returns_int") == [b"", JSON, b"0"]
    assert fixture.peer.silent()
    counts = fixture.server.counts["request"]
    assert (getattr(counts, counted), counts.received, counts.replied) == (1, 2, 2), counts
    assert [record.levelno >= logging.ERROR for record in caplog.records] == [logged]


@both
@pytest.mark.parametrize(
    "what", ["sends_and_raises", "sends_and_returns", "sends_twice", "sends_and_times_out", "sends_and_is_killed"]
)
def test_a_handler_that_sent_its_reply_gets_no_other_one_out(ask, concurrency, what, caplog, wait_until):
    ask, fixture = ask(concurrency, timeout=0.05 if what == "sends_and_times_out" else 5), ask
    assert ask(what) == [b"", b"text/plain", b"sent"]
    assert ask("returns_int") == [b"", JSON, b"0"]
    counts = fixture.server.counts["request"]
    wait_until(lambda: counts.failed + counts.timed_out)
    assert fixture.peer.silent()
    assert (counts.failed, counts.timed_out) == ((0, 1) if what == "sends_and_times_out" else (1, 0))
    assert len(caplog.records) == 1


@both
def test_a_handler_may_do_everything_one_after_the_other(ask, concurrency):
    """Nothing that a handler did before has an influence on the next request."""
    ask = ask(concurrency)
    for what in [*ODD, *ANSWERS]:
        if what != "times_out":
            assert len(ask(what)) == 3
            assert ask("returns_int")[-1] == b"0"


@both
def test_the_poll_loop_survives_handlers_too(serve, peer, concurrency):
    from dploylib.transport import PollLoop

    server = serve(Replies, poll_loop=PollLoop.new(), request={"concurrency": concurrency})
    client = peer("req", server.sockets.request.endpoint)
    for what in ("raises", "raises_system_exit", "returns_none", "sends_twice", "raises_base_exception"):
        assert len(client.ask(b"", b"text/plain", what.encode())) == 3
    assert client.ask_text("text") == "text"


# A reply socket that lives longer than its handler --------------------------------------------------------------


class GivesAway(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        if received.text == "take":
            self.taken = socket
            return "taken" if self.replies else None
        try:
            self.taken.send_text("not for you")
        except SocketStateError as error:
            return str(error)

    replies = True


class GivesAwayUnanswered(GivesAway):
    replies = False


@both
@pytest.mark.parametrize("server_cls", [GivesAway, GivesAwayUnanswered])
def test_a_reply_socket_cannot_answer_the_request_of_somebody_else(serve, peer, concurrency, server_cls):
    endpoint = serve(server_cls, request={"concurrency": concurrency}).sockets.request.endpoint
    first, second = peer("req", endpoint), peer("req", endpoint)
    reply = first.ask(b"", b"text/plain", b"take")
    assert reply[-1] == b"taken" if server_cls.replies else first.problem_in(reply)["type"].endswith("no-reply")
    assert second.ask_text("use") == "cannot send: this request has been answered already"
    assert first.silent()


@both
def test_a_reply_socket_can_be_given_to_another_greenlet_while_the_handler_waits(serve, peer, concurrency):
    class Delegates(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            gevent.spawn(socket.send_envelope, received).join()

    client = peer("req", serve(Delegates, request={"concurrency": concurrency}).sockets.request.endpoint)
    assert [client.ask_text(text) for text in "abc"] == ["a", "b", "c"]


# The wire --------------------------------------------------------------------------------------------------------


class Shows(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return [frame.decode() for frame in received.envelope.request_frames]


@both
@pytest.mark.parametrize("route", [[], [b"one"], [b"one", b"two", b"\xff\x00three"]], ids=len)
def test_request_frames_of_a_dealer_come_back_and_are_not_seen_by_the_handler(serve, peer, concurrency, route):
    client = peer("dealer", serve(Shows, request={"concurrency": concurrency}).sockets.request.endpoint)
    for _ in range(2):
        assert client.ask(*route, b"", b"id", b"text/plain", b"") == [*route, b"", b"id", JSON, b"[]"]


@both
def test_request_frames_behind_the_delimiter_are_those_that_the_handler_sees(serve, peer, concurrency):
    client = peer("req", serve(Shows, request={"concurrency": concurrency}).sockets.request.endpoint)
    reply = client.ask(b"mine", b"yours", b"", b"id", b"text/plain", b"")
    assert reply == [b"mine", b"yours", b"", b"id", JSON, b'["mine","yours"]']


PEER_IN_ANOTHER_PROCESS = """
import json, sys, zmq

endpoints = json.loads(sys.argv[1])
context = zmq.Context()
context.linger = 5000

def socket(kind, endpoint):
    socket = context.socket(kind)
    socket.rcvtimeo = 10000
    socket.connect(endpoint)
    return socket

body = bytes(range(256))
for endpoint in endpoints["rep"], endpoints["router"]:
    req = socket(zmq.REQ, endpoint)
    req.send_multipart([b"id", b"a/b", body])
    assert req.recv_multipart() == [b"id", b"a/b", body]
    for route in ([b"one"], [b"one", b"two", b"three"]):
        dealer = socket(zmq.DEALER, endpoint)
        dealer.send_multipart([*route, b"", b"id", b"a/b", body])
        assert dealer.recv_multipart() == [*route, b"", b"id", b"a/b", body]

sub = socket(zmq.SUB, endpoints["feed"])
sub.subscribe(b"topic")
push = socket(zmq.PUSH, endpoints["work"])
poller = zmq.Poller()
poller.register(sub, zmq.POLLIN)
while not poller.poll(10):  # until the subscription has arrived
    push.send_multipart([b"topic", b"a/b", body])
assert sub.recv_multipart() == [b"topic", b"a/b", body]
print("fine")
"""


@both
def test_plain_peers_in_another_process_get_the_same_bytes(serve, concurrency):
    class Echoes(Server):
        feed = bind("feed", "pub")

        @bind_in("rep", "rep")
        def rep(self, socket, received):
            return received

        @bind_in("router", "router")
        def router(self, socket, received):
            return received

        @bind_in("work", "pull")
        def work(self, socket, received):
            self.sockets.feed.send_envelope(received)

    server = serve(Echoes, **{name: {"concurrency": concurrency} for name in ("rep", "router", "work")})
    endpoints = msgspec.json.encode({name: uris[0] for name, uris in server.endpoints.items()})
    code = textwrap.dedent(PEER_IN_ANOTHER_PROCESS)
    with subprocess.Popen(
        [sys.executable, "-c", code, endpoints.decode()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = process.communicate(timeout=30)[0]
    assert (process.returncode, output) == (0, "fine\n")


# What was declared with obj= -------------------------------------------------------------------------------------


class Nested(msgspec.Struct):
    points: list[Point]


class OldObject:
    def __init__(self, x):
        self.x = x

    @classmethod
    def deserialize(cls, data):
        return cls(data["x"])


class Typed(Server):
    @bind_in("nested", "rep", obj=Nested)
    def nested(self, socket, received):
        assert received.obj is received.obj
        return [point.x for point in received.obj.points]

    @bind_in("dataclass", "rep", Colour)
    def dataclass(self, socket, received):
        return received.obj.red

    @bind_in("old", "rep", obj=OldObject)
    def old(self, socket, received):
        return received.obj.x

    @bind_in("none", "rep")
    def none(self, socket, received):
        return received.obj

    @bind_in("unread", "rep", obj=Nested)
    def unread(self, socket, received):
        return "not looked at"


@both
def test_obj_is_what_was_declared(serve, peer, concurrency):
    server = serve(Typed, **{name: {"concurrency": concurrency} for name in Typed.description.socket_names})
    ask = lambda name, body: peer("req", server.endpoints[name][0]).ask(b"", JSON, body)[-1]  # noqa: E731
    assert ask("nested", b'{"points":[{"x":1},{"x":2}]}') == b"[1,2]"
    assert ask("dataclass", b'{"red":5}') == b"5"
    assert ask("old", b'{"x":"any"}') == b"any"
    assert ask("unread", b"no json") == b"not looked at"


BAD_BODIES = [
    ("nested", JSON, b'{"points":[{"x":1},{"x":"2"}]}', 422, "invalid-data", "$.points[1].x"),
    ("nested", JSON, b'{"points":', 400, "undecodable-data", "not application/json"),
    ("nested", b"text/plain", b"{}", 400, "unexpected-mimetype", "expected an envelope of application/json"),
    ("dataclass", JSON, b"{}", 422, "invalid-data", "red"),
    ("old", JSON, b"{}", 422, "invalid-data", "OldObject refused the body: KeyError: 'x'"),
]


@both
@pytest.mark.parametrize(("name", "mimetype", "body", "status", "type", "detail"), BAD_BODIES)
def test_a_body_that_is_not_what_was_declared_is_the_callers_mistake(
    serve, peer, concurrency, name, mimetype, body, status, type, detail, caplog
):
    server = serve(Typed, **{name: {"concurrency": concurrency}})
    client = peer("req", server.endpoints[name][0])
    problem = client.ask_problem(b"", mimetype, body)
    assert (problem["status"], problem["type"]) == (status, f"urn:dploylib:{type}")
    assert detail in problem["detail"]
    counts = server.counts[name]
    assert (counts.refused, counts.failed) == (1, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_obj_without_a_declaration_is_our_own_mistake(serve, peer, caplog):
    server = serve(Typed)
    assert peer("req", server.endpoints["none"][0]).ask_problem(b"", JSON, b"{}")["status"] == 500
    assert server.counts["none"].failed == 1
    assert "this socket declares no obj=" in caplog.text


@both
def test_a_handler_that_deals_with_a_bad_body_itself_is_not_refused(serve, peer, concurrency):
    class Forgiving(Server):
        @bind_in("request", "rep", obj=Point)
        def request(self, socket, received):
            try:
                return received.obj.x
            except InvalidData:
                return -1

    server = serve(Forgiving, request={"concurrency": concurrency})
    assert peer("req", server.endpoints["request"][0]).ask(b"", JSON, b"{}")[-1] == b"-1"
    assert server.counts["request"].refused == 0


# Sockets of other types ------------------------------------------------------------------------------------------


class Peers(Server):
    @bind_in("router", "router")
    def router(self, socket, received):
        return self.answer(socket, received)

    @bind_in("dealer", "dealer")
    def dealer(self, socket, received):
        return self.answer(socket, received)

    @bind_in("pair", "pair")
    def pair(self, socket, received):
        return self.answer(socket, received)

    def answer(self, socket, received):
        if received.text == "new":
            return Envelope("new", "m", b"b")
        if received.text == "raise":
            raise ValueError
        if received.text == "send":
            socket.send_envelope(received.envelope.response_envelope(None, b"sent"))
        return None if received.text in ("send", "nothing") else received


@both
@pytest.mark.parametrize(
    ("name", "kind", "route"),
    [
        ("router", "req", []),
        ("router", "dealer", [b""]),
        ("router", "dealer", [b"one", b"two", b""]),
        ("dealer", "dealer", []),
        ("dealer", "dealer", [b"one", b""]),
        ("pair", "pair", []),
    ],
)
def test_peers_of_other_types_are_answered_by_the_request_frames(serve, peer, concurrency, name, kind, route):
    server = serve(Peers, **{name: {"concurrency": concurrency}})
    client = peer(kind, server.endpoints[name][0])
    assert client.ask(*route, b"id", b"m", b"echo") == [*route, b"id", b"m", b"echo"]
    assert client.ask(*route, b"id", b"m", b"new") == [*route, b"new", b"m", b"b"]
    assert client.ask(*route, b"id", b"m", b"send") == [*route, b"id", b"m", b"sent"]
    reply = client.ask(*route, b"id", b"m", b"raise")
    assert reply[:-2] == [*route, b"id"]
    assert client.problem_in(reply)["status"] == 500


@both
def test_a_router_need_not_answer(serve, peer, concurrency, wait_until):
    server = serve(Peers, router={"concurrency": concurrency})
    client = peer("dealer", server.endpoints["router"][0])
    client.send(b"", b"", b"", b"nothing")
    wait_until(lambda: server.counts["router"].received == 1)
    assert client.ask(b"", b"", b"m", b"echo")[-1] == b"echo"
    assert client.silent()
    assert server.counts["router"].unanswered == 0


def test_a_reply_for_nobody_is_dropped_with_a_warning(serve, peer, wait_until, caplog):
    class Sink(Server):
        @bind_in("work", "pull")
        def work(self, socket, received):
            return "a reply for nobody"

    server = serve(Sink)
    peer("push", server.endpoints["work"][0]).send(b"", b"m", b"b")
    wait_until(lambda: caplog.records)
    assert "nobody waits for a reply" in caplog.text
    assert server.counts["work"].replied == 0


def test_a_handler_class_answers_as_a_method_does(serve, peer):
    class Doubles(servers.Handler):
        socket_type = "rep"
        deserializer = Point

        def __call__(self, server, socket, received):
            return {"x": 2 * received.obj.x, "server": server.name}

    class Twice(Server):
        double = Doubles.bind("double")

    client = peer("req", serve(Twice).endpoints["double"][0])
    assert client.ask(b"", JSON, b'{"x":4}')[-1] == b'{"x":8,"server":"tested"}'


@both
def test_req_and_dealer_get_the_same_bytes(serve, peer, concurrency):
    """A REQ is a DEALER that puts an empty delimiter in front."""
    endpoint = serve(Replies, request={"concurrency": concurrency}).sockets.request.endpoint
    reply = peer("req", endpoint).ask(b"", b"m", b"text")
    assert peer("dealer", endpoint).ask(b"", b"", b"m", b"text") == [b"", *reply]


@pytest.mark.parametrize("kind", ["dealer", "pair"])
@pytest.mark.parametrize("body", [b"reply", b"fail"])
def test_what_a_peer_that_is_gone_should_get_is_given_up_and_does_not_go_to_the_next(
    serve, peer, wait_until, monkeypatch, kind, body
):
    """A DEALER or PAIR without a peer waits for one, and the stop would wait with it."""
    monkeypatch.setattr(dispatch, "_PEER_PATIENCE", 0.02)

    class Waiting(Server):
        def setup(self):
            self.gone = Event()

        @bind_in("it", kind)
        def it(self, socket, received):
            self.gone.wait()
            if received.data == b"fail":
                raise ValueError("it was asked to")
            return received

    server = serve(Waiting)
    endpoint = server.endpoints["it"][0]
    first = peer(kind, endpoint)
    first.send(b"", b"text/plain", body)
    wait_until(lambda: server.counts["it"].received == 1)
    first.zmq_socket.close(linger=0)
    wait_until(lambda: not server.sockets.it.zmq_socket.get(zmq.EVENTS) & zmq.POLLOUT)
    server.gone.set()
    wait_until(lambda: server.counts["it"].undelivered == 1)
    assert peer(kind, endpoint).ask(b"", b"text/plain", b"mine") == [b"", b"text/plain", b"mine"]


@both
def test_a_reply_without_frames_is_refused(ask, concurrency):
    """A REQ would wait for it for ever."""
    ask = ask(concurrency)
    assert ask("sends_nothing")[-2] == b"application/problem+json"

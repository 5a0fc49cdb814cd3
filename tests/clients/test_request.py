"""RequestClient: calls and their replies."""

import gc
import json
import math
import os
import pickle
import socket as network
from collections import Counter

import gevent
import gevent.subprocess
import msgspec
import pytest
import zmq
from gevent.event import Event

from dploylib import Context, Envelope, Server, Service, bind_in
from dploylib.clients import RequestClient
from dploylib.errors import (
    EndpointError,
    InvalidData,
    MalformedEnvelope,
    RemoteError,
    RequestTimeout,
    SocketClosed,
    SocketStateError,
)
from dploylib.transport import Metadata
from tests.clients.asking import asking, received_by

pytestmark = pytest.mark.usefixtures("leak_check")

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"
PROBLEM = b"application/problem+json"
REJECTED = (  # which of the two is a matter of who closes the connection first
    "something listens there, but did not talk to a socket of this type",
    "something listens there, but the handshake of ZeroMQ failed",
)


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Echo(Server):
    def setup(self):
        self.released, self.deadlines, self.ended = Event(), [], Counter()

    @bind_in("rep", "rep", concurrency=2000)
    def answer(self, socket, received):
        return self.work(received)

    @bind_in("router", "router", concurrency=2000)
    def route(self, socket, received):
        return self.work(received)

    def work(self, received):
        self.deadlines.append(received.deadline)
        if received.data == b"wait":
            try:
                self.released.wait()
            finally:
                self.ended["wait"] += 1
        if received.data.startswith(b"after "):
            gevent.sleep(float(received.text.split()[1]))
        if received.data == b"fail":
            raise ValueError("this handler was asked to fail")
        return received.envelope


@pytest.fixture
def service():
    with Service() as service:
        service.add_server("echo", Echo)
        service.graceful_timeout = 0
        yield service.start(config_dict={"servers": {"echo": {name: {"uri": ANYWHERE} for name in ("rep", "router")}}})


@pytest.fixture
def echo(service):
    return service.servers["echo"]


@pytest.fixture(params=["rep", "router"])
def client(request, service):
    with RequestClient(service.endpoints["echo"][request.param], timeout=PATIENCE) as client:
        yield client


# What is sent and what is returned -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "mimetype", "data"),
    [
        ("grüße", "text/plain", "grüße".encode()),
        ("", "text/plain", b""),
        (b"\xff\x00", "application/octet-stream", b"\xff\x00"),
        ({"a": [1]}, "application/json", b'{"a":[1]}'),
        (Point(1, 2), "application/json", b'{"x":1,"y":2}'),
        (Envelope("", "text/csv", "a,b"), "text/csv", b"a,b"),
        (b"x" * 200_000, "application/octet-stream", b"x" * 200_000),
    ],
)
def test_a_message_of_any_kind_is_sent_and_the_reply_is_received_data(client, message, mimetype, data):
    reply = client.request(message, id="the id")
    assert (reply.id, reply.mimetype, reply.data) == ("the id", mimetype, data)


def test_a_reply_can_be_sent_on(client):
    assert client.request(client.request("once", id="7")).id == "7"
    assert client.request(Envelope("own id", "text/plain", "x")).id == "own id"


def test_the_reply_does_not_show_the_frame_that_the_client_put_in_front(client):
    assert client.request("x").envelope.request_frames == []
    own = Envelope("", "text/plain", "x", [b"mine", b"and more"])
    assert client.request(own).envelope.request_frames == [b"mine", b"and more"]


def test_what_cannot_be_encoded_is_told_before_anything_is_sent(client, echo):
    with pytest.raises(TypeError, match="cannot be turned into JSON"):
        client.request(object())
    client.request("x")
    assert len(echo.deadlines) == 1


def test_replies_become_objects(service):
    with RequestClient(service.endpoints["echo"]["rep"], obj=Point) as client:
        assert client.request({"x": 5}).obj == Point(5)
        with pytest.raises(InvalidData):
            client.request({"x": "five"}).obj  # noqa: B018 - the attempt is the test


def test_each_of_many_greenlets_gets_its_own_reply(client):
    """Although the later ones are answered first."""
    asked = [f"after {0.2 - number / 5000} {number}" for number in range(1000)]
    calls = [gevent.spawn(client.request, text) for text in asked]
    gevent.joinall(calls, timeout=PATIENCE, raise_error=True)
    assert [call.value.text for call in calls] == asked


def test_many_greenlets_share_a_client_whose_queue_is_short(service):
    """What they send when all have their replies at once does not find room, and waits for it."""
    options = {"sndhwm": 1, "sndbuf": 4096}
    with RequestClient(service.endpoints["echo"]["router"], options=options, timeout=PATIENCE) as client:

        def ask(number):
            for turn in range(20):
                text = f"after 0.01 {number} {turn} {'x' * 3000}"
                assert client.request(text).text == text

        gevent.joinall([gevent.spawn(ask, number) for number in range(100)], timeout=PATIENCE, raise_error=True)
        [status] = client.endpoints.values()
        assert (status.outstanding, status.late) == (0, 0)


@pytest.mark.parametrize("kind", ["rep", "router"])
def test_a_bare_peer_that_knows_nothing_of_us_is_asked_too(bare, kind):
    peer, endpoint = bare(kind)

    def echo():
        while True:
            peer.send_multipart(peer.recv_multipart())

    echoing = gevent.spawn(echo)
    with RequestClient(endpoint) as client:
        calls = [gevent.spawn(client.request, str(number)) for number in range(50)]
        assert [call.get(timeout=PATIENCE).text for call in calls] == [str(number) for number in range(50)]
    echoing.kill()


def test_a_bare_peer_sees_one_more_request_frame_and_an_envelope(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "hello", id="7", timeout=15):
        _, frame, *rest = received_by(peer)
        assert rest == [b"", b"7", b"text/plain", b"hello"]
        metadata = Metadata.find([frame])
        assert metadata.request_id is not None
        assert 0 < metadata.milliseconds_left <= 15_000


def test_a_service_over_inproc_is_asked(service):
    service.stop()
    service.start(config_dict={"servers": {"echo": {"rep": {"uri": "inproc://a"}, "router": {"uri": "inproc://b"}}}})
    with RequestClient("inproc://a", context=service.context) as client:
        assert client.request("x").text == "x"
        assert client.endpoints["inproc://a"].connection == "ready"


def test_a_service_that_starts_later_is_waited_for(service, wait_until):
    endpoint = service.endpoints["echo"]["rep"]
    service.stop()
    with RequestClient(endpoint) as client, asking(client, "x", timeout=PATIENCE) as call:
        wait_until(lambda: client.endpoints[endpoint].connection == "unreachable")
        service.start(config_dict={"servers": {"echo": {"rep": {"uri": endpoint}, "router": {"uri": ANYWHERE}}}})
        assert call.get(timeout=PATIENCE).text == "x"


# Whose reply it is -----------------------------------------------------------------------------------------------


def test_a_late_reply_is_for_nobody(bare, wait_until):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client:
        with pytest.raises(RequestTimeout):
            client.request("first", timeout=0.2)
        first = received_by(peer)
        with asking(client, "second") as call:
            second = received_by(peer)
            peer.send_multipart(first)
            wait_until(lambda: client.endpoints[endpoint].late == 1)
            assert not call.ready()
            peer.send_multipart(second)
            assert call.get(timeout=PATIENCE).text == "second"


def test_a_second_reply_is_for_nobody(bare, wait_until):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client:
        with asking(client, "once") as call:
            frames = received_by(peer)
            for _ in range(3):
                peer.send_multipart(frames)
            assert call.get(timeout=PATIENCE).text == "once"
        with asking(client, "again") as call:
            peer.send_multipart(received_by(peer))
            assert call.get(timeout=PATIENCE).text == "again"
        wait_until(lambda: client.endpoints[endpoint].late == 2)


def test_a_peer_that_drops_the_request_frame_is_told_in_the_log_once(bare, wait_until, caplog):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "x") as call:
        routing_id, _, *rest = received_by(peer)
        for _ in range(3):
            peer.send_multipart([routing_id, *rest])
        wait_until(lambda: client.endpoints[endpoint].late == 3)
        assert not call.ready()
    assert [record.message for record in caplog.records if "without the request frame" in record.message] == [
        f"{endpoint} sends replies without the request frame of their request, so nobody gets them; they begin with b''"
    ]


@pytest.mark.parametrize("rest", [[], [b"junk"], [b"", b"id", b"mime"], [b"x", b"id", b"mime", b"body"], [b""] * 400])
def test_a_reply_that_is_no_envelope_is_told_to_who_asked(bare, rest):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "x") as call, asking(client, "y") as other:
        routing_id, frame, *_ = received_by(peer)
        second = received_by(peer)
        peer.send_multipart([routing_id, frame, *rest])
        with pytest.raises(MalformedEnvelope):
            call.get(timeout=PATIENCE)
        peer.send_multipart(second)
        assert other.get(timeout=PATIENCE).text == "y"


def test_garbage_harms_nobody(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "x") as call:
        frames = received_by(peer)
        for garbage in ([b""], [b"\xff" * 100_000], [b"DPL1"], [b"DPL1\xc1", b"", b"a"], [b"x"] * 300):
            peer.send_multipart([frames[0], *garbage])
        peer.send_multipart(frames)
        assert call.get(timeout=PATIENCE).text == "x"


# Deadlines -------------------------------------------------------------------------------------------------------


def test_the_deadline_travels_to_the_service_which_stops_working(client, echo, wait_until):
    with pytest.raises(RequestTimeout):
        client.request("wait", timeout=0.2)
    wait_until(lambda: echo.ended["wait"])
    assert not echo.released.is_set()


def test_only_a_call_that_is_asked_to_wait_for_ever_does(client, echo):
    client.request("x")
    client.request("x", timeout=math.inf)
    assert echo.deadlines[0] is not None
    assert echo.deadlines[1] is None
    with RequestClient(next(iter(client.endpoints))) as by_default:
        assert by_default.timeout == 30


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_timeout_is_a_time(client, seconds):
    with pytest.raises(ValueError, match="a number of seconds above 0"):
        client.request("x", timeout=seconds)
    with pytest.raises(ValueError, match="a number of seconds above 0"):
        RequestClient("tcp://127.0.0.1:1", timeout=seconds)


def test_a_call_that_is_interrupted_leaves_nothing_behind(client, echo, wait_until):
    [endpoint] = client.endpoints
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        client.request("wait")
    call = gevent.spawn(client.request, "wait")
    wait_until(lambda: len(echo.deadlines) == 2)
    call.kill()
    assert client.endpoints[endpoint].outstanding == 0
    echo.released.set()
    wait_until(lambda: client.endpoints[endpoint].late == 2)
    assert client.request("x").text == "x"


# What is told when there is no reply -----------------------------------------------------------------------------


def timed_out(endpoint, timeout=0.3, **how):
    with RequestClient(endpoint, **how) as client, pytest.raises(RequestTimeout) as raised:
        client.request("x", timeout=timeout)
    error = raised.value
    assert isinstance(error, TimeoutError)
    assert error.endpoint == endpoint
    assert error.elapsed >= timeout
    assert str(error).startswith(f"{endpoint}: ")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.endpoint, copy.sent, copy.known) == (str(error), endpoint, error.sent, error.known)
    return error


@pytest.mark.parametrize(
    ("endpoint", "known"),
    [
        ("tcp://127.0.0.1:1", "no connection can be made: Connection refused"),
        ("ipc:///nowhere/at/all", "no connection can be made: No such file or directory"),
        (
            "tcp://nobody.invalid:5000",
            "no connection can be made: the host 'nobody.invalid' has no address",
        ),
    ],
)
def test_nobody_there_is_told_with_the_reason(endpoint, known):
    error = timed_out(endpoint)
    assert error.known.startswith(known)
    assert not error.sent
    assert "the request could not be sent within 0.3" in str(error)


def test_a_peer_that_says_nothing_is_told(bare):
    _, endpoint = bare("router")
    error = timed_out(endpoint)
    assert (error.sent, error.known) == (True, "connected")
    assert "the request was sent, but there was no reply within 0.3" in str(error)


def test_a_peer_of_another_type_is_told(bare):
    _, endpoint = bare("pub")
    for timeout in (0.3, 1, 5):  # on a loaded machine the handshake takes a while
        error = timed_out(endpoint, timeout)
        assert not error.sent
        if error.known in REJECTED:
            break
    assert error.known in REJECTED


def test_who_speaks_something_else_is_told():
    with network.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        error = timed_out(endpoint)
        assert error.known == "something listens there, but has not finished the handshake of ZeroMQ"
        assert not error.sent
        assert "handshake" in timed_out(endpoint, options={"handshake_ivl": 50}).known


def test_a_peer_that_reads_nothing_is_told(bare):
    _, endpoint = bare("router", rcvhwm=1, rcvbuf=4096)
    with RequestClient(endpoint, options={"sndhwm": 1, "sndbuf": 4096}) as client:
        errors = []
        for _ in range(200):
            with pytest.raises(RequestTimeout) as raised:
                client.request(b"x" * 100_000, timeout=0.05)
            errors.append(raised.value)
            if not errors[-1].sent:
                break
    assert errors[-1].known == "connected, but it reads nothing"


def test_several_endpoints_are_told_with_what_is_known_of_each(bare):
    _, other_type = bare("pub")
    with RequestClient(["tcp://127.0.0.1:1", other_type]) as client, pytest.raises(RequestTimeout) as raised:
        client.request("x", timeout=0.3)
    assert raised.value.endpoint == f"tcp://127.0.0.1:1, {other_type}"
    assert "tcp://127.0.0.1:1: no connection can be made: Connection refused; " in raised.value.known
    assert raised.value.known.endswith(tuple(f"{other_type}: {words}" for words in REJECTED))


def test_a_peer_of_another_type_can_be_replaced_by_the_right_one(bare):
    """libzmq itself gives such an endpoint up for good."""
    wrong, endpoint = bare("pub")
    with RequestClient(endpoint) as client, asking(client, "x", timeout=PATIENCE) as call:
        while client.endpoints[endpoint].connection not in ("rejected", "handshake failed"):
            gevent.sleep(0.005)
        wrong.close()
        with Context.new() as context:
            right = context.socket("router")
            while right.endpoint != endpoint:
                try:
                    right.bind(endpoint)
                except EndpointError:  # not free yet
                    gevent.sleep(0.01)
            right.send_frames(right.receive_frames(timeout=PATIENCE))
            assert call.get(timeout=PATIENCE).text == "x"


# Problems --------------------------------------------------------------------------------------------------------


def test_a_problem_is_raised(client):
    with pytest.raises(RemoteError) as raised:
        client.request("fail")
    error = raised.value
    [endpoint] = client.endpoints
    assert (error.type, error.title, error.status) == ("urn:dploylib:handler-failed", "Handler failed", 500)
    assert error.detail.startswith("the handler of echo.")
    assert error.endpoint == endpoint
    assert str(error) == f"{endpoint} answered: 500 Handler failed: {error.detail} (urn:dploylib:handler-failed)"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status) == (str(error), 500)


@pytest.mark.parametrize("mimetype", [PROBLEM, b"Application/Problem+JSON; charset=utf-8"])
def test_a_problem_of_somebody_else_is_raised_readable_or_not(bare, mimetype):
    peer, endpoint = bare("router")
    body = json.dumps({"type": "about:blank", "title": "No", "status": 404}).encode()
    with RequestClient(endpoint) as client:
        for sent, status in ((body, 404), (b"\xffnot JSON", 500)):
            with asking(client, "x") as call:
                peer.send_multipart([*received_by(peer)[:-2], mimetype, sent])
                with pytest.raises(RemoteError) as raised:
                    call.get(timeout=PATIENCE)
                assert raised.value.status == status


# Many requests -----------------------------------------------------------------------------------------------------


def test_many_replies_come_in_the_order_of_the_messages(client):
    asked = [f"after {(20 - number) / 1000} {number}" for number in range(20)]
    assert [reply.text for reply in client.request_many(asked)] == asked
    assert client.request_many([]) == []


def test_no_more_requests_are_on_their_way_than_may_and_messages_are_taken_as_needed(client, echo):
    taken = []

    def messages():
        for number in range(100):
            taken.append(number)
            yield str(number)

    replies = client.imap(messages(), concurrency=7)
    assert taken == []
    for number in range(50):
        assert next(replies).text == str(number)
        assert len(taken) <= number + 1 + 7
    replies.close()
    assert len(taken) < 100


def test_without_any_concurrency_nothing_would_be_asked(client):
    with pytest.raises(ValueError, match="from 1 on"):
        client.request_many(["a"], concurrency=0)


def test_an_error_comes_in_its_turn_and_ends_it(client):
    replies = client.imap(["a", "fail", "b"])
    assert next(replies).text == "a"
    with pytest.raises(RemoteError):
        next(replies)
    assert list(replies) == []
    a, error, b = client.request_many(["a", "fail", "b"], return_exceptions=True)
    assert (a.text, error.status, b.text) == ("a", 500, "b")


def test_a_generator_that_fails_is_told(client):
    def messages():
        yield "a"
        raise LookupError("no more")

    with pytest.raises(LookupError):
        client.request_many(messages())


# The end -----------------------------------------------------------------------------------------------------------


def test_who_waits_for_a_reply_or_a_connection_is_told_of_the_close(service, wait_until):
    endpoint = service.endpoints["echo"]["rep"]
    with RequestClient(endpoint) as client, RequestClient("tcp://127.0.0.1:1") as unconnected:
        calls = [gevent.spawn(client.request, "wait") for _ in range(10)] + [gevent.spawn(unconnected.request, "x")]
        wait_until(lambda: client.endpoints[endpoint].outstanding == 10)
        client.close()
        unconnected.close()
        gevent.joinall(calls, timeout=PATIENCE)
        assert {type(call.exception) for call in calls} == {SocketClosed}
        client.close()
        with pytest.raises(SocketClosed):
            client.request("x")


@pytest.mark.parametrize("endpoint", [None, "inproc://somewhere", "tcp://127.0.0.1:1"])
def test_a_context_that_somebody_closes_ends_the_client(service, wait_until, endpoint):
    context = Context.new()
    with RequestClient(endpoint or service.endpoints["echo"]["rep"], context=context) as client:
        call = gevent.spawn(client.request, "wait")
        wait_until(lambda: endpoint == "tcp://127.0.0.1:1" or sum(one.outstanding for one in client.endpoints.values()))
        context.close(linger=0)
        if endpoint != "inproc://somewhere":  # of which nobody tells
            with pytest.raises(SocketClosed):
                call.get(timeout=PATIENCE)
        with pytest.raises(SocketClosed):
            client.request("x", timeout=PATIENCE)
        call.kill()


def test_a_shared_context_that_somebody_closes_without_waiting_ends_the_client(service):
    with Context.new() as whole:
        shared = whole.for_thread()
        with RequestClient(service.endpoints["echo"]["rep"], context=shared) as client:
            assert client.request("x").text == "x"
            shared.close()
            with pytest.raises(SocketClosed):
                client.request("x", timeout=PATIENCE)


def test_a_client_closes_only_a_context_of_its_own(service):
    with Context.new() as context:
        for _ in range(3):
            with RequestClient(service.endpoints["echo"]["rep"], context=context) as client:
                assert client.request("x").text == "x"
        assert not context.closed


def test_a_reply_may_close_the_client_in_the_middle_of_others(client):
    """All of them are read in one go, and the first greenlet closes the socket that is being read."""

    def ask(number):
        client.request(f"after 0.05 {number}")
        client.close()

    calls = [gevent.spawn(ask, number) for number in range(50)]
    gevent.joinall(calls, timeout=PATIENCE)
    assert {type(call.exception) for call in calls} <= {SocketClosed, type(None)}
    assert any(call.successful() for call in calls)


@pytest.mark.parametrize("uris", ["nowhere", "tcp://", "xyz://a", ["tcp://127.0.0.1:1", "udp://127.0.0.1:1"]])
def test_an_endpoint_that_is_none_is_told_at_once(uris):
    with pytest.raises(EndpointError):
        RequestClient(uris)


def test_a_client_has_at_least_one_endpoint_and_a_context_with_a_hub():
    with pytest.raises(ValueError, match="at least one endpoint"):
        RequestClient([])
    with pytest.raises(ValueError, match="from 0 on"):
        RequestClient("tcp://127.0.0.1:1", retries=-1)
    with pytest.raises(TypeError, match="a context is a dploylib"):
        RequestClient("tcp://127.0.0.1:1", context=5)
    with zmq.Context() as plain, pytest.raises(TypeError, match=r"use Context\.new"):
        RequestClient("tcp://127.0.0.1:1", context=Context(plain))


def test_a_client_belongs_to_its_thread(client):
    with pytest.raises(SocketStateError, match="belongs to the thread, and process, that made it"):
        gevent.get_hub().threadpool.apply(client.request, ("x",))
    gevent.get_hub().threadpool.kill()
    gc.collect()


def test_a_client_belongs_to_its_process(client):
    """What libzmq has is not inherited. The child uses nothing else: it may not even end as usual."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            client.request("x", timeout=1)
        except SocketStateError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.request("x").text == "x"

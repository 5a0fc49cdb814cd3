"""Sending and receiving with one socket: signatures, timeouts, wrong order, limits, and the end."""

import inspect

import gevent
import msgspec
import pytest
import zmq
import zmq.green

from dploylib.errors import (
    DployError,
    InvalidData,
    MalformedEnvelope,
    ReceiveTimeout,
    SendTimeout,
    SocketClosed,
    SocketStateError,
    TransportError,
    UndecodableData,
    UnexpectedMimetype,
    Unroutable,
)
from dploylib.transport import JSON_MIMETYPE, MAX_FRAMES, Context, Envelope, ReceivedData, Socket


class Point(msgspec.Struct):
    x: int


class Job:
    def __init__(self, name):
        self.name = name

    def serialize(self):
        return {"name": self.name}


# Signatures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (Context.__init__, "zmq_context"),
        (Socket.__init__, "zmq_socket zmq_context"),
        (Socket.new, "socket_type context"),
        (Socket.bind_new, "socket_type uri options context"),
        (Socket.connect_new, "socket_type uri options context"),
        (Socket.bind, "uri"),
        (Socket.bind_to_random, "uri min_port max_port max_tries"),
        (Socket.connect, "uri"),
        (Socket.set_option, "option value"),
        (Socket.send_envelope, "envelope"),
        (Socket.send_obj, "obj id"),
        (Socket.send_text, "text id"),
        (Socket.receive_envelope, ""),
        (Socket.receive_obj, "handler"),
        (Socket.receive_text, ""),
        (Envelope.__init__, "id mimetype data request_frames"),
        (Envelope.new, "mimetype data id request_frames"),
        (Envelope.from_raw, "raw"),
        (Envelope.response_envelope, "mimetype data id"),
        (Envelope.transfer_object, ""),
    ],
)
def test_every_documented_parameter_is_there_in_its_place_and_new_ones_come_last(method, parameters):
    named = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    documented = parameters.split()
    assert named[: len(documented)] == documented
    for name in named[len(documented) :]:
        assert inspect.signature(method).parameters[name].default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", ["envelope", "text", "json", "obj", "frames"])
def test_every_send_and_receive_takes_a_timeout(name):
    for verb in ("send", "receive"):
        parameter = inspect.signature(getattr(Socket, f"{verb}_{name}")).parameters["timeout"]
        assert parameter.default is None


# What goes out and comes in ------------------------------------------------------------------------------------


def test_text_objects_and_json_make_the_way_with_their_ids(connected):
    pull, push = connected("pull", "push")
    push.send_text("grün", "i")
    push.send_text("x")
    push.send_obj(Job("j"), "o")
    push.send_obj(Point(1))
    push.send_json([1, {"a": None}], id="j")
    assert pull.receive_envelope(timeout=10) == Envelope("i", "text/plain", "grün")
    assert pull.receive_text(timeout=10) == "x"
    assert pull.receive_envelope(timeout=10) == Envelope("o", JSON_MIMETYPE, b'{"name":"j"}')
    assert pull.receive_obj(Point, timeout=10) == Point(1)
    assert pull.receive_json(timeout=10) == [1, {"a": None}]
    assert (push.sent, pull.received) == (5, 5)


def test_an_object_is_made_by_a_callable(connected):
    pull, push = connected("pull", "push")
    push.send_obj({"name": "j"})
    assert pull.receive_obj(lambda data: Job(**data), timeout=10).name == "j"


def test_what_a_handler_received_can_be_sent_on(connected):
    pull, push = connected("pull", "push")
    envelope = Envelope("i", "m", b"\xff", [b"r"])
    push.send_envelope(ReceivedData(envelope))
    assert pull.receive_envelope(timeout=10) == envelope


def test_a_wrong_mimetype_or_body_is_an_error_and_the_next_message_is_received(connected):
    pull, push = connected("pull", "push")
    push.send_json({})
    push.send_envelope(Envelope("", "text/plain", b"\xff"))
    push.send_text("{}")
    push.send_envelope(Envelope("", JSON_MIMETYPE, b"{"))
    push.send_json({"x": "no int"})
    push.send_text("good")
    with pytest.raises(UnexpectedMimetype, match=r"text/plain.*application/json"):
        pull.receive_text(timeout=10)
    with pytest.raises(UndecodableData):
        pull.receive_text(timeout=10)
    with pytest.raises(UnexpectedMimetype):
        pull.receive_json(timeout=10)
    with pytest.raises(UndecodableData):
        pull.receive_json(timeout=10)
    with pytest.raises(InvalidData, match="x"):
        pull.receive_obj(Point, timeout=10)
    assert pull.receive_text(timeout=10) == "good"


@pytest.mark.parametrize("envelope", ["text", b"bytes", None, [b"i", b"m", b"b"]])
def test_only_an_envelope_can_be_sent_as_one(connected, envelope):
    pull, push = connected("pull", "push")
    with pytest.raises(TypeError, match="expected an Envelope"):
        push.send_envelope(envelope)
    push.send_text("good")
    assert pull.receive_text(timeout=10) == "good"


def test_frames_may_be_anything_with_the_buffer_protocol(connected):
    pull, push = connected("pull", "push")
    frames = [b"bytes", bytearray(b"bytearray"), memoryview(b"view")[1:], zmq.Frame(b"frame"), b""]
    push.send_frames(frames, timeout=10)
    assert pull.receive_frames(timeout=10) == [b"bytes", b"bytearray", b"iew", b"frame", b""]
    push.send_frames((memoryview(b"x" * 200_000),), timeout=10)
    assert pull.receive_frames(timeout=10) == [b"x" * 200_000]


def test_a_frame_may_change_after_it_was_sent(connected):
    pull, push = connected("pull", "push")
    frame = bytearray(b"x" * 200_000)  # large enough for pyzmq to send it without a copy, where that is asked for
    push.send_frames([frame], timeout=10)
    frame[:] = b"y" * 200_000
    assert set(pull.receive_frames(timeout=10)[0]) == set(b"x")


@pytest.mark.parametrize("frames", [["str"], [b"a", "str"], [b"a", None], [b"a", 1, b"b"], [], "str", b"bytes"])
def test_a_frame_of_another_type_is_refused_before_the_first_is_sent(connected, frames):
    pull, push = connected("pull", "push")
    with pytest.raises(TypeError):
        push.send_frames(frames)
    push.send_text("good")
    assert pull.receive_frames(timeout=10) == [b"", b"text/plain", b"good"]
    assert push.sent == 1


@pytest.mark.parametrize("views", [1, 2])
def test_a_frame_that_is_not_contiguous_is_refused_before_the_first_is_sent(connected, views):
    pull, push = connected("pull", "push")
    with pytest.raises(TypeError, match="contiguous"):
        push.send_frames([b"first", *[memoryview(b"abcdef")[::2]] * views])
    push.send_text("good")
    assert pull.receive_frames(timeout=10) == [b"", b"text/plain", b"good"]


def test_an_object_that_is_not_json_is_refused_before_anything_is_sent(connected):
    pull, push = connected("pull", "push")
    with pytest.raises(TypeError, match="serialize"):
        push.send_obj(object())
    push.send_text("good")
    assert pull.receive_text(timeout=10) == "good"


# Timeouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
@pytest.mark.parametrize("name", ["frames", "envelope", "text", "json"])
def test_receiving_nothing_raises_receive_timeout(connected, name, timeout):
    pull, _ = connected("pull", "push")
    with pytest.raises(ReceiveTimeout, match=f"no message arrived on .*pull.* within {timeout} s") as caught:
        getattr(pull, f"receive_{name}")(timeout=timeout)
    assert isinstance(caught.value, TimeoutError | DployError)
    assert not pull.readable()
    assert not pull.wait_readable(timeout)


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_sending_without_a_peer_raises_send_timeout_and_sends_nothing(context, timeout):
    push = context.socket("push")
    push.bind("tcp://127.0.0.1:*")
    for frames in ([b"one"], [b"one", b"two", b"three"]):
        with pytest.raises(SendTimeout, match=rf"nothing could be sent on .*push.* within {timeout} s"):
            push.send_frames(frames, timeout)
    assert push.sent == 0
    pull = context.socket("pull")
    pull.connect(push.endpoint)
    push.send_text("first", timeout=10)
    assert pull.receive_text(timeout=10) == "first"


def test_a_timeout_of_nothing_does_not_let_other_greenlets_run(connected, spawn):
    pair, _ = connected("pair", "pair", "inproc://pair", sndhwm=1, rcvhwm=1)
    ran = []
    spawn(ran.append, True)
    with pytest.raises(ReceiveTimeout):
        pair.receive_text(timeout=0)
    pair.send_text("a", timeout=0)
    pair.send_text("b", timeout=0)
    with pytest.raises(SendTimeout):
        pair.send_text("c", timeout=0)
    assert not ran
    gevent.sleep(0)
    assert ran


def test_sending_at_the_high_water_mark_raises_send_timeout_and_sends_nothing(connected):
    pull, push = connected("pull", "push", "inproc://mark", sndhwm=1, rcvhwm=1)
    push.send_text("a", timeout=0)
    push.send_text("b", timeout=0)
    for timeout in (0, 0.01):
        with pytest.raises(SendTimeout):
            push.send_text("never", timeout=timeout)
    assert [pull.receive_text(timeout=10) for _ in "ab"] == ["a", "b"]
    push.send_text("c", timeout=10)
    assert pull.receive_text(timeout=10) == "c"


@pytest.mark.parametrize("kind", ["pub", "xpub"])
def test_a_publisher_that_drops_nothing_waits_for_its_subscriber_without_spinning(context, spawn, wait_for, kind):
    publisher = Socket.bind_new(
        kind, "tcp://127.0.0.1:*", {"xpub_nodrop": True, "sndhwm": 1, "sndbuf": 4096}, context=context
    )
    subscriber = context.socket("sub", {"rcvhwm": 1, "rcvbuf": 4096, "subscribe": ""})
    subscriber.connect(publisher.endpoint)
    frames, sent = [b"x" * 100_000], 0

    def is_full():
        nonlocal sent
        try:
            publisher.send_frames(frames, timeout=0)
        except SendTimeout:
            return sent > 0
        sent += bool(subscriber.wait_readable(timeout=0 if sent else 0.05))  # until the subscription has arrived
        return False

    wait_for(is_full)
    attempts = []
    send_now = publisher._send_now
    publisher._send_now = lambda frames: attempts.append(True) or send_now(frames)

    def is_stuck():  # no more of it goes into the buffers below libzmq either
        attempts.clear()
        try:
            publisher.send_frames(frames, timeout=0.2)
        except SendTimeout:
            return True
        return False

    wait_for(is_stuck)
    assert len(attempts) < 100  # thousands, if it tried whenever libzmq says that it can
    waiting = spawn(publisher.send_frames, frames, timeout=20)
    wait_for(lambda: subscriber.receive_frames(timeout=20) and waiting.ready())
    waiting.get()


def test_a_message_that_comes_in_time_is_received(connected, spawn):
    pull, push = connected("pull", "push")
    receiving = [spawn(pull.receive_text, timeout=10), spawn(pull.wait_readable, 10)]
    gevent.sleep(0)
    push.send_text("a")
    push.send_text("b")
    assert receiving[0].get(timeout=10) == "a"
    assert receiving[1].get(timeout=10) is True
    assert pull.receive_text(timeout=0) == "b"


def test_nothing_is_lost_by_a_receive_timeout(connected, wait_for):
    # Messages that arrive just when a timeout passes: each is received once, by a later call if not by this one.
    pull, push = connected("pull", "push")
    got = []

    def receive(timeout):
        try:
            got.append(pull.receive_frames(timeout))
        except ReceiveTimeout:
            return

    for number in range(300):
        push.send_frames([b"%d" % number, b"rest"])
        receive((0, 0.0001, 0.0005)[number % 3])
    wait_for(lambda: receive(0) or len(got) == 300)
    assert got == [[b"%d" % number, b"rest"] for number in range(300)]


def test_a_killed_receiver_and_one_with_a_timeout_of_its_own_lose_nothing(connected, spawn):
    pull, push = connected("pull", "push")
    receiving = spawn(pull.receive_text)
    gevent.sleep(0)
    receiving.kill()
    own = gevent.Timeout(0.01)
    with pytest.raises(gevent.Timeout) as caught, own:
        pull.receive_text()
    assert caught.value is own
    push.send_text("a")
    assert pull.receive_text(timeout=10) == "a"


@pytest.mark.parametrize("call", ["receive_text", "wait_readable", "send_text"])
def test_a_timeout_error_of_the_callers_own_passes_through(context, call):
    class Mine(TimeoutError):
        pass

    socket = context.socket("pair")
    arguments = ["x"] if call == "send_text" else []
    with pytest.raises(Mine), gevent.Timeout(0.01, Mine):
        getattr(socket, call)(*arguments)


def test_an_infinite_timeout_is_none(connected, spawn):
    pull, push = connected("pull", "push")
    receiving = spawn(pull.receive_text, timeout=float("inf"))
    gevent.sleep(0)
    push.send_text("a", timeout=float("inf"))
    assert receiving.get(timeout=10) == "a"


# Wrong order and wrong direction -------------------------------------------------------------------------------


def test_a_req_that_sends_twice_or_receives_first_is_told_the_order(connected):
    rep, req = connected("rep", "req")
    with pytest.raises(SocketStateError, match=r"cannot receive on .* now: a req socket must send first"):
        req.receive_text(timeout=1)
    req.send_text("a")
    with pytest.raises(SocketStateError, match=r"cannot send on .* now: a req socket must receive first"):
        req.send_text("b")
    assert rep.receive_text(timeout=10) == "a"
    rep.send_text("c")
    assert req.receive_text(timeout=10) == "c"


def test_a_rep_that_sends_first_or_receives_twice_is_told_the_order(connected):
    rep, req = connected("rep", "req")
    with pytest.raises(SocketStateError, match="a rep socket must receive first"):
        rep.send_text("a", timeout=1)
    req.send_text("a")
    assert rep.receive_text(timeout=10) == "a"
    for receive in (rep.receive_text, rep.readable, rep.wait_readable):
        with pytest.raises(SocketStateError, match="a rep socket must send first"):
            receive()
    rep.send_text("c")
    assert req.receive_text(timeout=10) == "c"


@pytest.mark.parametrize("kind", ["pub", "push"])
def test_a_socket_that_only_sends_says_so(context, kind):
    with pytest.raises(SocketStateError, match=f"{kind} sockets do not receive"):
        context.socket(kind).receive_text(timeout=1)


@pytest.mark.parametrize("kind", ["sub", "pull"])
def test_a_socket_that_only_receives_says_so(context, kind):
    with pytest.raises(SocketStateError, match=f"{kind} sockets do not send"):
        context.socket(kind).send_text("x", timeout=1)


def test_a_router_with_mandatory_routing_says_that_a_peer_is_gone(context):
    router = context.socket("router", {"router_mandatory": True})
    with pytest.raises(Unroutable, match="the caller is gone") as caught:
        router.send_frames([b"nobody", b"hello"])
    assert isinstance(caught.value.__cause__, zmq.ZMQError)
    assert router.sent == 0


# Limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
def test_a_message_of_too_many_frames_is_malformed_and_the_next_is_served(connected, early):
    pull, push = connected("pull", "push")
    push.send_frames([b"x"] * 10_000)
    push.send_frames([b"r"] * (MAX_FRAMES - 4) + [b"", b"i", b"m", b"b"])
    push.send_text("good")
    if early:
        assert pull.wait_readable(10)
    with pytest.raises(MalformedEnvelope, match=str(MAX_FRAMES)) as caught:
        pull.receive_envelope(timeout=10)
    assert caught.value.frames[: MAX_FRAMES + 1] == [b"x"] * (MAX_FRAMES + 1)
    assert len(pull.receive_frames(timeout=10)) == MAX_FRAMES
    assert pull.receive_text(timeout=10) == "good"


# Reading ahead -------------------------------------------------------------------------------------------------


def test_readable_says_whether_there_is_a_message_and_takes_none(connected, wait_for):
    pull, push = connected("pull", "push")
    assert not pull.readable()
    push.send_text("a")
    push.send_text("b")
    wait_for(pull.readable)
    assert pull.readable()
    assert pull.wait_readable(0)
    assert [pull.receive_text(timeout=10) for _ in "ab"] == ["a", "b"]
    assert not pull.readable()


def test_who_looks_whether_there_is_a_message_does_not_take_part_of_another_receivers(connected, spawn):
    pull, push = connected("pull", "push", "inproc://here")
    receiving = [spawn(pull.receive_frames, timeout=10) for _ in range(3)]
    gevent.sleep(0)
    messages = [[b"%d" % number, b"of", b"many"] for number in range(4)]
    for message in messages:
        push.send_frames(message)
    pull.readable()  # before the hub runs those who wait
    pull.readable()
    got = [receiver.get(timeout=10) for receiver in receiving]
    assert sorted([*got, pull.receive_frames(timeout=10)]) == messages


def test_a_message_read_ahead_belongs_to_whoever_receives_next(connected, spawn):
    pull, push = connected("pull", "push")
    push.send_frames([b"a", b"b"])
    assert pull.wait_readable(10)
    receiving = spawn(pull.receive_frames, timeout=10)
    assert receiving.get(timeout=10) == [b"a", b"b"]


# The end -------------------------------------------------------------------------------------------------------


def test_closing_wakes_those_who_wait_with_socket_closed(context, spawn):
    socket = context.socket("pair")
    waiting = [
        *(spawn(socket.receive_text) for _ in range(3)),
        *(spawn(socket.send_text, "x") for _ in range(3)),
        spawn(socket.receive_text, timeout=60),
        spawn(socket.send_text, "x", timeout=60),
        spawn(socket.wait_readable),
    ]
    gevent.sleep(0)
    socket.close()
    for greenlet in waiting:
        with pytest.raises(SocketClosed, match="was closed"):
            greenlet.get(timeout=10)


def test_closing_the_context_wakes_those_who_wait_with_socket_closed(spawn):
    context = Context.new()
    socket = context.socket("pair")
    waiting = [spawn(socket.receive_text), spawn(socket.send_text, "x")]
    gevent.sleep(0)
    context.close()
    for greenlet in waiting:
        with pytest.raises(SocketClosed):
            greenlet.get(timeout=10)


def test_closing_wakes_who_waits_for_a_routers_slow_peer(context, spawn):
    router = context.socket("router", {"router_mandatory": True, "sndhwm": 1})
    router.bind("inproc://router")
    dealer = context.socket("dealer", {"routing_id": "d", "rcvhwm": 1})
    dealer.connect("inproc://router")

    def flood():
        while True:
            router.send_frames([b"d", b"x"])

    flooding = spawn(flood)
    gevent.sleep(0)
    assert not flooding.dead
    router.close()
    with pytest.raises(SocketClosed):
        flooding.get(timeout=10)


@pytest.mark.parametrize(
    "call",
    [
        lambda socket: socket.receive_text(),
        lambda socket: socket.receive_frames(timeout=0),
        lambda socket: socket.send_text("x"),
        lambda socket: socket.send_frames([b"x"], 1),
        lambda socket: socket.readable(),
        lambda socket: socket.wait_readable(),
        lambda socket: socket.bind("tcp://127.0.0.1:*"),
        lambda socket: socket.bind_to_random("tcp://127.0.0.1", 20000, 30000),
        lambda socket: socket.connect("tcp://127.0.0.1:1"),
        lambda socket: socket.unbind("tcp://127.0.0.1:1"),
        lambda socket: socket.disconnect("tcp://127.0.0.1:1"),
        lambda socket: socket.set_option("linger", 1),
        lambda socket: socket.get_option("linger"),
    ],
)
def test_every_call_on_a_closed_socket_raises_socket_closed(context, call):
    socket = context.socket("pair")
    socket.close()
    assert socket.closed
    assert "closed" in repr(socket)
    with pytest.raises(SocketClosed):
        call(socket)


def test_every_call_after_somebody_terminated_the_context_raises_socket_closed(spawn):
    zmq_context = zmq.green.Context()
    socket = Context(zmq_context).socket("pair")
    receiving, sending = spawn(socket.receive_text), spawn(socket.send_text, "x")
    gevent.sleep(0)
    terminating = gevent.get_hub().threadpool.spawn(zmq_context.term)
    for greenlet in (receiving, sending):
        with pytest.raises(SocketClosed):
            greenlet.get(timeout=10)
    for call in (socket.receive_text, lambda: socket.send_text("x")):
        with pytest.raises(SocketClosed):
            call()
    socket.close()
    terminating.get(timeout=10)


def test_a_message_read_ahead_goes_with_the_socket(connected):
    pull, push = connected("pull", "push")
    push.send_text("x")
    assert pull.wait_readable(10)
    pull.close()
    with pytest.raises(SocketClosed):
        pull.receive_text()


@pytest.mark.parametrize("linger", [float("inf"), -1, 1e9, 0.0005])
def test_any_linger_closes(context, linger):
    socket = context.socket("push")
    socket.close(linger)
    assert socket.closed


@pytest.mark.parametrize("kind", [zmq.Context, zmq.green.Context])
def test_a_context_of_pyzmqs_is_wrapped_and_stays_open(kind):
    with kind() as zmq_context:
        socket = Socket.new("req", zmq_context)
        assert socket.context.zmq_context is zmq_context
        socket.close()
        Socket.connect_new("req", "inproc://x", context=zmq_context).close(linger=0)
        assert not zmq_context.closed


def test_closing_twice_does_nothing_and_with_closes(context):
    with context.socket("pair") as socket:
        assert not socket.closed
    assert socket.closed
    socket.close()
    socket.close(linger=1)


def test_what_is_queued_is_still_sent_after_closing(connected):
    pull, push = connected("pull", "push")
    for number in range(100):
        push.send_text(str(number))
    push.close()
    assert [pull.receive_text(timeout=10) for _ in range(100)] == [str(number) for number in range(100)]


# Without a context ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("leak_check")
def test_a_socket_without_a_context_closes_its_own():
    with Socket.new("rep") as rep:
        rep.bind("tcp://127.0.0.1:*")
        with Socket.new("req", rep.endpoint) as req:
            req.send_text("hello")
            assert rep.receive_text(timeout=10) == "hello"
            assert req.context is not rep.context
        assert req.context.closed
        assert not rep.context.closed
    assert rep.context.closed


@pytest.mark.usefixtures("leak_check")
def test_bind_new_and_connect_new_work_with_and_without_a_context():
    with Context.new() as context:
        pull = Socket.bind_new("pull", "inproc://one", context=context)
        push = Socket.connect_new("push", "inproc://one", {"linger": 0}, context)
        assert push.get_option("linger") == 0
        push.send_text("a")
        assert pull.receive_text(timeout=10) == "a"
    with (
        Socket.bind_new("pull", "tcp://127.0.0.1:*") as pull,
        Socket.connect_new("push", pull.endpoint, [("linger", 0)]) as push,
    ):
        push.send_text("b")
        assert pull.receive_text(timeout=10) == "b"


def test_the_context_given_is_the_one_used_and_stays_open(context):
    socket = Socket.new("req", context, {"linger": 0})
    assert socket.context is context
    socket.close()
    assert not context.closed


def test_a_socket_of_pyzmqs_can_be_wrapped_with_its_context(context):
    with Socket(context.zmq_context.socket(zmq.PAIR), context.zmq_context) as one:
        assert one.context.zmq_context is context.zmq_context
        assert one.socket_type == "pair"
        with Socket(context.zmq_context.socket(zmq.PAIR), context) as two:
            one.bind("inproc://wrapped")
            two.connect("inproc://wrapped")
            two.send_text("x")
            assert one.receive_text(timeout=10) == "x"


@pytest.mark.parametrize("wrong", [None, "tcp://127.0.0.1:1", zmq.PAIR])
def test_what_is_no_socket_cannot_be_wrapped(context, wrong):
    with pytest.raises(TypeError, match=r"expected a socket of zmq\.green"):
        Socket(wrong, context)


def test_a_transport_error_knows_its_cause(context):
    with pytest.raises(TransportError) as caught:
        context.socket("rep").bind("nonsense")
    assert isinstance(caught.value.__cause__, zmq.ZMQError)

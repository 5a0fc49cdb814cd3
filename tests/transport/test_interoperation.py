"""Peers in other processes that know nothing but pyzmq: the frames are what the design says, both ways."""

import pytest

from dploylib.transport import Envelope, ReceiveLoop

TOPIC, MIMETYPE, BODY = b"topic \xc3\xbc", b"application/x-\xc3\xb6", bytes(range(256))
PARTS = [TOPIC, MIMETYPE, BODY]
ENVELOPE = Envelope("topic ü", "application/x-ö", bytes(range(256)))


def line(*frames):
    return ",".join(frame.hex() for frame in frames)


@pytest.fixture
def answering(connected, context, spawn):
    """Bind a socket of ours that answers each envelope with its body doubled, and collects what came."""

    def answering(kind):
        socket = context.socket(kind)
        socket.bind("tcp://127.0.0.1:*")
        came = []

        def answer(socket):
            envelope = socket.receive_envelope()
            came.append(envelope)
            socket.send_envelope(envelope.response_envelope("text/plain", envelope.data * 2))

        loop = ReceiveLoop()
        loop.register(socket, answer)
        spawn(loop.run)
        return socket.endpoint, came

    return answering


@pytest.mark.parametrize("kind", ["rep", "router"])
def test_a_req_is_answered(answering, peer, kind):
    endpoint, came = answering(kind)
    asking = peer("ask.py", "req", endpoint)
    for _ in range(2):
        asking.say(line(*PARTS))
        assert asking.frames() == [TOPIC, b"text/plain", BODY * 2]
    assert [(one.id, one.mimetype, one.data) for one in came] == [(ENVELOPE.id, ENVELOPE.mimetype, ENVELOPE.data)] * 2
    assert [len(one.request_frames) for one in came] == [0 if kind == "rep" else 1] * 2


@pytest.mark.parametrize("kind", ["rep", "router"])
@pytest.mark.parametrize("route", [[b"\x01"], [b"\x00\xff", b"two", b"\x00" * 300]])
def test_a_dealer_gets_its_request_frames_back(answering, peer, kind, route):
    endpoint, came = answering(kind)
    asking = peer("ask.py", "dealer", endpoint)
    for _ in range(2):
        asking.say(line(*route, b"", *PARTS))
        assert asking.frames() == [*route, b"", TOPIC, b"text/plain", BODY * 2]
    if kind == "rep":
        assert came == [ENVELOPE] * 2  # a REP keeps the request frames to itself
    else:
        assert [one.request_frames[1:] for one in came] == [route] * 2


def test_a_dealer_without_request_frames_is_answered_by_a_router(answering, peer):
    endpoint, came = answering("router")
    asking = peer("ask.py", "dealer", endpoint)
    asking.say(line(b"", *PARTS))
    assert asking.frames() == [b"", TOPIC, b"text/plain", BODY * 2]
    assert len(came[0].request_frames) == 1


def test_our_req_asks_a_rep(context, peer):
    answering = peer("answer.py", "rep")
    req = context.socket("req")
    req.connect(answering.line())
    answering.say(line(b"answer", b"text/plain", b"\xc3\xbc"))
    req.send_envelope(ENVELOPE, timeout=10)
    assert answering.frames() == PARTS
    assert req.receive_envelope(timeout=10) == Envelope("answer", "text/plain", "ü")


@pytest.mark.parametrize("route", [[b"\x01"], [b"\x00\xff", b"two", b"\x00" * 300]])
def test_our_dealer_asks_a_rep_and_a_router(context, peer, route):
    request = Envelope(ENVELOPE.id, ENVELOPE.mimetype, ENVELOPE.data, route)
    for kind in ("rep", "router"):
        answering = peer("answer.py", kind)
        dealer = context.socket("dealer")
        dealer.connect(answering.line())
        echoed = [] if kind == "rep" else [*route, b""]
        answering.say(line(*echoed, b"answer", b"text/plain", b"\xc3\xbc"))
        dealer.send_envelope(request, timeout=10)
        assert answering.frames() == [*echoed, *PARTS]
        assert dealer.receive_envelope(timeout=10) == Envelope("answer", "text/plain", "ü", route)


@pytest.mark.parametrize(("theirs", "ours"), [("push", "pull"), ("pub", "sub")])
def test_what_they_send_is_received(context, peer, theirs, ours):
    socket = context.socket(ours, {"subscribe": "top"} if ours == "sub" else None)
    socket.bind("tcp://127.0.0.1:*")
    sending = peer("push.py", theirs, socket.endpoint)
    sending.say(line(*PARTS))
    sending.say(line(b"top", b"", b""))
    assert [socket.receive_envelope(timeout=20) for _ in range(2)] == [ENVELOPE, Envelope("top", "", b"")]


def test_they_pull_what_we_push(context, peer):
    push = context.socket("push")
    push.bind("tcp://127.0.0.1:*")
    hearing = peer("hear.py", "pull", push.endpoint, "2")
    push.send_envelope(ENVELOPE, timeout=20)
    push.send_text("ü", timeout=20)
    assert [hearing.frames() for _ in range(2)] == [PARTS, [b"", b"text/plain", b"\xc3\xbc"]]


def test_they_hear_of_their_topic_what_we_publish(context, peer):
    pub = context.socket("xpub")
    pub.bind("tcp://127.0.0.1:*")
    hearing = peer("hear.py", "sub", pub.endpoint, "2", "topic")
    assert pub.receive_frames(timeout=20) == [b"\x01topic"]
    pub.send_text("not this one", "other")
    pub.send_envelope(ENVELOPE)
    pub.send_obj({"a": 1}, id="topic")
    assert [hearing.frames() for _ in range(2)] == [PARTS, [b"topic", b"application/json", b'{"a":1}']]

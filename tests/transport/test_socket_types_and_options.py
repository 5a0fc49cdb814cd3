"""Every stable socket type by name, and options in both forms."""

import socket as sockets

import gevent.socket
import pytest
import zmq

from dploylib.errors import TransportError, UnknownOption, UnknownSocketType
from dploylib.transport import SOCKET_TYPES, Context, Envelope, Socket

HELLO = Envelope("topic", "text/plain", b"hello")
TRANSPORTS = ["tcp://127.0.0.1:*", "inproc://here", "ipc://*"]


# Types ---------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_stable_socket_types():
    names = "req rep dealer router pub sub xpub xsub push pull pair stream"
    assert " ".join(SOCKET_TYPES) == names


@pytest.mark.parametrize("name", SOCKET_TYPES)
def test_every_type_can_be_made_by_its_name(context, name):
    socket = context.socket(name)
    assert socket.socket_type == name
    assert socket.zmq_socket.type == getattr(zmq, name.upper())
    assert socket.green
    assert socket.context is socket.zmq_context is context


@pytest.mark.parametrize("name", ["server", "client", "radio", "dish", "gather", "scatter", "channel", "peer", "dgram"])
def test_draft_types_are_refused(context, name):
    with pytest.raises(UnknownSocketType):
        context.socket(name)


@pytest.mark.parametrize("name", ["rpe", "REP", "", None, 4, ["rep"]])
def test_an_unknown_type_is_an_error_that_lists_those_there_are(context, name):
    with pytest.raises(UnknownSocketType, match=r"there are req, rep, dealer, .*, stream"):
        context.socket(name)
    with pytest.raises(UnknownSocketType):
        Socket.new(name)


def test_an_unknown_type_is_answered_with_the_nearest(context):
    with pytest.raises(UnknownSocketType, match="no socket type 'roter', did you mean 'router'"):
        context.socket("roter")


@pytest.mark.parametrize("uri", TRANSPORTS)
@pytest.mark.parametrize(
    ("one", "other"), [("rep", "req"), ("pair", "pair"), ("dealer", "dealer"), ("dealer", "rep"), ("rep", "dealer")]
)
def test_types_that_talk_both_ways(connected, one, other, uri):
    server, client = connected(one, other, uri)
    if one == "rep" or other == "req":
        asking, answering = client, server
    else:
        asking, answering = server, client
    route = [b"mine"] if "dealer" in (one, other) and "rep" in (one, other) else None
    question = Envelope("topic", "text/plain", b"hello", route)
    asking.send_envelope(question, timeout=10)
    received = answering.receive_envelope(timeout=10)
    assert received == HELLO
    answering.send_envelope(received, timeout=10)
    assert asking.receive_envelope(timeout=10) == question


@pytest.mark.parametrize("uri", TRANSPORTS)
def test_a_router_answers_a_dealer_and_a_req_by_their_request_frames(context, connected, uri):
    router, dealer = connected("router", "dealer", uri)
    req = context.socket("req")
    req.connect(router.endpoint)
    dealer.send_envelope(Envelope("i", "text/plain", b"d", [b"one", b"two"]), timeout=10)
    req.send_text("r", timeout=10)
    for _ in range(2):
        request = router.receive_envelope(timeout=10)
        router.send_envelope(request.response_envelope(None, request.data * 2), timeout=10)
    assert dealer.receive_envelope(timeout=10) == Envelope("i", "text/plain", b"dd", [b"one", b"two"])
    assert req.receive_text(timeout=10) == "rr"


@pytest.mark.parametrize("uri", TRANSPORTS)
def test_push_to_pull(connected, uri):
    pull, push = connected("pull", "push", uri)
    push.send_envelope(HELLO, timeout=10)
    assert pull.receive_envelope(timeout=10) == HELLO


@pytest.mark.parametrize("uri", TRANSPORTS)
@pytest.mark.parametrize("publisher", ["pub", "xpub"])
@pytest.mark.parametrize("subscriber", ["sub", "xsub"])
def test_publishers_to_subscribers(context, connected, publisher, subscriber, uri):
    pub, sub = connected(publisher, subscriber, uri)
    if subscriber == "sub":
        sub.subscribe("top")
    else:
        sub.send_frames([b"\x01top"])
    if publisher == "xpub":
        assert pub.receive_frames(timeout=10) == [b"\x01top"]
    other = Envelope("other", "text/plain", b"")
    with gevent.Timeout(10, AssertionError("nothing arrives")):
        while not sub.wait_readable(0.01):  # until the subscription is known, a PUB drops what it sends
            pub.send_envelope(other)
            pub.send_envelope(HELLO)
    assert sub.receive_envelope() == HELLO


def test_an_unsubscribed_topic_arrives_no_more(connected):
    pub, sub = connected("xpub", "sub")
    sub.subscribe("a")
    sub.subscribe(b"b")
    assert {pub.receive_frames(timeout=10)[0] for _ in "ab"} == {b"\x01a", b"\x01b"}
    sub.unsubscribe("a")
    assert pub.receive_frames(timeout=10) == [b"\x00a"]
    pub.send_text("no", "a")
    pub.send_text("yes", "b")
    assert sub.receive_text(timeout=10) == "yes"


def test_a_stream_talks_to_a_raw_tcp_socket(context):
    stream = context.socket("stream")
    port = stream.bind_to_random("tcp://127.0.0.1")
    raw = gevent.socket.create_connection(("127.0.0.1", port))
    try:
        id, empty = stream.receive_frames(timeout=10)
        assert empty == b""
        raw.sendall(b"ping")
        assert stream.receive_frames(timeout=10) == [id, b"ping"]
        stream.send_frames([id, b"pong"], timeout=10)
        assert raw.recv(10) == b"pong"
    finally:
        raw.close()
    assert stream.receive_frames(timeout=10) == [id, b""]


def test_a_slow_peer_of_a_stream_holds_up_no_other(context, spawn, wait_for):
    stream = context.socket("stream", {"sndhwm": 2})
    port = stream.bind_to_random("tcp://127.0.0.1")
    peers = []
    try:
        for _ in range(2):
            peers.append(gevent.socket.create_connection(("127.0.0.1", port)))
            peers[-1].setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        ids = [stream.receive_frames(timeout=10)[0] for _ in peers]
        done = []

        def flood():
            for number in range(100):
                stream.send_frames([ids[0], b"x" * 200_000])
                done.append(number)

        flooding = spawn(flood)
        wait_for(lambda: len(done) >= 2)
        with gevent.Timeout(10, False):
            before = -1
            while before != len(done):  # until nothing more goes out for a while
                before = len(done)
                gevent.sleep(0.1)
        assert not flooding.dead
        # One of the two is not the flooded one, whichever connection came first.
        stream.send_frames([ids[1], b"hello"], timeout=10)
        heard = [peer for peer in peers if peer.recv(5, sockets.MSG_PEEK) == b"hello"]
        assert len(heard) == 1
    finally:
        for peer in peers:
            peer.close()


# Options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sndhwm": 7, "routing_id": "me"},
        [("sndhwm", 7), ("routing_id", "me")],
        [["sndhwm", 7], ["routing_id", b"me"]],
        iter([("SNDHWM", 7), ("Routing_Id", "me")]),
    ],
)
def test_options_are_a_mapping_or_a_list_of_pairs(context, options):
    socket = context.socket("dealer", options)
    assert socket.get_option("sndhwm") == 7
    assert socket.get_option("routing_id") == b"me"


@pytest.mark.parametrize("none", [None, {}, [], ()])
def test_there_may_be_no_options(context, none):
    context.socket("dealer", none)


def test_pairs_may_set_an_option_more_than_once(connected, context):
    pub, sub = context.socket("xpub"), context.socket("sub", [("subscribe", "a"), ("subscribe", b"b")])
    pub.bind("inproc://pub")
    sub.connect("inproc://pub")
    assert {pub.receive_frames(timeout=10)[0] for _ in "ab"} == {b"\x01a", b"\x01b"}


@pytest.mark.parametrize("options", ["sndhwm", b"sndhwm", 5, [5], ["ab"], [("sndhwm",)], [("sndhwm", 1, 2)], [{1: 2}]])
def test_options_of_another_form_are_refused(context, options):
    with pytest.raises(UnknownOption, match=r"a mapping or a list of \(name, value\) pairs"):
        context.socket("dealer", options)


@pytest.mark.parametrize(
    ("option", "value", "read"),
    [
        ("sndhwm", 5, 5),
        ("ipv6", True, 1),
        ("ipv6", 1, 1),
        ("immediate", False, 0),
        ("routing_id", "ü", "ü".encode()),
        ("routing_id", b"\x01\xff", b"\x01\xff"),
        ("linger", -1, -1),
        ("maxmsgsize", 1 << 40, 1 << 40),
        ("hwm", 3, 3),
        ("plain_username", "me", b"me"),
    ],
)
def test_an_option_takes_str_bytes_int_or_bool(context, option, value, read):
    socket = context.socket("dealer")
    socket.set_option(option, value)
    assert socket.get_option(option) in (read, (read if isinstance(read, int) else read + b"\0"))


def test_the_older_hwm_sets_both_marks(context):
    socket = context.socket("dealer", {"hwm": 3})
    assert (socket.get_option("sndhwm"), socket.get_option("rcvhwm")) == (3, 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sndhwm", "5"),
        ("sndhwm", 5.0),
        ("sndhwm", None),
        ("sndhwm", -5),
        ("sndhwm", 1 << 32),
        ("affinity", 1 << 64),
        ("routing_id", 5),
        ("routing_id", ""),
        ("rcvtimeo", "5"),
        ("rcvtimeo", None),
    ],
)
def test_a_value_that_an_option_does_not_take_is_named(context, option, value):
    with pytest.raises(UnknownOption) as caught:
        context.socket("dealer").set_option(option, value)
    assert option in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("option", ["curve_secretkey", "plain_password"])
@pytest.mark.parametrize("value", ["too short, and a secret" * 20, 5])
def test_the_value_of_a_secret_option_is_in_no_error(context, option, value):
    with pytest.raises(UnknownOption) as caught:
        context.socket("dealer").set_option(option, value)
    assert option in str(caught.value)
    assert "***" in str(caught.value)
    assert str(value) not in str(caught.value)


def test_an_option_of_another_socket_type_is_refused_in_plain_words(context):
    with pytest.raises(UnknownOption) as caught:
        context.socket("rep").set_option("subscribe", "x")
    assert str(caught.value) == "option subscribe is not one of a rep socket, or does not take 'x'"
    with pytest.raises(UnknownOption) as caught:
        context.socket("xpub").get_option("subscribe")
    assert str(caught.value) == "option subscribe is not one of an xpub socket, or cannot be read"


def test_an_option_that_the_socket_type_does_not_have_is_refused(context):
    with pytest.raises(UnknownOption, match="subscribe"):
        context.socket("pull", {"subscribe": ""})


@pytest.mark.parametrize("name", ["sndhwn", "SNDHWN", "no_such_thing", "", None, 23, ("sndhwm",)])
def test_an_unknown_option_is_an_error(context, name):
    socket = context.socket("dealer")
    with pytest.raises(UnknownOption, match="no socket option"):
        socket.set_option(name, 1)
    with pytest.raises(UnknownOption, match="no socket option"):
        socket.get_option(name)
    with pytest.raises(UnknownOption, match="no socket option"):
        context.socket("dealer", [(name, 1)])


def test_an_unknown_option_is_answered_with_the_nearest(context):
    with pytest.raises(UnknownOption, match="no socket option 'sndhwn', did you mean 'sndhwm'"):
        context.socket("dealer", {"sndhwn": 1})


@pytest.mark.usefixtures("leak_check")
def test_a_socket_that_could_not_be_made_leaves_nothing_behind():
    for make in (Socket.new, lambda kind, options: Socket.connect_new(kind, "inproc://x", options)):
        with pytest.raises(UnknownOption):
            make("pull", options={"subscribe": ""})
    with pytest.raises(TransportError):
        Socket.bind_new("pull", "tcp://nonsense")
    with pytest.raises(TransportError):
        Socket.connect_new("pull", "nonsense")


def test_a_routing_id_given_as_option_is_known_to_the_first_peer(context):
    router = context.socket("router")
    router.bind("tcp://127.0.0.1:*")
    dealer = Socket.connect_new("dealer", router.endpoint, {"routing_id": "me"}, context)
    dealer.send_frames([b"hello"], timeout=10)
    assert router.receive_frames(timeout=10) == [b"me", b"hello"]


def test_ipv6_given_as_option_holds_for_the_first_bind(context):
    if not sockets.has_ipv6:
        pytest.skip("no IPv6")
    with pytest.raises(TransportError):
        Socket.bind_new("rep", "tcp://[::1]:*", context=context)
    try:
        with sockets.socket(sockets.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    assert Socket.bind_new("rep", "tcp://[::1]:*", {"ipv6": True}, context).endpoint.startswith("tcp://[::1]:")


def test_a_high_water_mark_given_as_option_holds_for_the_first_connection(context):
    pull = Socket.bind_new("pull", "inproc://mark", {"rcvhwm": 2}, context)
    push = Socket.connect_new("push", "inproc://mark", {"sndhwm": 3}, context)
    for _ in range(5):
        push.send_text("x", timeout=0)
    with pytest.raises(TimeoutError):
        push.send_text("x", timeout=0)
    assert pull.receive_text() == "x"


def test_timeouts_given_as_options_are_those_of_the_calls(context):
    socket = context.socket("dealer", {"rcvtimeo": 10, "sndtimeo": 20})
    assert (socket.get_option("rcvtimeo"), socket.get_option("sndtimeo")) == (10, 20)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        socket.receive_text()
    with pytest.raises(TimeoutError, match=r"within 0\.02 s"):
        socket.send_text("nobody is there")
    with pytest.raises(TimeoutError, match=r"within 0\.03 s"):
        socket.receive_text(timeout=0.03)
    with pytest.raises(TimeoutError, match=r"within 0\.04 s"):
        socket.send_text("nobody is there", timeout=0.04)


def test_a_negative_timeout_option_waits_for_ever_again(connected, spawn):
    bound, connecting = connected("pair", "pair", rcvtimeo=1)
    bound.set_option("rcvtimeo", -1)
    assert bound.get_option("rcvtimeo") == -1
    receiving = spawn(bound.receive_text)
    assert not receiving.join(0.05)
    assert not receiving.dead
    connecting.send_text("x")
    assert receiving.get(timeout=10) == "x"


def test_a_context_of_somebody_elses_gives_sockets_with_options_too():
    with zmq.Context() as plain:
        context = Context(plain)
        with context.socket("pull", {"rcvhwm": 9, "rcvtimeo": 5}) as socket:
            assert socket.get_option("rcvhwm") == 9
            with pytest.raises(TimeoutError):
                socket.receive_text()

"""Publishers of servers: what they tell who subscribes, and that nobody else notices."""

import gevent
import pytest

from dploylib import Server, bind, connect_in
from dploylib.errors import SocketStateError
from dploylib.transport import publishing
from dploylib.transport.publishing import subscription_id

pytestmark = pytest.mark.usefixtures("leak_check")

PREFIX = b"DPL1/subscribed/"


class Feed(Server):
    out = bind("out", "pub")


@pytest.fixture
def out(serve):
    """The publisher of a running server."""
    return serve(Feed).sockets.out


def test_who_subscribes_to_such_an_id_gets_an_envelope_with_it(out, peer):
    id = subscription_id().encode()
    listener = peer("sub", out.endpoint, subscribe=id)
    assert listener.receive() == [id, b"text/plain", b""]
    assert (out.sent, out.dropped) == (0, 0)


def test_what_was_subscribed_before_is_in_place_with_the_confirmation(out, peer):
    listener = peer("sub", out.endpoint)
    for number in range(500):
        listener.zmq_socket.subscribe(b"topic %d" % number)
    listener.zmq_socket.subscribe(subscription_id().encode())
    listener.receive()
    for number in range(500):
        out.send_text("", id=f"topic {number}")
    assert [listener.receive()[0] for _ in range(500)] == [b"topic %d" % number for number in range(500)]


def test_a_publisher_that_publishes_all_the_time_confirms_too(out, peer):
    publishing_all_the_time = gevent.spawn(publish_for_ever, out)
    try:
        listener = peer("sub", out.endpoint, subscribe=subscription_id().encode())
        assert listener.receive()[0].startswith(PREFIX)
    finally:
        publishing_all_the_time.kill()


def publish_for_ever(out):
    while True:
        out.send_text("", id="other")
        gevent.sleep(0)


def test_it_is_a_pub_to_the_code_of_its_server(out):
    assert out.socket_type == "pub"
    assert "pub tcp://" in repr(out)
    for receive in (out.receive_frames, out.readable, out.wait_readable):
        with pytest.raises(SocketStateError, match="pub sockets do not receive"):
            receive()


def test_nothing_else_that_a_peer_sends_is_answered(out, peer):
    listener = peer("xsub", out.endpoint)
    listener.send(b"\1")  # everything
    for frames in (
        [b"\1" + PREFIX + b"x" * 65],  # too long
        [b"\0" + PREFIX + b"gone"],
        [PREFIX + b"no subscription"],
        [b""],
        [b"\1DPL1"],
        [b"\1" + PREFIX + b"the last"],
    ):
        listener.send(*frames)
    assert listener.receive()[0] == PREFIX + b"the last"


def test_nobody_can_make_it_confirm_more_than_so_many_at_once(out, peer, monkeypatch):
    class Clock:
        """A second passes with every 1000 questions."""

        calls = 0

        def monotonic(self):
            self.calls += 1
            return (self.calls - 1) // 1000

    monkeypatch.setattr(publishing, "time", Clock())
    listener = peer("sub", out.endpoint, subscribe=b"", sndhwm=0)  # a SUB loses subscriptions beyond that
    ids = [subscription_id().encode() for _ in range(2001)]
    for id in ids:
        listener.zmq_socket.subscribe(id)
    confirmed = [listener.receive()[0]]
    while confirmed[-1] != ids[-1]:
        confirmed.append(listener.receive()[0])
    assert confirmed == [*ids[:100], *ids[1000:1100], ids[2000]]


def test_sockets_and_handlers_of_ours_never_see_a_confirmation(out, peer, serve, wait_until):
    class Listener(Server):
        @connect_in("news", "sub", options={"subscribe": ""})
        def hear(self, socket, received):
            heard.append(received.id)

    heard = []
    serve(Listener, news={"uri": out.endpoint})
    socket = out.context.socket("sub", {"subscribe": ""})
    socket.connect(out.endpoint)
    asking = peer("sub", out.endpoint, subscribe=b"")
    asking.zmq_socket.subscribe(subscription_id().encode())
    assert asking.receive()[0].startswith(PREFIX)
    wait_until(lambda: out.send_text("", id="the first") or heard)
    asking.zmq_socket.subscribe(subscription_id().encode())
    while not asking.receive()[0].startswith(PREFIX):
        pass
    out.send_text("", id="the end")
    wait_until(lambda: heard[-1] == "the end")
    assert set(heard) == {"the first", "the end"}
    while (id := socket.receive_envelope(timeout=10).id) != "the end":
        assert id == "the first"


def test_an_xpub_of_a_user_is_left_to_the_user(serve, peer):
    class Own(Server):
        out = bind("out", "xpub")

    out = serve(Own).sockets.out
    id = subscription_id().encode()
    listener = peer("sub", out.endpoint, subscribe=id)
    assert out.receive_frames(timeout=10) == [b"\1" + id]
    assert listener.silent()


def test_nothing_is_read_after_it_was_closed(out, serve, monkeypatch):
    reads = []
    monkeypatch.setattr(publishing, "read_message", lambda socket, flags=0: reads.append(socket) or [b""])
    out.send_text("to have it look")
    out.close()
    gevent.sleep(0.05)
    seen = len(reads)
    gevent.sleep(0.05)  # five times the delay
    assert len(reads) == seen

"""`BroadcastServer`: what it is given goes to all who have subscribed, and to those who come late, if it keeps that."""

import gevent
import pytest

from dploylib.clients import ListeningClient, PushClient, RequestClient
from dploylib.config import YAMLConfigMapper
from dploylib.errors import ConfigurationError, TransientError
from dploylib.servers import bind_in
from dploylib.servers.generic import BroadcastServer
from dploylib.servers.generic.broadcast import Subscriptions
from dploylib.services import (
    GreenletServerCoordinator,
    ProcessServerCoordinator,
    Service,
    ThreadedServerCoordinator,
)
from dploylib.testing import call_handler, running
from dploylib.transport import Envelope
from tests.hard.zmtp import Connection, message

pytestmark = pytest.mark.usefixtures("leak_check")

ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def settings_for():
    """`settings_for(cls, own={...}, out={...})`: `in` and `request` are there unless they are None."""

    def settings(server_cls, own=None, **given):
        sockets = {"in": {}, "request": {}, "out": {}, **given}
        servers = {name: {"uri": ANYWHERE, **info} for name, info in sockets.items() if info is not None}
        data = {"servers": {"tested": servers}, "settings": {"tested": own or {}}}
        return YAMLConfigMapper({}).process_dict(data).server_settings("tested")

    return settings


@pytest.fixture
def listener(peer, wait_until):
    """`listener(server, b"id")`: a bare SUB that the server knows of."""

    def listen(server, *ids, **options):
        before = server.subscribers.total
        socket = peer("sub", server.sockets.out.endpoint, **options)
        for id in ids:
            socket.zmq_socket.subscribe(id)
        wait_until(lambda: server.subscribers.total == before + len(ids))
        return socket

    return listen


def text(id, body):
    return Envelope(id, "text/plain", body)


# Publishing ------------------------------------------------------------------------------------------------------


def test_what_is_pushed_goes_to_all_who_have_subscribed_to_its_id(serve, peer, listener):
    server = serve(BroadcastServer)
    one, other, nobody = listener(server, b"a"), listener(server, b"", b"b"), listener(server, b"c")
    push = peer("push", server.sockets["in"].endpoint)
    large = b"\xff" * 100_000
    push.send(b"a1", b"no/such", large)
    push.send(b"a route", b"of two", b"", b"b", b"text/plain", b"without its route")
    push.send(b"a2", b"", b"")
    assert one.receive() == other.receive() == [b"a1", b"no/such", large]
    assert other.receive() == [b"b", b"text/plain", b"without its route"]
    assert one.receive() == other.receive() == [b"a2", b"", b""]
    assert nobody.silent()


def test_who_asks_is_told_how_many_subscriptions_matched(serve, peer, listener):
    server = serve(BroadcastServer)
    listeners = [listener(server, *ids) for ids in ([b""], [b"a"], [b"a", b"ab"], [b"abc"], [b"b"])]
    client = peer("req", server.sockets.request.endpoint)
    assert client.ask(b"ab", b"text/plain", b"x") == [b"ab", b"application/json", b'{"subscribers":4}']
    assert [one.receive() for one in listeners[:3]] == [[b"ab", b"text/plain", b"x"]] * 3
    assert client.ask(b"", b"text/plain", b"x")[-1] == b'{"subscribers":1}'


def test_the_answer_counts_who_gets_the_message_although_nobody_has_read_of_them_yet(serve, peer, listener):
    server = serve(BroadcastServer)
    client = peer("req", server.sockets.request.endpoint)
    listener(server)
    out = server.sockets.out
    others = [out.context.socket("sub", {"subscribe": b"a"}) for _ in range(3)]
    out.bind("inproc://here")
    for one in others:
        one.connect("inproc://here")  # from where a subscription is there at once
    assert server.request(None, ReceivedText("a")) == {"subscribers": 3}
    assert client.ask(b"a", b"text/plain", b"x")[-1] == b'{"subscribers":3}'
    assert [one.receive_text(timeout=10) for one in others] == ["", "", ""]


class ReceivedText:
    def __init__(self, id):
        self.envelope = text(id, "")


@pytest.mark.parametrize(("left_out", "there"), [("in", "request"), ("request", "in")])
def test_one_of_its_two_entrances_is_enough(serve, left_out, there):
    server = serve(BroadcastServer, **{left_out: None})
    assert sorted(server.endpoints) == sorted([there, "out"])


def test_a_server_with_nothing_to_publish_does_not_start(serve):
    with pytest.raises(ConfigurationError) as failure:
        serve(BroadcastServer, request=None, **{"in": None})
    assert str(failure.value) == (
        "servers.tested: neither 'in' nor 'request' is configured: server 'tested' would have nothing to publish"
    )


@pytest.mark.parametrize(
    "coordinator", [GreenletServerCoordinator, ThreadedServerCoordinator, ProcessServerCoordinator]
)
def test_it_works_wherever_it_runs_and_confirms_subscriptions(coordinator):
    service = Service(coordinator=coordinator())
    service.add_server("news", BroadcastServer)
    with running(service, settings={"news": {"last_values": 5}}) as it:
        request, push = it.client("news.request"), it.client("news.in")
        assert isinstance(push, PushClient)
        assert isinstance(request, RequestClient)
        assert request.request("old", id="a").json == {"subscribers": 0}
        listening = ListeningClient(it.endpoint("news.out"), ["a", "b"])
        try:
            assert listening.wait_connected()
            assert request.request("new", id="b").json == {"subscribers": 1}
            push.push("pushed", id="a")
            received = [listening.receive(timeout=10).text]
            while received[-1] != "pushed":
                received.append(listening.receive(timeout=10).text)
            assert received in (["old", "new", "pushed"], ["new", "old", "pushed"], ["new", "pushed"])
        finally:
            listening.close()


def test_a_slow_subscriber_loses_messages_and_holds_up_nobody(serve, listener):
    server = serve(BroadcastServer, out={"options": {"sndhwm": 10, "sndbuf": 4096}})
    listener(server, b"", rcvhwm=1, rcvbuf=4096)
    quick = listener(server, b"")
    for number in range(500):
        server.publish(text("a", b"%d" % number + bytes(20_000)))
        assert quick.receive()[-1].startswith(b"%d\0" % number)
    assert server.sockets.out.dropped > 0


class Prices(BroadcastServer):
    @bind_in("price", "rep")
    def price(self, socket, received):
        self.publish(Envelope(f"price/{received.id}", "text/plain", received.text))
        return "published"


def test_a_handler_of_a_subclass_publishes_in_memory_too():
    result = call_handler(Prices, "price", "2.50", id="tea", settings={"last_values": 3})
    assert result.reply.text == "published"
    assert [(one.id, one.text) for one in result.sent["out"]] == [("price/tea", "2.50")]


# Subscriptions ---------------------------------------------------------------------------------------------------


def test_subscriptions_are_counted_by_id_until_they_end(serve, listener, wait_until):
    server = serve(BroadcastServer)
    one, two = listener(server, b"a", b"b"), listener(server, b"a")
    assert (server.subscribers.by_id, server.subscribers.total) == ({b"a": 2, b"b": 1}, 3)
    one.zmq_socket.unsubscribe(b"a")
    wait_until(lambda: server.subscribers.by_id == {b"a": 1, b"b": 1})
    two.zmq_socket.close()
    wait_until(lambda: server.subscribers.by_id == {b"b": 1})
    one.zmq_socket.close()
    wait_until(lambda: server.subscribers.total == 0)
    assert server.subscribers.by_id == {}


def test_a_subscriber_that_is_killed_is_not_counted_any_more(serve, process, wait_until):
    server = serve(BroadcastServer)
    listening = [process("listen.py", server.sockets.out.endpoint, "a", "b") for _ in range(2)]
    wait_until(lambda: server.subscribers.by_id == {b"a": 2, b"b": 2})
    server.publish(text("a", "for both"))
    assert [one.line() for one in listening] == ["for both"] * 2
    listening[0].kill()
    wait_until(lambda: server.subscribers.by_id == {b"a": 1, b"b": 1})
    listening[1].kill()
    wait_until(lambda: server.subscribers.total == 0)


def test_peers_that_tell_nonsense_do_no_harm(serve, listener, wait_until):
    server = serve(BroadcastServer)
    honest = listener(server, b"a")
    liar = Connection(server.sockets.out.endpoint).shake_hands("xsub")
    try:
        for frames in ([b"\0unknown"], [b"\2a", b"\3more"], [b""], [b"\2"], [b"x" * 100_000], [b"\1" + b"y" * 100_000]):
            liar.send(message(frames))
        liar.send(message([b"\1the end"]))
        wait_until(lambda: b"the end" in server.subscribers.by_id)
        assert server.subscribers.by_id[b"y" * 100_000] == 1
        assert sorted(map(len, server.subscribers.by_id)) == [1, 7, 100_000]
    finally:
        liar.close()
    wait_until(lambda: server.subscribers.by_id == {b"a": 1})
    server.publish(text("a", "for the honest"))
    assert honest.receive()[-1] == b"for the honest"


def test_a_count_never_goes_below_nothing():
    counted = Subscriptions()
    for id in (b"", b"a", b"ab", b"a"):
        counted.add(id)
    counted.remove(b"ab")
    counted.remove(b"ab")
    counted.remove(b"b")
    assert (counted.total, counted.by_id) == (3, {b"": 1, b"a": 2})
    assert [counted.matching(id) for id in (b"abc", b"b", b"")] == [3, 1, 1]
    for id in (b"a", b"a", b"", b"a"):
        counted.remove(id)
    assert (counted.total, counted.by_id, counted.matching(b"abc")) == (0, {}, 0)
    assert not counted._lengths


# Last values -----------------------------------------------------------------------------------------------------


def test_who_comes_late_gets_the_last_value_of_each_id_that_matches(serve, listener):
    server = serve(BroadcastServer, own={"last_values": 10})
    for id, body in (("a1", "old"), ("a2", "A2"), ("b", "B"), ("a1", "A1")):
        server.publish(text(id, body))
    late = listener(server, b"a")
    assert sorted(late.receive() for _ in range(2)) == [[b"a1", b"text/plain", b"A1"], [b"a2", b"text/plain", b"A2"]]
    server.publish(text("a", "the end"))
    assert late.receive()[-1] == b"the end"


def test_without_last_values_it_gets_what_is_published_from_then_on(serve, listener):
    server = serve(BroadcastServer)
    server.publish(text("a", "old"))
    late = listener(server, b"a")
    server.publish(text("a", "new"))
    assert late.receive()[-1] == b"new"


def test_the_value_that_was_published_longest_ago_is_forgotten(serve, listener):
    server = serve(BroadcastServer, own={"last_values": 2})
    for id in ("a", "b", "a", "c"):
        server.publish(text(id, id))
    late = listener(server, b"")
    assert sorted(late.receive()[0] for _ in range(2)) == [b"a", b"c"]
    server.publish(text("d", "the end"))
    assert late.receive()[0] == b"d"


def test_many_who_come_at_once_have_a_value_published_once(serve, listener):
    server = serve(BroadcastServer, own={"last_values": 10})
    early = listener(server, b"")
    for id in ("a", "b", "z"):
        server.publish(text(id, id))
    for _ in range(100):
        server._hear(True, b"a")  # at once, since nothing here waits
        server._hear(True, b"")
        server._hear(True, b"nothing")
    bodies = [early.receive()[-1] for _ in range(6)]
    assert sorted(bodies) == [b"a", b"a", b"b", b"b", b"z", b"z"]
    server.publish(text("z", "the end"))
    assert early.receive()[-1] == b"the end"


def test_what_was_published_after_somebody_came_is_not_published_again(serve, listener):
    server = serve(BroadcastServer, own={"last_values": 10})
    early = listener(server, b"")
    for id in ("a", "b", "z"):
        server.publish(text(id, "old"))
    server._hear(True, b"a")
    server._hear(True, b"b")
    server.publish(text("a", "new"))  # which the new one gets as well
    assert [early.receive()[0] for _ in range(5)] == [b"a", b"b", b"z", b"a", b"b"]
    server._hear(True, b"z")
    assert early.receive()[0] == b"z"  # and in between, nothing


def test_who_has_come_before_a_message_although_nobody_has_read_of_it_has_it_once(serve):
    server = serve(BroadcastServer, own={"last_values": 10})
    out = server.sockets.out
    for id in ("a", "z"):
        server.publish(text(id, "old"))
    late = out.context.socket("sub", {"subscribe": ""})
    out.bind("inproc://here")
    late.connect("inproc://here")  # from where a subscription is there at once
    server.publish(text("a", "new"))
    assert late.receive_text(timeout=10) == "new"
    assert late.receive_text(timeout=10) == "old"  # of z
    server.publish(text("z", "the end"))
    assert late.receive_text(timeout=10) == "the end"


def test_many_last_values_do_not_keep_others_from_running(serve, listener, spawn):
    turns = 0

    def run():
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(1e-9)

    server = serve(BroadcastServer, own={"last_values": 3000}, out={"options": {"sndhwm": 0}})
    for number in range(3000):
        server.publish(text(f"{number % 3}/{number}", ""))
    seen = []
    send = server.sockets.out.send_frames
    server.sockets.out.send_frames = lambda frames: seen.append(turns) or send(frames)
    spawn(run)
    late = listener(server, b"0/", b"1/", rcvhwm=0)
    assert len({late.receive()[0] for _ in range(2000)}) == 2000
    assert len(seen) == 2000
    assert len(set(seen)) >= 20


def test_a_value_that_cannot_be_published_again_is_tried_later(serve, listener):
    server = serve(BroadcastServer, own={"last_values": 10})
    for id in ("a", "b"):
        server.publish(text(id, id))
    out = server.sockets.out
    send, tries = out.send_frames, []

    def fail_at_first(frames):
        tries.append(frames)
        if len(tries) == 2:
            raise TransientError("no memory")
        send(frames)

    out.send_frames = fail_at_first
    late = listener(server, b"")
    assert [late.receive()[-1] for _ in range(2)] == [b"a", b"b"]
    assert len(tries) == 3

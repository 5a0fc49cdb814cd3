"""ListeningClient: what it receives, when it is connected, and how it ends."""

import contextlib
import logging
import textwrap

import gevent
import msgspec
import pytest
import zmq

from dploylib import Context, Server, bind_in
from dploylib.clients import ListeningClient
from dploylib.errors import (
    AddressInUse,
    ConnectTimeout,
    EndpointError,
    MalformedEnvelope,
    ReceiveTimeout,
    SocketClosed,
    UnknownOption,
)
from dploylib.transport import publishing
from dploylib.transport.publishing import subscription_id

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"

pytestmark = pytest.mark.usefixtures("leak_check")


@pytest.fixture
def listen(leak_check):
    """`listen(uri, ...)`: a client that is closed with the test."""
    clients = []

    def listen(uri, *arguments, **keywords):
        clients.append(ListeningClient(uri, *arguments, **keywords))
        return clients[-1]

    yield listen
    for client in clients:
        client.close()


def publish_numbers(out, count, id="number"):
    for number in range(count):
        out.send_text(str(number), id=id)


# Connecting ----------------------------------------------------------------------------------------------------------


def test_nothing_is_missed_that_is_published_after_wait_connected(feed):
    for _ in range(50):
        with ListeningClient(feed.endpoint, "number", options={"rcvhwm": 0}) as client:
            assert client.wait_connected() is True
            publish_numbers(feed, 1000)
            assert [client.receive(timeout=PATIENCE).text for _ in range(1000)] == [str(n) for n in range(1000)]


def test_wait_connected_counts_for_each_of_many_topics(feed, listen):
    topics = [f"topic {number}." for number in range(3000)]
    client = listen(feed.endpoint, topics, options={"rcvhwm": 0})
    assert client.wait_connected() is True
    for topic in topics:
        feed.send_text("", id=topic)
    assert [client.receive(timeout=PATIENCE).id for _ in topics] == topics


def test_a_topic_that_is_added_later_can_be_waited_for_again(feed, listen):
    client = listen(feed.endpoint, ["a", "b"])
    client.wait_connected()
    client.unsubscribe("a")
    client.subscribe("c")
    assert client.wait_connected() is True
    for id in ("a", "b", "c", "d"):
        feed.send_text("", id=id)
    assert [client.receive(timeout=PATIENCE).id for _ in range(2)] == ["b", "c"]


def test_what_came_while_it_waited_is_received_first_and_in_order(feed, listen, spawn):
    client = listen(feed.endpoint, options={"rcvhwm": 0})
    client.wait_connected()
    publish_numbers(feed, 2500)
    assert client.wait_connected() is True
    feed.send_text("2500", id="number")
    assert [client.receive(timeout=PATIENCE).text for _ in range(2501)] == [str(n) for n in range(2501)]


def test_one_greenlet_waits_for_the_connection_while_others_listen(feed, listen, spawn):
    client = listen(feed.endpoint)
    seen = []
    listening = [spawn(client.listen, lambda received: seen.append(received.text)) for _ in range(3)]
    waiting = [spawn(client.wait_connected) for _ in range(3)]
    gevent.joinall(waiting, timeout=PATIENCE, raise_error=True)
    assert [one.value for one in waiting] == [True] * 3
    publish_numbers(feed, 100)
    with gevent.Timeout(PATIENCE):
        while len(seen) < 100:
            gevent.sleep(0.002)
    client.stop()
    gevent.joinall(listening, timeout=PATIENCE, raise_error=True)
    assert sorted(map(int, seen)) == list(range(100))


def test_a_slow_handler_does_not_keep_another_greenlet_from_waiting_for_the_connection(feed, listen, spawn):
    client = listen(feed.endpoint)
    client.wait_connected()
    go_on = gevent.event.Event()
    handling = gevent.event.Event()
    listening = spawn(client.listen, lambda received: (handling.set(), go_on.wait()))
    feed.send_text("")
    handling.wait()
    assert client.wait_connected() is True
    client.stop()
    go_on.set()
    listening.get(timeout=PATIENCE)


def test_a_publisher_that_is_not_ours_is_connected_and_confirms_nothing(run_peer, listen):
    peer = run_peer("publish.py", ANYWHERE)
    client = listen(peer.line())
    assert client.wait_connected() is False
    assert client.connected
    peer.say("id text")  # a second is long enough for its subscription, though nobody says so
    received = client.receive(timeout=PATIENCE)
    assert (received.id, received.text) == ("id", "text")


def test_a_publisher_that_confirmed_so_many_already_is_asked_again(feed, listen, monkeypatch):
    asked = []
    monkeypatch.setattr(publishing._Confirmer, "_may", lambda self: asked.append(1) or len(asked) > 2)
    assert listen(feed.endpoint).wait_connected() is True
    assert len(asked) == 3


def test_confirmations_that_come_late_or_twice_or_for_others_are_not_received(peer_socket, listen):
    publisher = peer_socket("xpub")
    client = listen(publisher.endpoint)
    assert client.wait_connected() is False
    asked = []
    while not asked or publisher.wait_readable(0.01):
        subscription = publisher.receive_frames(timeout=PATIENCE)[0]
        if subscription.startswith(b"\1DPL1/"):
            asked.append(subscription[1:])
    for id in [*asked, *asked, subscription_id().encode()]:
        publisher.send_frames([id, b"text/plain", b""])
    publisher.send_text("the message")
    assert client.receive(timeout=PATIENCE).text == "the message"
    with pytest.raises(ReceiveTimeout):
        client.receive(timeout=0)


def test_it_takes_back_what_it_asked_the_publisher_to_confirm(peer_socket, listen):
    publisher = peer_socket("xpub")
    client = listen(publisher.endpoint, "topic")
    client.wait_connected(timeout=0.5)
    client.subscribe("the end")
    heard = []
    while b"\1the end" not in heard:
        heard += publisher.receive_frames(timeout=PATIENCE)
    asked = {one[1:] for one in heard if one.startswith(b"\1DPL1/")}
    assert asked
    assert {one[1:] for one in heard if one.startswith(b"\0")} == asked


def test_inproc_endpoints_are_connected_and_confirm_too(start_service, listen):
    with Context.new() as context:
        out = publishing_socket(context, "inproc://feed")
        client = listen("inproc://feed", context=context)
        assert client.connected
        assert client.wait_connected() is True
        out.send_text("hello")
        assert client.receive(timeout=PATIENCE).text == "hello"
        client.close()


def publishing_socket(context, uri):
    out = context.socket("xpub")
    publishing.confirm_subscriptions(out)
    out.bind(uri)
    return out


def test_nobody_there_is_a_timeout_that_says_so(listen):
    client = listen("tcp://127.0.0.1:1")
    with pytest.raises(TimeoutError, match="refused") as failure:
        client.wait_connected(timeout=0.3)
    error = failure.value
    assert isinstance(error, ConnectTimeout)
    assert error.endpoint == "tcp://127.0.0.1:1"
    assert error.elapsed >= 0.3
    assert error.known in str(error)
    assert not client.connected


def test_a_peer_of_another_type_is_a_timeout_that_says_so(peer_socket, listen):
    client = listen(peer_socket("rep").endpoint)
    with pytest.raises(ConnectTimeout, match="something listens there"):
        client.wait_connected(timeout=0.3)


def test_it_connects_when_a_publisher_takes_the_place_of_a_peer_of_another_type(peer_socket, listen, wait_until):
    wrong = peer_socket("rep")
    client = listen(wrong.endpoint)
    with pytest.raises(ConnectTimeout):
        client.wait_connected(timeout=0.3)
    wrong.close()
    publisher = wrong.context.socket("xpub")
    publishing.confirm_subscriptions(publisher)

    def bound():
        with contextlib.suppress(AddressInUse):  # libzmq closes the other one a moment later
            publisher.bind(client.endpoint)
        return publisher.endpoints

    wait_until(bound)
    assert client.wait_connected(timeout=PATIENCE) is True


def test_a_publisher_that_is_killed_and_comes_back_is_listened_to_again(run_peer, listen, wait_until, caplog):
    peer = run_peer("feed.py", ANYWHERE)
    endpoint = peer.line()
    client = listen(endpoint, ["a", "b"])
    assert client.wait_connected(timeout=PATIENCE) is True
    peer.say("a before")
    assert client.receive(timeout=PATIENCE).text == "before"
    assert client.reconnections == 0
    for times in (1, 2):
        peer.kill()
        wait_until(lambda: not client.connected)
        peer = run_peer("feed.py", endpoint)
        assert client.wait_connected(timeout=PATIENCE) is True
        peer.say("c other")
        peer.say("b after")
        assert client.receive(timeout=PATIENCE).text == "after"
        assert client.reconnections == times
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "was lost and made again: what was published meanwhile is lost" in warnings[0].getMessage()


def test_a_client_may_be_there_before_its_publisher(run_peer, listen):
    first = run_peer("feed.py", ANYWHERE)
    endpoint = first.line()
    first.kill()
    client = listen(endpoint, "a")
    with pytest.raises(ConnectTimeout):
        client.wait_connected(timeout=0.2)
    peer = run_peer("feed.py", endpoint)
    assert client.wait_connected(timeout=PATIENCE) is True
    peer.say("a text")
    assert client.receive(timeout=PATIENCE).text == "text"


# Receiving -----------------------------------------------------------------------------------------------------------


def test_obj_makes_objects_of_what_is_received(feed, listen):
    class Reading(msgspec.Struct):
        celsius: float

    client = listen(feed.endpoint, obj=Reading)
    client.wait_connected()
    feed.send_json({"celsius": 21.5})
    assert client.receive(timeout=PATIENCE).obj == Reading(21.5)


def test_receive_waits_no_longer_than_it_may(listen):
    client = listen("tcp://127.0.0.1:1")
    for timeout in (0, 0.01):
        with pytest.raises(ReceiveTimeout, match=f"127.0.0.1:1: nothing came within {timeout} s"):
            client.receive(timeout=timeout)


def test_receive_waits_no_longer_than_it_may_where_others_wait_too(feed, listen, spawn):
    client = listen(feed.endpoint)
    spawn(client.receive)
    gevent.sleep(0)
    with pytest.raises(ReceiveTimeout):
        client.receive(timeout=0.01)


def test_receive_raises_for_what_is_no_envelope_and_iterations_leave_it_out(feed, listen, caplog):
    client = listen(feed.endpoint)
    client.wait_connected()
    feed.send_frames([b"one frame"])
    with pytest.raises(MalformedEnvelope):
        client.receive(timeout=PATIENCE)
    for _ in range(10):
        feed.send_frames([b"one frame"])
    feed.send_frames([b"too", *([b"many"] * 300)])
    feed.send_text("hello")
    for received in client:
        assert received.text == "hello"
        break
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert "malformed envelope: 1 frame" in messages[0]


def test_a_message_with_too_many_frames_is_no_obstacle_to_wait_connected(feed, listen):
    client = listen(feed.endpoint)
    client.wait_connected()
    feed.send_frames([b""] * 300)
    feed.send_text("hello")
    assert client.wait_connected() is True
    assert client.receive(timeout=PATIENCE).text == "hello"


# The end -------------------------------------------------------------------------------------------------------------


def test_a_handler_may_stop_listening(feed, listen):
    client = listen(feed.endpoint)
    client.wait_connected()
    publish_numbers(feed, 10)
    seen = []

    def handler(received):
        seen.append(received.text)
        if len(seen) == 3:
            client.stop()

    client.listen(handler)
    assert seen == ["0", "1", "2"]
    assert client.receive(timeout=PATIENCE).text == "3"


def test_another_greenlet_may_stop_all_that_listen(feed, listen, spawn):
    client = listen(feed.endpoint)
    listening = [spawn(client.listen, print) for _ in range(3)] + [spawn(list, client)]
    gevent.sleep(0)  # let it begin
    client.stop()
    gevent.joinall(listening, timeout=PATIENCE, raise_error=True)
    assert all(one.ready() for one in listening)
    client.listen(print)  # for good
    assert list(client) == []


def test_a_stop_leaves_alone_who_is_not_waiting_for_a_message(feed, listen, spawn):
    client = listen(feed.endpoint)
    client.wait_connected()
    handling = gevent.event.Event()
    finished = []

    def handler(received):
        handling.set()
        gevent.sleep(0)
        finished.append(received.text)

    listening = spawn(client.listen, handler)
    feed.send_text("hello")
    handling.wait()
    client.stop()
    listening.get(timeout=PATIENCE)
    assert finished == ["hello"]


def test_stopping_again_leaves_alone_who_has_stopped(feed, listen, spawn):
    client = listen(feed.endpoint)
    go_on = gevent.event.Event()

    def listen_and_go_on():
        client.listen(print)
        return go_on.wait()

    listening = spawn(listen_and_go_on)
    gevent.sleep(0)  # let it begin
    client.stop()
    client.stop()
    gevent.sleep(0)
    go_on.set()
    assert listening.get(timeout=PATIENCE) is True


def test_closing_ends_iterations_and_who_receives_is_told(feed, listen, spawn):
    client = listen(feed.endpoint)
    iterating = spawn(list, client)
    receiving = spawn(client.receive)
    gevent.sleep(0)  # let them begin
    client.close()
    client.close()
    assert iterating.get(timeout=PATIENCE) == []
    with pytest.raises(SocketClosed):
        receiving.get(timeout=PATIENCE)
    with pytest.raises(SocketClosed):
        client.wait_connected()
    assert not client.connected


def test_closing_ends_who_waits_for_the_connection(listen, spawn):
    client = listen("tcp://127.0.0.1:1")
    waiting = spawn(client.wait_connected)
    gevent.sleep(0)  # let it begin
    client.close()
    with pytest.raises(SocketClosed):
        waiting.get(timeout=PATIENCE)


def test_a_context_that_is_closed_ends_its_clients(feed, spawn):
    context = Context.new()
    client = ListeningClient(feed.endpoint, context=context)
    iterating = spawn(list, client)
    gevent.sleep(0)  # let it begin
    context.close()
    assert iterating.get(timeout=PATIENCE) == []
    client.close()


def test_what_a_handler_raises_is_raised_by_listen(feed, listen):
    client = listen(feed.endpoint)
    client.wait_connected()
    publish_numbers(feed, 2)

    def handler(received):
        raise LookupError(received.text)

    for text in ("0", "1"):
        with pytest.raises(LookupError, match=text):
            client.listen(handler)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"uri": "nonsense"}, EndpointError),
        ({"uri": ANYWHERE.replace("*", "1"), "options": {"no_such_option": 1}}, UnknownOption),
        ({"uri": ANYWHERE.replace("*", "1"), "id": [1]}, UnknownOption),
        ({"uri": ANYWHERE.replace("*", "1"), "obj": 5}, TypeError),
    ],
)
def test_a_client_that_cannot_be_made_leaves_nothing_open(arguments, error):
    with pytest.raises(error):
        ListeningClient(**arguments)


def test_a_context_that_blocks_the_thread_is_refused():
    with zmq.Context() as plain:
        context = Context(plain)
        with pytest.raises(TypeError, match="green context"):
            ListeningClient("tcp://127.0.0.1:1", context=context)
        context.close(linger=0)


# Where it is used ----------------------------------------------------------------------------------------------------


def test_a_handler_that_listens_to_another_service_does_not_block_its_server(feed, start_service, spawn):
    class Relay(Server):
        @bind_in("request", "rep", concurrency=50)
        def next_message(self, socket, received):
            with ListeningClient(feed.endpoint, received.text) as client:
                client.wait_connected()
                waiting.append(client)
                return client.receive(timeout=PATIENCE).text

    waiting = []
    service = start_service(relay=Relay)
    endpoint = service.endpoints["relay"]["request"]

    def ask(number):
        with Context.new() as context:
            socket = context.socket("req")
            socket.connect(endpoint)
            socket.send_text(f"topic {number}.")
            return socket.receive_text(timeout=PATIENCE)

    asking = [spawn(ask, number) for number in range(20)]
    with gevent.Timeout(PATIENCE):
        while len(waiting) < 20:
            gevent.sleep(0.002)
    for number in range(20):
        feed.send_text(str(number), id=f"topic {number}.")
    gevent.joinall(asking, timeout=PATIENCE, raise_error=True)
    assert [one.value for one in asking] == [str(number) for number in range(20)]


SCRIPT = """
    import sys, threading
    from dploylib.clients import ListeningClient

    with ListeningClient(sys.argv[1], "count") as client:
        assert client.wait_connected()
        print("connected", flush=True)
        for received in client:
            print(received.text, flush=True)
            if received.text == "2":
                break
    assert threading.active_count() == 1
"""


@pytest.mark.parametrize("patch", ["", "import gevent.monkey; gevent.monkey.patch_all()"], ids=["plain", "patched"])
def test_a_script_that_knows_nothing_of_greenlets_listens(run_peer, tmp_path, patch):
    script = tmp_path / "script.py"
    script.write_text(patch + "\n" + textwrap.dedent(SCRIPT))
    publisher = run_peer("feed.py", ANYWHERE)
    listener = run_peer(str(script), publisher.line())
    assert listener.line() == "connected"
    for number in range(3):
        publisher.say(f"count {number}")
    assert [listener.line() for _ in range(3)] == ["0", "1", "2"]
    assert listener.end() == 0

"""PushClient: when a message is handed over, what waits, and what a close tells."""

import signal
import textwrap

import gevent
import gevent.event
import pytest
import zmq

from dploylib import Context, Envelope, ReceivedData, Server, bind_in
from dploylib.clients import PushClient
from dploylib.errors import ConnectTimeout, EndpointError, SendTimeout, SocketClosed, UnknownOption

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"
NOWHERE = "tcp://127.0.0.1:1"
LARGE = b"x" * 1_000_000  # bytes, a few of which fill the buffers of the kernel

pytestmark = pytest.mark.usefixtures("leak_check")


def texts(socket, count):
    return [socket.receive_text(timeout=PATIENCE) for _ in range(count)]


def push_until_full(client, message):
    """Push until there is no more room; how often that worked."""
    while there_was_room(client, message):
        pass
    with pytest.raises(SendTimeout, match="its queue is full"):
        client.push(message, timeout=0)
    return client.sent


def there_was_room(client, message):
    try:
        client.push(message, timeout=0.5)
    except SendTimeout:
        return False
    return True


# Handing over --------------------------------------------------------------------------------------------------------


def test_what_is_pushed_arrives_in_order(peer_socket):
    pull = peer_socket("pull")
    with PushClient(pull.endpoint) as client:
        for number in range(3000):
            client.push(str(number))
            if number % 100 == 99:
                assert texts(pull, 100) == [str(n) for n in range(number - 99, number + 1)]
        assert client.sent == 3000


@pytest.mark.parametrize(
    ("message", "mimetype", "data"),
    [
        ("text", "text/plain", b"text"),
        (b"bytes", "application/octet-stream", b"bytes"),
        ({"a": 1}, "application/json", b'{"a":1}'),
        (Envelope("", "image/png", b"..."), "image/png", b"..."),
        (ReceivedData(Envelope("", "image/png", b"...")), "image/png", b"..."),
    ],
)
def test_messages_are_encoded_by_their_type(peer_socket, message, mimetype, data):
    pull = peer_socket("pull")
    with PushClient(pull.endpoint) as client:
        client.push(message, id="id")
    assert pull.receive_envelope(timeout=PATIENCE) == Envelope("id", mimetype, data)


def test_what_cannot_be_encoded_is_not_sent(peer_socket):
    pull = peer_socket("pull")
    with PushClient(pull.endpoint) as client:
        with pytest.raises(TypeError):
            client.push(object())
        client.push("next")
        assert client.sent == 1
    assert texts(pull, 1) == ["next"]


def test_nothing_is_queued_for_a_peer_that_is_not_there(run_peer):
    first = run_peer("pull.py", ANYWHERE)
    endpoint = first.line()
    first.kill()
    with PushClient(endpoint) as client:
        assert not client.connected
        with pytest.raises(SendTimeout, match=rf"{endpoint}: nothing was sent within .* s: .*refused"):
            client.push("too early", timeout=0.2)
        with pytest.raises(ConnectTimeout, match="refused"):
            client.wait_connected(timeout=0)
        peer = run_peer("pull.py", endpoint)
        client.push("in time")
        assert peer.line() == endpoint
        assert peer.line() == "in time"
        assert client.sent == 1


def test_a_push_waits_for_the_peer_to_come_back(run_peer, wait_until):
    peer = run_peer("pull.py", ANYWHERE)
    endpoint = peer.line()
    with PushClient(endpoint) as client:
        client.push("before")
        assert peer.line() == "before"
        for _ in range(2):
            peer.kill()
            wait_until(lambda: not client.connected)
            with pytest.raises(SendTimeout, match="connection was lost"):
                client.push("nobody", timeout=0.2)
            peer = run_peer("pull.py", endpoint)
            client.push("after")
            assert peer.line() == endpoint
            assert peer.line() == "after"


def test_what_was_queued_for_a_peer_that_died_is_sent_when_it_is_back(run_peer, wait_until):
    peer = run_peer("pull.py", ANYWHERE)
    endpoint = peer.line()
    with PushClient(endpoint) as client:
        client.wait_connected()
        peer.signal(signal.SIGSTOP)
        for _ in range(20):
            client.push(LARGE)  # fills the buffers
        client.push("still in the queue")
        peer.kill()
        peer = run_peer("pull.py", endpoint)
        assert peer.line() == endpoint
        while (line := peer.line()) != "still in the queue":
            assert line == "x" * 20


def test_a_push_waits_for_room_at_the_high_water_mark(run_peer):
    peer = run_peer("pull.py", ANYWHERE)
    with PushClient(peer.line(), options={"sndhwm": 5}) as client:
        client.wait_connected()
        peer.signal(signal.SIGSTOP)
        pushed = push_until_full(client, LARGE)
        assert pushed >= 5
        waiting = gevent.spawn(client.push, "the last")
        gevent.sleep(0.05)
        assert not waiting.ready()
        peer.signal(signal.SIGCONT)
        waiting.get(timeout=PATIENCE)
        assert [peer.line() for _ in range(pushed + 1)] == [*["x" * 20] * pushed, "the last"]
        assert client.sent == pushed + 1


def test_others_run_while_a_push_waits(peer_socket, spawn):
    with PushClient(NOWHERE) as client:
        waiting = spawn(client.push, "hello")
        turns = 0
        while turns < 10:
            gevent.sleep(0)
            turns += 1
        assert not waiting.ready()
        waiting.kill()


def test_many_greenlets_push_through_one_client(peer_socket, spawn):
    pull = peer_socket("pull")
    with PushClient(pull.endpoint, options={"sndhwm": 3}) as client:
        pushing = [spawn(client.push, str(number)) for number in range(500)]
        assert sorted(map(int, texts(pull, 500))) == list(range(500))
        gevent.joinall(pushing, timeout=PATIENCE, raise_error=True)


# Several peers -------------------------------------------------------------------------------------------------------


def test_peers_get_messages_in_turn_and_those_that_are_gone_get_none(peer_socket, wait_until):
    first, second = peer_socket("pull"), peer_socket("pull")
    with PushClient([first.endpoint, NOWHERE, second.endpoint]) as client:
        wait_until(lambda: sum(client.endpoints.values()) == 2)
        assert client.endpoints == {first.endpoint: True, NOWHERE: False, second.endpoint: True}
        for number in range(10):
            client.push(str(number))
        assert sorted([*texts(first, 5), *texts(second, 5)]) == [str(number) for number in range(10)]
        first.close()
        wait_until(lambda: not client.endpoints[first.endpoint])
        for _ in range(10):
            client.push("rest")
        assert texts(second, 10) == ["rest"] * 10


def test_a_peer_whose_queue_is_full_does_not_keep_messages_from_the_others(run_peer, peer_socket, wait_until):
    stuck, pull = run_peer("pull.py", ANYWHERE), peer_socket("pull")
    with PushClient([stuck.line(), pull.endpoint], options={"sndhwm": 5}) as client:
        wait_until(lambda: all(client.endpoints.values()))
        stuck.signal(signal.SIGSTOP)
        for _ in range(100):
            client.push(LARGE)
            pull.wait_readable(0)
            while pull.readable():
                pull.receive_frames()
        stuck.signal(signal.SIGCONT)


@pytest.mark.parametrize("index", [0, 1])
def test_it_waits_for_whichever_peer_has_room_first(run_peer, wait_until, index):
    peers = [run_peer("pull.py", ANYWHERE) for _ in range(2)]
    with PushClient([peer.line() for peer in peers], options={"sndhwm": 5}) as client:
        wait_until(lambda: all(client.endpoints.values()))
        for peer in peers:
            peer.signal(signal.SIGSTOP)
        push_until_full(client, LARGE)
        waiting = gevent.spawn(client.push, LARGE)
        gevent.sleep(0.01)
        assert not waiting.ready()
        peers[index].signal(signal.SIGCONT)
        waiting.get(timeout=PATIENCE)
        peers[1 - index].signal(signal.SIGCONT)


# The end -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_a_close_waits_until_everything_has_left(run_peer, spawn, shared):
    peer = run_peer("pull.py", ANYWHERE)
    with Context.new() as context:
        client = PushClient(peer.line(), context=context if shared else None)
        client.wait_connected()
        peer.signal(signal.SIGSTOP)
        for _ in range(20):
            client.push(LARGE)
        closing = spawn(client.close)
        gevent.sleep(0.1)
        assert not closing.ready()
        peer.signal(signal.SIGCONT)
        closing.get(timeout=PATIENCE)
        assert [peer.line() for _ in range(20)] == ["x" * 20] * 20


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_a_close_tells_when_peers_have_not_taken_everything(run_peer, shared):
    peer = run_peer("pull.py", ANYWHERE)
    endpoint = peer.line()
    with Context.new() as context:
        client = PushClient(endpoint, context=context if shared else None)
        client.wait_connected()
        peer.signal(signal.SIGSTOP)
        for _ in range(20):
            client.push(LARGE)
        with pytest.raises(SendTimeout, match=f"{endpoint}: not all of the 20 messages that were pushed were taken"):
            client.close(timeout=0.2)
        client.close()


def test_a_close_tells_of_what_waits_for_a_peer_that_is_gone(run_peer, wait_until):
    peer = run_peer("pull.py", ANYWHERE)
    client = PushClient(peer.line())
    client.wait_connected()
    peer.signal(signal.SIGSTOP)
    for _ in range(20):
        client.push(LARGE)
    peer.kill()
    wait_until(lambda: not client.connected)
    with pytest.raises(SendTimeout, match="connection was lost"):
        client.close(timeout=0.2)


def test_leaving_the_block_waits_too_but_does_not_hide_what_was_raised_in_it(run_peer, caplog):
    peer = run_peer("pull.py", ANYWHERE)
    endpoint = peer.line()

    def push_and(end):
        with PushClient(endpoint, timeout=0.5) as client:
            client.wait_connected(PATIENCE)
            peer.signal(signal.SIGSTOP)
            for _ in range(20):
                client.push(LARGE, timeout=PATIENCE)
            end()

    def fail():
        raise LookupError

    with pytest.raises(SendTimeout):
        push_and(lambda: None)
    assert not caplog.records
    peer.signal(signal.SIGCONT)
    with pytest.raises(LookupError):
        push_and(fail)
    assert "not all of the 20 messages" in caplog.text


def test_a_close_with_nothing_to_send_does_not_wait():
    with gevent.Timeout(PATIENCE), PushClient([NOWHERE, "tcp://127.0.0.1:2"], timeout=float("inf")):
        pass


def test_who_pushes_when_it_is_closed_is_told(spawn):
    client = PushClient(NOWHERE)
    waiting = [spawn(client.push, "hello"), spawn(client.wait_connected)]
    gevent.sleep(0)  # let them begin
    client.close()
    for one in waiting:
        with pytest.raises(SocketClosed):
            one.get(timeout=PATIENCE)
    with pytest.raises(SocketClosed):
        client.push("hello")
    assert not client.connected


def test_inproc_endpoints_are_pushed_to(leak_check):
    with Context.new() as context:
        pull = context.socket("pull")
        pull.bind("inproc://jobs")
        with PushClient("inproc://jobs", context=context) as client:
            client.push("hello")
        assert texts(pull, 1) == ["hello"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([NOWHERE, "nonsense"],), EndpointError),
        (([],), ValueError),
        ((NOWHERE, None, {"no_such_option": 1}), UnknownOption),
    ],
)
def test_a_client_that_cannot_be_made_leaves_nothing_open(arguments, error):
    with pytest.raises(error):
        PushClient(*arguments)


def test_a_context_that_blocks_the_thread_is_refused():
    with zmq.Context() as plain:
        context = Context(plain)
        with pytest.raises(TypeError, match="green context"):
            PushClient(NOWHERE, context=context)
        context.close(linger=0)


# Where it is used ----------------------------------------------------------------------------------------------------


def test_a_handler_that_waits_in_a_push_does_not_block_its_server(peer_socket, start_service, spawn):
    class Front(Server):
        @bind_in("request", "rep", concurrency=10)
        def enqueue(self, socket, received):
            if received.text == "ping":
                return "pong"
            begun.set()
            client.push(received.text)
            return "queued"

    begun = gevent.event.Event()
    with PushClient(NOWHERE) as client, Context.new() as context:
        endpoint = start_service(front=Front).endpoints["front"]["request"]
        slow, quick = context.socket("req"), context.socket("req")
        for socket in (slow, quick):
            socket.connect(endpoint)
        slow.send_text("job")
        begun.wait()
        quick.send_text("ping")
        assert quick.receive_text(timeout=PATIENCE) == "pong"
        slow.close(linger=0)


SCRIPT = """
    import sys, threading
    from dploylib.clients import PushClient

    with PushClient(sys.argv[1]) as client:
        for number in range(5000):
            client.push(str(number))
    assert threading.active_count() == 1
"""


@pytest.mark.parametrize("patch", ["", "import gevent.monkey; gevent.monkey.patch_all()"], ids=["plain", "patched"])
def test_a_script_that_knows_nothing_of_greenlets_loses_nothing_when_it_ends(run_peer, peer_socket, tmp_path, patch):
    script = tmp_path / "script.py"
    script.write_text(patch + "\n" + textwrap.dedent(SCRIPT))
    pull = peer_socket("pull")
    pushing = run_peer(str(script), pull.endpoint)
    assert texts(pull, 5000) == [str(number) for number in range(5000)]
    assert pushing.end() == 0


def test_a_context_that_somebody_closed_ends_a_push(peer_socket):
    context = Context.new()
    client = PushClient(peer_socket("pull").endpoint, context=context)
    client.wait_connected()
    context.close(linger=0)
    with pytest.raises(SocketClosed):
        client.push("y", timeout=10)
    client.close()

"""Sockets of a plain `zmq.Context`: the same calls, which block the thread."""

import subprocess
import sys
import time

import gevent
import pytest
import zmq
import zmq.asyncio

from dploylib.errors import ReceiveTimeout, SendTimeout, SocketClosed, SocketStateError
from dploylib.transport import Context, Envelope, Socket


@pytest.fixture
def thread():
    """Call a function in a real thread, monkey-patched or not."""
    return gevent.get_hub().threadpool.spawn


@pytest.fixture
def plain():
    with zmq.Context() as zmq_context:
        context = Context(zmq_context)
        yield context
        context.close(linger=0)


@pytest.fixture
def plain_pair(plain):
    def plain_pair(one, other, uri="tcp://127.0.0.1:*", **options):
        bound = Socket.bind_new(one, uri, options, plain)
        return bound, Socket.connect_new(other, bound.endpoint, options, plain)

    return plain_pair


def test_a_plain_context_gives_sockets_that_block(plain):
    socket = plain.socket("pull")
    assert not plain.green
    assert not socket.green
    assert "blocking" in repr(plain)


def test_a_request_is_answered(plain_pair):
    rep, req = plain_pair("rep", "req")
    req.send_text("hello", timeout=10)
    assert rep.receive_text(timeout=10) == "hello"
    rep.send_json([1])
    assert req.receive_json() == [1]
    assert (rep.sent, rep.received) == (1, 1)


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_receiving_nothing_raises_receive_timeout(plain_pair, timeout):
    pull, push = plain_pair("pull", "push")
    with pytest.raises(ReceiveTimeout):
        pull.receive_text(timeout=timeout)
    assert not pull.readable()
    assert not pull.wait_readable(timeout)
    push.send_text("a")
    assert pull.wait_readable(10)
    assert pull.receive_text(timeout=0) == "a"


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_sending_at_the_high_water_mark_raises_send_timeout_and_sends_nothing(plain_pair, timeout):
    pull, push = plain_pair("pull", "push", "inproc://mark", sndhwm=1, rcvhwm=1)
    for text in "ab":
        push.send_text(text, timeout=timeout)
    with pytest.raises(SendTimeout):
        push.send_text("c", timeout=timeout)
    assert [pull.receive_text(timeout=10) for _ in "ab"] == ["a", "b"]
    assert not pull.readable()


def test_timeouts_set_as_options_hold(plain_pair):
    pull, _ = plain_pair("pull", "push", rcvtimeo=10)
    with pytest.raises(ReceiveTimeout, match=r"0\.01 s"):
        pull.receive_text()


def test_a_reply_that_a_req_discards_is_waited_past(plain, thread):
    # A poll says that there is something, and recv that there is nothing: that must not count as a timeout.
    router = Socket.bind_new("router", "inproc://router", context=plain)
    req = Socket.connect_new("req", "inproc://router", context=plain)
    req.send_text("question")
    request = router.receive_envelope(timeout=10)
    router.send_frames([*request.request_frames, b"no empty frame before this"])

    def answer():
        time.sleep(0.05)
        router.send_envelope(request.response_envelope(None, b"answer"))

    answering = thread(answer)
    assert req.receive_text() == "answer"
    answering.get()


def test_another_thread_wakes_a_sender_that_waits(plain_pair, thread):
    pull, push = plain_pair("pull", "push", "inproc://mark", sndhwm=1, rcvhwm=1)
    for text in "ab":
        push.send_text(text)
    reading = thread(lambda: [pull.receive_text(timeout=10) for _ in range(20)])
    for number in range(18):
        push.send_envelope(Envelope.new("text/plain", str(number)), timeout=10)
    assert reading.get() == ["a", "b", *(str(number) for number in range(18))]


def test_a_router_waits_for_its_slow_peer(plain):
    router = Socket.bind_new("router", "inproc://router", {"sndhwm": 1, "router_mandatory": 1}, plain)
    dealer = Socket.connect_new("dealer", "inproc://router", {"rcvhwm": 1, "routing_id": "d"}, plain)
    dealer.send_frames([b"hello"])
    assert router.receive_frames(timeout=10) == [b"d", b"hello"]
    for _ in range(2):
        router.send_frames([b"d", b"x"], timeout=10)
    with pytest.raises(SendTimeout):
        router.send_frames([b"d", b"y"], timeout=0.01)
    assert [dealer.receive_frames(timeout=10) for _ in range(2)] == [[b"x"]] * 2
    router.send_frames([b"d", b"z"], timeout=10)
    assert dealer.receive_frames(timeout=10) == [b"z"]


def test_errors_are_the_same(plain_pair):
    rep, req = plain_pair("rep", "req")
    with pytest.raises(SocketStateError):
        req.receive_text(timeout=1)
    with pytest.raises(SocketStateError):
        rep.send_text("x", timeout=1)
    rep.close()
    with pytest.raises(SocketClosed):
        rep.receive_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sockets_of_asyncio_are_refused():
    with zmq.asyncio.Context() as asynchronous:
        with pytest.raises(TypeError, match=r"expected a socket of zmq\.green or of a plain zmq\.Context"):
            Context(asynchronous).socket("pull")
        with (
            asynchronous.socket(zmq.PULL) as socket,
            pytest.raises(TypeError, match=r"expected a socket of zmq\.green"),
        ):
            Socket(socket, asynchronous)


SCRIPT = """
import threading, zmq
from dploylib.errors import ReceiveTimeout
from dploylib.transport import Context

context = Context(zmq.Context())
rep = context.socket("rep")
rep.bind("tcp://127.0.0.1:*")

def serve():
    rep.send_text(rep.receive_text(timeout=20))

thread = threading.Thread(target=serve)
thread.start()
req = context.socket("req")
req.connect(rep.endpoint)
try:
    req.set_option("linger", 0)
    req.send_text("hello")
    print(req.receive_text(timeout=20))
    try:
        context.socket("pull").receive_text(timeout=0.05)
    except ReceiveTimeout:
        print("timeout")
finally:
    thread.join()
    context.close()
    context.zmq_context.term()
"""


def test_a_plain_script_with_a_thread_works(request):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("hello\ntimeout\n", "", 0)

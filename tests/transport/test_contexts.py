"""Contexts: shared ones, wrapped ones, and a close that waits without holding up others."""

import gc
import os
import threading

import gevent
import gevent.monkey
import pytest
import zmq
import zmq.green

from dploylib.errors import SocketClosed, TransportError
from dploylib.transport import DEFAULT_LINGER, Context, Socket


def ticker(ticks):
    while True:
        ticks.append(True)
        gevent.sleep(0.001)


def unreachable(context, linger):
    """A socket with a message for a peer that is not there."""
    socket = context.socket("push", {"linger": linger})
    socket.connect("tcp://127.0.0.1:1")  # nobody listens there
    socket.send_text("never")
    return socket


@pytest.mark.parametrize("wrong", [None, "context", 1, zmq.Context, zmq.green])
def test_only_a_context_can_be_wrapped(wrong):
    with pytest.raises(TypeError, match=r"see Context\.new\(\)"):
        Context(wrong)


@pytest.mark.usefixtures("leak_check")
def test_a_new_context_is_green_and_its_sockets_linger_for_a_while():
    with Context.new() as context:
        assert context.green
        assert "green" in repr(context)
        socket = context.socket("push")
        assert socket.get_option("linger") == DEFAULT_LINGER * 1000
        assert "1 sockets" in repr(context)
    assert context.closed
    assert socket.closed
    assert "closed" in repr(context)


def test_closing_twice_does_nothing():
    context = Context.new()
    context.close()
    context.close(linger=1)
    assert context.closed


def test_a_closed_context_makes_no_sockets():
    context = Context.new()
    context.close()
    with pytest.raises(SocketClosed, match="context was closed"):
        context.socket("pull")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zmq.green's __del__ fails then
def test_too_many_sockets_are_an_error_of_ours():
    zmq_context = zmq.green.Context()
    zmq_context.max_sockets = 2
    context = Context(zmq_context)
    with pytest.raises(TransportError, match="cannot make a pull socket") as caught:
        make(context, 3)
    assert isinstance(caught.value.__cause__, zmq.ZMQError)
    context.close()
    zmq_context.term()
    del caught
    gc.collect()


def make(context, count):
    for _ in range(count):
        context.socket("pull")


def test_closing_waits_for_what_is_queued_no_longer_than_linger_and_others_run(spawn):
    ticks = []
    spawn(ticker, ticks)
    context = Context.new()
    unreachable(context, 200)
    gevent.sleep(0)
    before = len(ticks)
    with gevent.Timeout(20, AssertionError("it does not end")):
        context.close()
    # The wait was not cut short, and the ticker ran all along: a blocked hub would let it run once or twice.
    assert len(ticks) - before > 3


def test_the_linger_of_a_close_goes_before_that_of_the_sockets():
    context = Context.new()
    socket = unreachable(context, -1)  # for ever
    with gevent.Timeout(20, AssertionError("it does not end")):
        context.close(linger=0.01)
    assert socket.closed


def test_a_close_may_be_given_up_and_taken_up_again(spawn):
    context = Context.new()
    unreachable(context, 300)
    gave_up = gevent.Timeout(0.01)
    with pytest.raises(gevent.Timeout) as caught, gave_up:
        context.close()
    assert caught.value is gave_up
    closing = [spawn(context.close) for _ in range(3)]
    gevent.joinall(closing, timeout=20, raise_error=True)
    assert all(greenlet.dead for greenlet in closing)
    assert context.closed


def test_the_shared_context_is_one_until_somebody_terminates_it():
    context = Context.instance()
    assert Context.instance() is context
    assert context.zmq_context is zmq.green.Context.instance()
    assert context.socket("push").get_option("linger") == DEFAULT_LINGER * 1000
    context.close()
    context.zmq_context.term()
    assert context.closed
    another = Context.instance()
    assert another is not context
    assert not another.closed


def test_closing_the_shared_context_leaves_the_sockets_of_others_alone():
    ours = Context.instance().socket("push")
    theirs = zmq.green.Context.instance().socket(zmq.PUSH)
    try:
        assert theirs.linger == -1  # libzmq's default, not ours
        with gevent.Timeout(20, AssertionError("it does not end")):
            Context.instance().close()
        assert ours.closed
        assert not theirs.closed
        assert not Context.instance().closed
    finally:
        theirs.close(linger=0)


def test_two_users_of_the_shared_context_meet_on_inproc():
    pull = Socket.bind_new("pull", "inproc://shared", context=Context.instance())
    push = Socket.connect_new("push", "inproc://shared", context=Context.instance())
    push.send_text("x")
    assert pull.receive_text(timeout=10) == "x"
    Context.instance().close()


@pytest.mark.parametrize("kind", [zmq.Context, zmq.green.Context])
def test_a_wrapped_context_is_not_terminated_but_its_sockets_are_closed(kind):
    with kind() as zmq_context:
        context = Context(zmq_context)
        ours, theirs = context.socket("pull"), zmq_context.socket(zmq.PULL)
        context.close()
        assert ours.closed
        assert not theirs.closed
        assert not zmq_context.closed
        assert not context.closed
        theirs.close()


@pytest.mark.usefixtures("leak_check")
def test_nothing_is_left_after_fifty_rounds(ipc_dir):
    descriptors = set()
    for number in range(50):
        context = Context.new()
        router = Socket.bind_new("router", "tcp://127.0.0.1:*", context=context)
        router.bind(f"ipc://{ipc_dir}/router")
        dealer = Socket.connect_new("dealer", router.endpoints[number % 2], context=context)
        own = Socket.connect_new("dealer", router.endpoint)
        waiting = gevent.spawn(dealer.wait_readable)
        for socket in (dealer, own):
            socket.send_text("x")
            assert router.receive_frames(timeout=10)[1:] == [b"", b"text/plain", b"x"]
        own.close()
        context.close()
        waiting.join(timeout=10)
        assert isinstance(waiting.exception, SocketClosed)
        assert list(ipc_dir.iterdir()) == []
        descriptors.add(len(os.listdir("/proc/self/fd")))
    assert max(descriptors) - min(descriptors) < 20  # it does not grow: the last round's may still be closing


@pytest.mark.usefixtures("leak_check")
def test_each_thread_can_have_a_context_and_a_hub_of_its_own(patched):
    if patched:
        pytest.skip("threads are greenlets")
    results = []

    def talk():
        with Context.new() as context:
            rep = Socket.bind_new("rep", "inproc://here", context=context)
            req = Socket.connect_new("req", "inproc://here", context=context)
            asking = gevent.spawn(lambda: req.send_text("x") or req.receive_text(timeout=10))
            rep.send_text(rep.receive_text(timeout=10))
            results.append(asking.get(timeout=10))
        gevent.get_hub().destroy(destroy_loop=True)

    threads = [threading.Thread(target=talk) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert results == ["x"] * 3


def test_closing_does_not_queue_behind_what_blocks_the_threadpool_of_the_hub():
    pool = gevent.get_hub().threadpool
    release = native_lock()
    release.acquire()
    blocked = [pool.spawn(release_when_told, release) for _ in range(pool.maxsize)]
    try:
        with gevent.Timeout(20, AssertionError("it does not end")):
            Context.new().close()
    finally:
        release.release()
        gevent.joinall(blocked, timeout=20)


def native_lock():
    """A lock that blocks the whole thread, which those of a patched `threading` do not."""
    return gevent.monkey.get_original("_thread", "allocate_lock")()


def release_when_told(lock):
    with lock:
        pass


def native_threads():
    return len(os.listdir("/proc/self/task"))


def test_no_thread_is_left_of_fifty_contexts(wait_for):
    Context.new().close()
    before = native_threads()
    for _ in range(50):
        context = Context.new()
        context.socket("push")
        context.close()
    wait_for(lambda: native_threads() <= before, "for the threads to end")

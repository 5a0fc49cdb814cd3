"""The poll loop: the older way, with green pollers and plain ones."""

import os

import gevent
import pytest
import zmq
import zmq.green
from gevent.event import Event

from dploylib.errors import ServiceStateError
from dploylib.transport import Context, PollLoop, Socket


@pytest.fixture
def pipe(context):
    count = 0

    def pipe():
        nonlocal count
        count += 1
        pull = Socket.bind_new("pull", f"inproc://pipe-{count}", context=context)
        return pull, Socket.connect_new("push", f"inproc://pipe-{count}", context=context)

    return pipe


def test_a_message_that_was_read_ahead_is_seen_at_once(pipe):
    (pull, push), (other, other_push) = pipe(), pipe()
    loop, seen = PollLoop.new(), []
    for socket in (pull, other):
        loop.register(socket, lambda socket: seen.append(socket.receive_text()))
    push.send_text("a")
    assert pull.wait_readable(timeout=10)
    with gevent.Timeout(20, AssertionError("it waits for another message")):
        assert loop.poll() == 1
    assert seen == ["a"]
    for text in "bc":
        push.send_text(text)
    assert pull.wait_readable(timeout=10)
    other_push.send_text("d")
    assert other.zmq_socket.poll(10_000)
    assert loop.poll() == 2
    assert seen == ["a", "b", "d"]


@pytest.fixture
def plain_pipe():
    """A PULL and a PUSH of a plain context, wrapped."""
    with zmq.Context() as plain:
        context = Context(plain)
        with (
            Socket.bind_new("pull", "inproc://pipe", context=context) as pull,
            Socket.connect_new("push", "inproc://pipe", context=context) as push,
        ):
            yield pull, push


def received_by(handled):
    return lambda socket: handled.append(socket.receive_text())


@pytest.mark.parametrize("loop", [PollLoop.new(), PollLoop(zmq.green.Poller())])
def test_each_poll_calls_the_handlers_of_what_is_readable_once(pipe, loop):
    (one, push_one), (two, push_two), (idle, _) = pipe(), pipe(), pipe()
    handled = []
    for pull in (one, two, idle):
        loop.register(pull, received_by(handled))
    assert loop.poll(timeout=0) == 0
    push_one.send_text("a")
    push_one.send_text("b")
    push_two.send_text("c")
    assert loop.poll() == 2
    assert sorted(handled) == ["a", "c"]
    assert loop.poll(timeout=10) == 1
    assert handled[2:] == ["b"]
    assert loop.poll(timeout=0.01) == 0


def test_a_green_poll_lets_others_run_and_ends_with_a_message_that_they_send(pipe, spawn):
    pull, push = pipe()
    loop, handled = PollLoop.new(), []
    loop.register(pull, received_by(handled))
    spawn(push.send_text, "a")
    assert loop.poll(timeout=10) == 1
    assert handled == ["a"]


def test_a_plain_poller_works_with_sockets_of_a_plain_context(plain_pipe):
    pull, push = plain_pipe
    loop, handled = PollLoop(zmq.Poller()), []
    loop.register(pull, received_by(handled))
    assert loop.poll(timeout=0.001) == 0
    push.send_text("a")
    assert loop.poll(timeout=10) == 1
    assert handled == ["a"]


def test_a_socket_of_pyzmqs_and_a_file_descriptor_can_be_registered(context):
    loop, handled = PollLoop.new(), []
    pull, push = context.zmq_context.socket(zmq.PULL), context.zmq_context.socket(zmq.PUSH)
    reading, writing = os.pipe()
    try:
        pull.bind("inproc://raw")
        push.connect("inproc://raw")
        loop.register(pull, lambda socket: handled.append(socket.recv()))
        loop.register(reading, lambda descriptor: handled.append(os.read(descriptor, 10)))
        push.send(b"message")
        os.write(writing, b"bytes")
        while len(handled) < 2:
            assert loop.poll(timeout=10)
        assert sorted(handled) == [b"bytes", b"message"]
    finally:
        pull.close()
        push.close()
        os.close(reading)
        os.close(writing)


def test_a_socket_registered_again_has_the_later_handler(pipe):
    pull, push = pipe()
    loop, handled = PollLoop.new(), []
    loop.register(pull, lambda socket: pytest.fail("the earlier handler"))
    loop.register(pull, received_by(handled))
    push.send_text("a")
    assert loop.poll(timeout=10) == 1
    assert handled == ["a"]


def test_it_runs_until_it_is_stopped_and_can_run_again(pipe, spawn, wait_for):
    pull, push = pipe()
    loop, handled = PollLoop.new(), []
    loop.register(pull, received_by(handled))
    for number in range(2):
        running = spawn(loop.run)
        push.send_text(str(number))
        wait_for(lambda number=number: len(handled) == number + 1)
        loop.stop()
        running.get(timeout=10)
    push.send_text("left")
    gevent.sleep(0.01)
    assert handled == ["0", "1"]
    assert pull.receive_text(timeout=0) == "left"


def test_a_plain_poll_loop_runs_until_a_handler_stops_it(plain_pipe):
    pull, push = plain_pipe
    loop, handled = PollLoop(zmq.Poller()), []

    def handle(socket):
        handled.append(socket.receive_text())
        if handled[-1] == "stop":
            loop.stop()

    loop.register(pull, handle)
    for text in ("a", "stop", "left"):
        push.send_text(text)
    loop.run()
    assert handled == ["a", "stop"]


def test_a_stop_lets_the_handler_finish(pipe, spawn, wait_for):
    pull, push = pipe()
    loop, handled, finish = PollLoop.new(), [], Event()

    def handle(socket):
        handled.append(socket.receive_text())
        finish.wait()
        handled.append("finished")

    loop.register(pull, handle)
    running = spawn(loop.run)
    push.send_text("a")
    push.send_text("b")
    wait_for(lambda: handled == ["a"])
    loop.stop()
    finish.set()
    running.get(timeout=10)
    assert handled == ["a", "finished"]


@pytest.mark.parametrize("idle", [False, True])
def test_a_kill_ends_the_handler_and_the_run(pipe, spawn, wait_for, idle):
    pull, push = pipe()
    loop, handled = PollLoop.new(), []

    def handle(socket):
        handled.append(socket.receive_text())
        try:
            gevent.sleep(60)
        finally:
            handled.append("ended")

    loop.register(pull, handle)
    running = spawn(loop.run)
    gevent.sleep(0)
    if not idle:
        push.send_text("a")
        wait_for(lambda: handled)
    loop.kill()
    running.get(timeout=10)
    assert handled == ([] if idle else ["a", "ended"])


def test_a_kill_does_not_hit_who_called_run_after_it_returned(pipe, spawn):
    pull, push = pipe()
    loop = PollLoop.new()
    survived = []

    def handle(socket):
        socket.receive_text()
        loop.kill()

    def run():
        loop.run()
        gevent.sleep(0.01)
        survived.append(True)

    loop.register(pull, handle)
    push.send_text("a")
    spawn(run).join(timeout=10)
    assert survived == [True]


def test_what_a_handler_raises_comes_out_of_run_and_it_can_run_again(pipe, spawn):
    pull, push = pipe()
    loop = PollLoop.new()
    loop.register(pull, lambda socket: 1 / len(socket.receive_text().strip("x")))
    for _ in range(2):
        push.send_text("x")
        with pytest.raises(ZeroDivisionError):
            loop.run()


def test_it_does_not_run_twice_at_once(pipe, spawn):
    loop = PollLoop.new()
    loop.register(pipe()[0], lambda socket: None)
    running = spawn(loop.run)
    gevent.sleep(0)
    with pytest.raises(ServiceStateError, match="runs already"):
        loop.run()
    loop.stop()
    running.get(timeout=10)


def test_a_poll_takes_no_room_from_a_sender_that_waits(connected, spawn):
    ours, peer = connected("dealer", "dealer", "inproc://edge", sndhwm=1, rcvhwm=1)
    loop = PollLoop.new()
    loop.register(ours, lambda socket: None)
    for _ in range(2):
        ours.send_text("fill", timeout=0)
    sending = spawn(ours.send_text, "waits")
    gevent.sleep(0.002)
    assert not sending.dead
    for _ in range(2):
        peer.receive_text(timeout=0)
    assert loop.poll(timeout=0) == 0  # it reads the events, which the sender waits for
    sending.get(timeout=5)


# Several handlers at once --------------------------------------------------------------------------------------


class Waits:
    def __init__(self):
        self.go_on = Event()
        self.started, self.finished, self.ended = [], [], []

    def __call__(self, socket):
        text = socket.receive_text()
        self.started.append(text)
        try:
            self.go_on.wait()
        except gevent.GreenletExit:
            self.ended.append(text)
            raise
        if text == "fail":
            raise ValueError("mine")
        self.finished.append(text)


@pytest.fixture
def serve(pipe, spawn):
    def serve(handler, *messages):
        pull, push = pipe()
        loop = PollLoop.new()
        loop.register(pull, handler, concurrency=2)
        for text in messages:
            push.send_text(text)
        return loop, pull, spawn(loop.run)

    return serve


def test_as_many_handlers_run_at_once_as_it_is_told_and_a_stop_waits_for_them(serve, wait_for):
    handler = Waits()
    loop, pull, running = serve(handler, "a", "b", "c")
    wait_for(lambda: len(handler.started) == 2)
    gevent.sleep(0.01)
    assert handler.started == ["a", "b"]
    loop.stop()
    running.join(timeout=0.2)
    assert not running.dead
    handler.go_on.set()
    running.get(timeout=10)
    assert "c" in (*handler.finished, *(pull.receive_text() if pull.readable() else ()))
    assert handler.finished[:2] == ["a", "b"]


def test_a_kill_ends_them_all(serve, wait_for):
    handler = Waits()
    loop, _, running = serve(handler, "a", "b")
    wait_for(lambda: len(handler.started) == 2)
    loop.kill(timeout=10)
    assert sorted(handler.ended) == ["a", "b"]
    running.get(timeout=10)


def test_what_one_of_them_raises_comes_out_of_run(serve, wait_for):
    handler = Waits()
    handler.go_on.set()
    _, _, running = serve(handler, "fail")
    with pytest.raises(ValueError, match="mine"):
        running.get(timeout=10)


def test_what_one_of_them_raises_after_the_stop_comes_out_of_the_same_run(serve, wait_for):
    handler = Waits()
    loop, _, running = serve(handler, "fail")
    wait_for(lambda: handler.started == ["fail"])
    loop.stop()
    running.join(timeout=0.2)
    handler.go_on.set()
    with pytest.raises(ValueError, match="mine"):
        running.get(timeout=10)


def test_a_timeout_that_a_handler_left_behind_does_not_end_the_loop(wait_until, caplog):
    """One that a handler raises does, as ever."""
    with Context.new() as context, context.socket("pull") as pull, context.socket("push") as push:
        pull.bind("inproc://work")
        push.connect("inproc://work")
        loop, left = PollLoop.new(), gevent.Timeout(3600)

        def handle(socket):
            text = socket.receive_text()
            if text == "leave":
                gevent.Timeout.start_new(0.01)
            elif text == "raise":
                raise left

        loop.register(pull, handle)
        running = gevent.spawn(_error_of, loop.run)
        push.send_text("leave")
        wait_until(lambda: "ignoring a Timeout that came too late" in caplog.text)
        push.send_text("raise")
        assert running.get(timeout=10) is left
        left.close()


def _error_of(function):
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        return error
    return None

"""The receive loop: handlers are fed, others get their turn, and a stop loses nothing."""

import contextlib
import contextvars
import gc
import itertools
import time

import gevent
import pytest
import zmq
from gevent.event import Event

from dploylib.errors import ServiceStateError, SocketClosed
from dploylib.transport import Context, ReceiveLoop, Socket

BACKLOG = 300_000
MOST_SECONDS_BETWEEN_TICKS = 0.05  # the figure


@pytest.fixture
def loop():
    return ReceiveLoop()


@pytest.fixture
def pipe(context):
    """Make a PULL and a PUSH without high-water marks; what is pushed is there to be pulled at once."""
    count = 0

    def pipe():
        nonlocal count
        count += 1
        pull = Socket.bind_new("pull", f"inproc://pipe-{count}", {"hwm": 0}, context)
        return pull, Socket.connect_new("push", f"inproc://pipe-{count}", {"hwm": 0}, context)

    return pipe


def received_by(handled):
    return lambda socket: handled.append(socket.receive_text())


def rest_of(socket):
    rest = []
    while socket.wait_readable(0.01):
        rest.append(socket.receive_text())
    return rest


# Others get their turn -----------------------------------------------------------------------------------------


@pytest.fixture
def _no_garbage_collection():
    # A full collection takes longer, in a process with thousands of tests, than what is measured here.
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collection")
def test_a_backlog_is_drained_while_others_run(pipe, loop, spawn, wait_for):
    pull, push = pipe()
    for _ in range(BACKLOG):
        push.send_frames((b"x",))
    handled = 0
    ticks = []

    def handle(socket):
        nonlocal handled
        socket.receive_frames()
        handled += 1

    def tick():
        while True:
            # The processor's time of this thread, since that of the wall depends on what else the machine does.
            ticks.append((time.thread_time(), time.monotonic(), handled))
            gevent.sleep(0.01)

    loop.register(pull, handle)
    spawn(tick)
    gevent.sleep(0)
    spawn(loop.run)
    wait_for(lambda: handled == BACKLOG and ticks[-1][2] == BACKLOG)
    gaps = [
        [now - then for now, then in zip(after, before, strict=True)] for before, after in itertools.pairwise(ticks)
    ]
    longest, longest_on_the_wall, most_handled = (max(column) for column in zip(*gaps, strict=True))
    print(f"longest gap {longest * 1e3:.1f} ms of CPU, {longest_on_the_wall * 1e3:.1f} ms, {most_handled} messages")
    assert longest < MOST_SECONDS_BETWEEN_TICKS
    assert most_handled < BACKLOG / 4
    loop.stop()


def test_a_backlog_on_one_socket_does_not_hold_up_another(pipe, loop, spawn, wait_for):
    (busy, push_busy), (other, push_other) = pipe(), pipe()
    handled, seen = [], []
    for _ in range(20_000):
        push_busy.send_frames((b"x",))
    loop.register(busy, lambda socket: handled.append(socket.receive_frames()))
    loop.register(other, lambda socket: seen.append((socket.receive_text(), len(handled))))
    spawn(loop.run)
    wait_for(lambda: handled)
    push_other.send_text("now")
    wait_for(lambda: seen)
    assert seen[0][1] < 20_000
    loop.kill()


def test_a_slow_handler_on_one_socket_does_not_hold_up_another(pipe, loop, spawn, wait_for):
    (slow, push_slow), (quick, push_quick) = pipe(), pipe()
    finish, handled = Event(), []

    def handle_slowly(socket):
        handled.append(socket.receive_text())
        finish.wait()

    loop.register(slow, handle_slowly)
    loop.register(quick, received_by(handled))
    running = spawn(loop.run)
    push_slow.send_text("slow")
    wait_for(lambda: handled == ["slow"])
    for number in range(10):
        push_quick.send_text(str(number))
    wait_for(lambda: len(handled) == 11)
    assert handled == ["slow", *(str(number) for number in range(10))]
    finish.set()
    loop.stop()
    running.get(timeout=10)


# Stopping ------------------------------------------------------------------------------------------------------


def test_a_stop_loses_no_message(pipe, loop):
    pull, push = pipe()
    handled = []

    def handle(socket):
        handled.append(socket.receive_text())
        if len(handled) == 100:
            loop.stop()

    for number in range(1000):
        push.send_text(str(number))
    loop.register(pull, handle)
    loop.run()
    assert handled == [str(number) for number in range(100)]
    assert rest_of(pull) == [str(number) for number in range(100, 1000)]


def test_a_message_that_comes_with_the_stop_is_handled_or_left(pipe, loop, spawn):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    sent = []
    for number in range(60):
        running = spawn(loop.run)
        gevent.sleep((0, 0, 0.001)[number % 3])
        sent.append(str(number))
        push.send_text(str(number))
        if number % 2:
            gevent.sleep(0)
        (loop.stop if number % 4 else loop.kill)()
        running.get(timeout=10)
        handled += rest_of(pull) if number % 10 == 9 else []
    assert handled == sent


def test_a_stopped_loop_reads_nothing_more(pipe, loop, spawn):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    running = spawn(loop.run)
    gevent.sleep(0)
    loop.stop()
    running.get(timeout=10)
    push.send_text("a")
    gevent.sleep(0.01)
    assert pull.receive_text(timeout=0) == "a"
    assert handled == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_lets_a_handler_finish_and_only_then_ends(pipe, loop, spawn, wait_for, times):
    pull, push = pipe()
    started, finish, finished = Event(), Event(), []

    def handle(socket):
        finished.append(socket.receive_text())
        started.set()
        finish.wait()
        gevent.sleep(0)
        finished.append("finished")

    loop.register(pull, handle)
    running = spawn(loop.run)
    push.send_text("a")
    push.send_text("b")
    assert started.wait(10)
    for _ in range(times):
        loop.stop()
    running.join(timeout=0.02)
    assert not running.dead
    finish.set()
    running.get(timeout=10)
    assert finished == ["a", "finished"]
    assert rest_of(pull) == ["b"]


def test_a_kill_ends_a_handler(pipe, loop, spawn):
    (pull, push), (idle, _) = pipe(), pipe()
    started, ended = Event(), []

    def handle(socket):
        socket.receive_text()
        started.set()
        try:
            gevent.sleep(60)
        finally:
            ended.append(True)

    loop.register(pull, handle)
    loop.register(idle, handle)
    running = spawn(loop.run)
    push.send_text("a")
    assert started.wait(10)
    loop.stop()
    loop.kill()
    running.get(timeout=10)
    assert ended == [True]


def test_a_stop_before_the_run_ends_it_at_once_and_counts_once(pipe, loop, spawn, wait_for):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    push.send_text("a")
    loop.stop()
    loop.run()
    assert handled == []
    running = spawn(loop.run)
    wait_for(lambda: handled == ["a"])
    loop.stop()
    running.get(timeout=10)


def test_it_can_run_again_after_a_stop(pipe, loop, spawn, wait_for):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    for number in range(3):
        running = spawn(loop.run)
        push.send_text(str(number))
        wait_for(lambda number=number: len(handled) == number + 1)
        loop.stop()
        running.get(timeout=10)
    assert handled == ["0", "1", "2"]


def test_it_does_not_run_twice_at_once(pipe, loop, spawn):
    running = spawn(loop.run)
    gevent.sleep(0)
    with pytest.raises(ServiceStateError, match="runs already"):
        loop.run()
    loop.stop()
    running.get(timeout=10)


def test_a_run_that_is_killed_takes_the_receive_greenlets_with_it(pipe, loop, spawn):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    running = spawn(loop.run)
    gevent.sleep(0)
    running.kill(timeout=10)
    push.send_text("a")
    gevent.sleep(0.01)
    assert pull.receive_text(timeout=0) == "a"
    assert handled == []


def test_a_socket_registered_while_it_runs_is_served(pipe, loop, spawn, wait_for):
    handled = []
    running = spawn(loop.run)
    gevent.sleep(0)
    pull, push = pipe()
    push.send_text("a")
    loop.register(pull, received_by(handled))
    wait_for(lambda: handled == ["a"])
    loop.stop()
    running.get(timeout=10)


def test_a_kill_or_timeout_that_comes_after_its_handler_ends_nothing(pipe, loop, spawn, wait_for, caplog):
    pull, push = pipe()
    got = []

    def handle(socket):
        got.append(socket.receive_text())
        if got[-1] == "timeout":
            gevent.Timeout(0.001).start()
        elif got[-1] == "kill":
            gevent.spawn(gevent.getcurrent().kill, block=False)

    loop.register(pull, handle)
    running = spawn(loop.run)
    for count, text in enumerate(["timeout", "kill"], start=1):
        push.send_text(text)
        wait_for(lambda count=count: len(caplog.records) == count)
    push.send_text("next")
    wait_for(lambda: got == ["timeout", "kill", "next"])
    assert "came too late for its handler" in caplog.text
    loop.stop()
    running.get(timeout=10)


# Several handlers at once --------------------------------------------------------------------------------------


class Crew:
    """A handler that waits when its message says so, and what it saw."""

    def __init__(self):
        self.go_on = Event()
        self.started, self.finished = [], []
        self.greenlets = set()
        self.ended = []

    def __call__(self, socket):
        text = socket.receive_text()
        self.started.append(text)
        self.greenlets.add(gevent.getcurrent())
        try:
            if text.startswith("wait"):
                self.go_on.wait()
        except gevent.GreenletExit:
            self.ended.append(text)
            raise
        self.finished.append(text)

    @property
    def alive(self):
        return sum(not greenlet.dead for greenlet in self.greenlets)


@pytest.fixture
def crew():
    return Crew()


@pytest.fixture
def serve(pipe, loop, spawn):
    """Register a handler for some messages that are there already, and let the loop run."""

    def serve(handler, concurrency, *messages):
        pull, push = pipe()
        for text in messages:
            push.send_text(text)
        loop.register(pull, handler, concurrency)
        return pull, push, spawn(loop.run)

    return serve


def test_handlers_that_wait_for_nothing_all_run_in_one_greenlet(serve, loop, crew, wait_for):
    numbers = [str(number) for number in range(3000)]
    serve(crew, 100, *numbers)
    wait_for(lambda: len(crew.finished) == 3000)
    assert crew.finished == numbers
    assert len(crew.greenlets) == 1
    loop.stop()


def test_others_read_on_while_handlers_wait_and_nobody_when_all_of_them_do(serve, crew, wait_for):
    _, push, _ = serve(crew, 3, "wait 1", "a", "wait 2", "b", "wait 3", "c")
    wait_for(lambda: "wait 3" in crew.started)
    gevent.sleep(0.01)  # were "c" to be read, it would be now
    assert crew.started == ["wait 1", "a", "wait 2", "b", "wait 3"]
    assert crew.finished == ["a", "b"]
    assert len(crew.greenlets) == 3
    crew.go_on.set()
    wait_for(lambda: "c" in crew.finished)
    push.send_text("d")
    wait_for(lambda: "d" in crew.finished)
    assert len(crew.greenlets) == 3


def test_the_greenlets_are_used_again_and_some_are_kept(serve, crew, wait_for, monkeypatch):
    monkeypatch.setattr("dploylib.transport.receive_loop._MOST_IDLE", 3)
    _, push, _ = serve(crew, 10, *(f"wait {number}" for number in range(10)))
    wait_for(lambda: len(crew.started) == 10)
    assert crew.alive == 10
    crew.go_on.set()
    wait_for(lambda: len(crew.finished) == 10)
    wait_for(lambda: crew.alive == 4)  # one that reads, and three for later
    crew.go_on.clear()
    for number in range(4):
        push.send_text(f"wait again {number}")
    wait_for(lambda: len(crew.started) == 14)
    assert len(crew.greenlets) == 10
    crew.go_on.set()


def test_a_backlog_for_several_handlers_is_drained_while_others_run(serve, crew, spawn, wait_for):
    ticks = []

    def tick():
        while True:
            ticks.append(len(crew.finished))
            gevent.sleep(0.001)

    serve(crew, 10, *("x" for _ in range(20_000)))
    spawn(tick)
    wait_for(lambda: len(crew.finished) == 20_000)
    assert len(ticks) > 5
    assert max(after - before for before, after in itertools.pairwise(ticks)) < 10_000


def test_a_stop_lets_all_handlers_finish_and_ends_the_others(serve, loop, crew, wait_for):
    pull, push, running = serve(crew, 5, "wait 1", "wait 2", "a", "b", "wait 3")
    wait_for(lambda: "wait 3" in crew.started)
    loop.stop()
    push.send_text("too late")
    running.join(timeout=0.01)
    assert not running.dead
    crew.go_on.set()
    running.get(timeout=10)
    assert sorted(crew.finished) == ["a", "b", "wait 1", "wait 2", "wait 3"]
    assert crew.alive == 0
    assert rest_of(pull) == ["too late"]


def test_a_stop_while_all_wait_reads_nothing_more(serve, loop, crew, wait_for):
    pull, _, running = serve(crew, 2, "wait 1", "wait 2", "left")
    wait_for(lambda: len(crew.started) == 2)
    loop.stop()
    crew.go_on.set()
    running.get(timeout=10)
    assert rest_of(pull) == ["left"]


def test_a_kill_ends_all_handlers_and_waits_for_that(serve, loop, crew, wait_for):
    _, _, running = serve(crew, 4, "wait 1", "wait 2", "a")
    wait_for(lambda: crew.finished == ["a"])
    loop.kill(timeout=10)
    assert sorted(crew.ended) == ["wait 1", "wait 2"]
    running.get(timeout=10)
    assert crew.alive == 0


def test_a_failure_of_one_of_several_handlers_comes_out_of_run_at_once(serve, crew, wait_for):
    def handle(socket):
        crew(socket)
        if crew.finished[-1:] == ["fail"]:
            raise ValueError("mine")

    _, push, running = serve(handle, 5, "wait 1", "wait 2", "a")
    wait_for(lambda: crew.finished == ["a"])
    push.send_text("fail")
    with pytest.raises(ValueError, match="mine"):
        running.get(timeout=10)
    assert len(crew.started) == 4
    crew.go_on.set()
    wait_for(lambda: crew.alive == 0)


def test_what_is_thrown_at_an_idle_greenlet_ends_nothing(serve, loop, crew, wait_for, caplog):
    def handle(socket):
        crew(socket)
        if "wait" in crew.finished[-1]:
            gevent.Timeout(0.001).start()  # which comes when the handler has returned

    _, push, running = serve(handle, 5, *(f"wait {number}" for number in range(5)))
    wait_for(lambda: len(crew.started) == 5)
    crew.go_on.set()
    wait_for(lambda: len(caplog.records) == 5)
    assert "came too late for its handler" in caplog.text
    crew.go_on.clear()
    for number in range(5):
        push.send_text(f"wait again {number}")
    wait_for(lambda: len(crew.started) == 10)
    assert len(crew.greenlets) == 5
    loop.kill()
    running.get(timeout=10)


@pytest.mark.parametrize("stray", [gevent.Timeout, gevent.GreenletExit])
@pytest.mark.parametrize("waiting", [0, 2])
def test_what_is_thrown_at_a_greenlet_without_a_message_while_it_stops_is_no_failure(
    serve, loop, crew, wait_for, stray, waiting
):
    _, _, running = serve(crew, 5, "a", *(f"wait {number}" for number in range(waiting)))
    wait_for(lambda: len(crew.started) == 1 + waiting)
    crew.go_on.set()
    wait_for(lambda: len(crew.finished) == 1 + waiting)
    for greenlet in crew.greenlets:  # one reads, the others are idle
        gevent.get_hub().loop.run_callback(greenlet.throw, stray())
    loop.stop()
    running.get(timeout=10)
    assert crew.alive == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_greenlet_that_is_killed_ends_and_another_one_reads_on(serve, loop, crew, wait_for, concurrency):
    def handle(socket):
        with contextlib.suppress(gevent.GreenletExit):  # as a dispatcher does, which tells the caller
            crew(socket)

    _, push, running = serve(handle, concurrency, "wait")
    wait_for(lambda: crew.started == ["wait"])
    [greenlet] = crew.greenlets
    greenlet.kill(timeout=10)  # which returns when it has ended
    assert greenlet.dead
    push.send_text("next")
    wait_for(lambda: crew.finished == ["next"])
    greenlet = (crew.greenlets - {greenlet}).pop()
    gevent.sleep(0)
    greenlet.kill(timeout=10)  # while it waits for a message
    push.send_text("after that")
    wait_for(lambda: crew.finished == ["next", "after that"])
    loop.stop()
    running.get(timeout=10)


def test_a_greenlet_that_is_killed_before_it_begins_is_replaced(serve, loop, crew, wait_for):
    _, push, running = serve(crew, 3)
    gevent.sleep(0)
    [made] = loop._crews
    made.recruit()
    gevent.killall(list(made.members))
    push.send_text("next")
    wait_for(lambda: crew.finished == ["next"])
    loop.stop()
    running.get(timeout=10)


def test_each_handler_begins_with_the_context_variables_of_who_runs_the_loop(pipe, loop, spawn, wait_for):
    user = contextvars.ContextVar("user", default=None)
    seen = []

    def handle(socket):
        seen.append(user.get())
        user.set(socket.receive_text())

    for concurrency in (1, 5):
        pull, push = pipe()
        loop.register(pull, handle, concurrency)
        for name in ("alice", "bob", "carol"):
            push.send_text(name)

    def run():
        user.set("who runs it")
        loop.run()

    running = spawn(run)
    wait_for(lambda: len(seen) == 6)
    assert seen == ["who runs it"] * 6
    loop.stop()
    running.get(timeout=10)


def test_a_run_that_is_ended_by_a_timeout_leaves_nobody_reading(pipe, loop, wait_for):
    pull, push = pipe()
    handled = []
    loop.register(pull, received_by(handled))
    with gevent.Timeout(0.01, False):
        loop.run()
    wait_for(lambda: not loop._members())
    push.send_text("left")
    gevent.sleep(0.01)
    assert (handled, rest_of(pull)) == ([], ["left"])


def test_many_handlers_that_wait_now_and_then_handle_each_message_once(serve, loop, wait_for):
    seen, running_now, most = [], 0, 0

    def handle(socket):
        nonlocal running_now, most
        number = int(socket.receive_text())
        running_now += 1
        most = max(most, running_now)
        if number % 3:
            gevent.sleep((number % 5) / 10_000)
        running_now -= 1
        seen.append(number)

    _, push, running = serve(handle, 8, *map(str, range(3000)))
    for number in range(3000, 6000):
        push.send_text(str(number))
        if number % 7 == 0:
            gevent.sleep(0)
    wait_for(lambda: len(seen) == 6000)
    assert sorted(seen) == list(range(6000))
    assert most == 8
    loop.stop()
    running.get(timeout=10)


# Failing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("mine"), gevent.Timeout(), SystemExit(3), gevent.GreenletExit()])
def test_what_a_handler_raises_comes_out_of_run_at_once(pipe, loop, spawn, error, wait_for):
    (pull, push), (other, push_other) = pipe(), pipe()
    finish, finished = Event(), []

    def handle_slowly(socket):
        finished.append(socket.receive_text())
        finish.wait()
        finished.append("finished")

    def fail(socket):
        socket.receive_text()
        raise error

    loop.register(other, handle_slowly)
    loop.register(pull, fail)
    push_other.send_text("slow")
    push.send_text("a")
    push.send_text("b")
    with pytest.raises(type(error)) as caught:
        loop.run()
    assert caught.value is error
    assert finished == ["slow"]  # run() does not wait for the others,
    finish.set()
    wait_for(lambda: finished == ["slow", "finished"])  # which were stopped, not killed
    assert rest_of(pull) == ["b"]


def test_a_socket_that_is_closed_while_it_runs_comes_out_of_run(pipe, loop, spawn):
    pull, _ = pipe()
    loop.register(pull, lambda socket: None)
    running = spawn(loop.run)
    gevent.sleep(0)
    pull.close()
    with pytest.raises(SocketClosed):
        running.get(timeout=10)


def test_a_socket_that_would_block_the_hub_is_refused(loop):
    with (
        zmq.Context() as plain,
        Context(plain).socket("pull") as socket,
        pytest.raises(TypeError, match=r"needs sockets of a green context \(Context\.new\(\)\)"),
    ):
        loop.register(socket, lambda socket: None)


@pytest.mark.usefixtures("leak_check")
def test_nothing_is_left_after_many_rounds(spawn):
    for how in ("stop", "kill", "fail") * 5:
        with Context.new() as context:
            loop = ReceiveLoop()
            for _ in range(3):
                loop.register(Socket.bind_new("pull", "tcp://127.0.0.1:*", context=context), lambda socket: 1 / 0)
            pull = Socket.bind_new("pull", "inproc://here", context=context)
            loop.register(pull, lambda socket: 1 / 0)
            running = spawn(loop.run)
            gevent.sleep(0)
            if how == "fail":
                Socket.connect_new("push", "inproc://here", context=context).send_text("x")
                with pytest.raises(ZeroDivisionError):
                    running.get(timeout=10)
            else:
                getattr(loop, how)()
                running.get(timeout=10)

"""One socket used by many greenlets: nothing lost, nothing interleaved, nobody left sleeping."""

import contextlib
import os
import time
import zlib
from collections import Counter

import gevent
import gevent.monkey
import pytest
import zmq
import zmq.green

from dploylib.errors import ReceiveTimeout, SendTimeout, SocketClosed, SocketStateError, Unroutable
from dploylib.transport import Context, ReceiveLoop, Socket
from dploylib.transport import waiting as waiting_module
from dploylib.transport.waiting import GreenWaiter

MOST_SECONDS_BETWEEN_MESSAGES = 1.0  # the figure; an edge that is lost costs up to 11.6


def message(sender, number):
    payload = os.urandom(number * 7 % 64)
    return [b"%d" % sender, b"%d" % number, payload, b"%d" % zlib.crc32(payload + b"%d %d" % (sender, number))]


class Checked:
    """What a reader received: whole messages, each once, those of one sender in their order."""

    def __init__(self):
        self.next = Counter()
        self.count = 0
        self.longest_gap = 0.0
        self.last = time.monotonic()

    def __call__(self, frames):
        assert len(frames) == 4, frames
        sender, number, payload, check = frames
        assert int(check) == zlib.crc32(payload + sender + b" " + number), frames
        assert int(number) == self.next[sender], frames
        self.next[sender] += 1
        self.count += 1
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now


def echo(socket):
    socket.send_frames(socket.receive_frames())


@pytest.mark.parametrize(
    ("other", "mark", "senders", "each"), [("router", 1000, 200, 500), ("dealer", 2, 50, 200), ("dealer", 100, 200, 50)]
)
def test_many_senders_and_one_reader_on_one_socket(connected, spawn, other, mark, senders, each):
    options = {"sndhwm": mark, "rcvhwm": mark}
    if other == "router":
        options["router_mandatory"] = 1  # wait for the peer instead of dropping its message
    echoing, socket = connect_echo(connected, other, options)
    loop = ReceiveLoop()
    loop.register(echoing, echo)
    spawn(loop.run)

    def send(sender):
        for number in range(each):
            socket.send_frames(message(sender, number))
            gevent.sleep(0)  # as one that has other things to do; a loop that only sends lets nobody run

    sending = [spawn(send, sender) for sender in range(senders)]
    checked = Checked()
    while checked.count < senders * each:
        checked(socket.receive_frames(timeout=30))
    gevent.joinall(sending, timeout=10, raise_error=True)
    print(f"longest gap {checked.longest_gap * 1000:.0f} ms")
    assert checked.next == {b"%d" % sender: each for sender in range(senders)}
    assert checked.longest_gap < MOST_SECONDS_BETWEEN_MESSAGES
    assert not socket.readable()
    assert (socket.sent, socket.received) == (senders * each, senders * each)


def connect_echo(connected, other, options):
    mandatory = options.pop("router_mandatory", None)
    echoing, socket = connected(other, "dealer", **options)
    if mandatory:
        echoing.set_option("router_mandatory", mandatory)
    return echoing, socket


@pytest.mark.parametrize("kind", ["push", "dealer", "pair"])
@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:*", "inproc://full"])
def test_messages_of_senders_that_wait_are_whole_and_in_order(connected, spawn, kind, uri):
    reader, socket = connected("pull" if kind == "push" else kind, kind, uri, sndhwm=1, rcvhwm=1)

    def send(sender):
        for number in range(20):
            socket.send_frames(message(sender, number), timeout=30)

    sending = [spawn(send, sender) for sender in range(30)]
    checked = Checked()
    while checked.count < 600:
        checked(reader.receive_frames(timeout=30))
    gevent.joinall(sending, timeout=10, raise_error=True)


def test_many_may_wait_at_once_in_both_directions(connected, spawn):
    # zmq.green alone: "Only one greenlet can be waiting on this event" (pyzmq #1154).
    one, two = connected("pair", "pair", "inproc://pair", sndhwm=1, rcvhwm=1)
    receiving = [spawn(one.receive_text, timeout=30) for _ in range(50)]
    sending = [spawn(one.send_text, f"to two {number}", timeout=30) for number in range(50)]
    gevent.sleep(0)
    assert sum(greenlet.dead for greenlet in sending) == 2
    assert sorted(two.receive_text(timeout=10) for _ in range(50)) == sorted(f"to two {n}" for n in range(50))
    for number in range(50):
        two.send_text(f"to one {number}", timeout=10)
    gevent.joinall([*receiving, *sending], timeout=10, raise_error=True)
    assert sorted(greenlet.value for greenlet in receiving) == sorted(f"to one {n}" for n in range(50))


def test_who_waited_first_sends_first(connected, spawn):
    pull, push = connected("pull", "push", "inproc://queue", sndhwm=1, rcvhwm=1)
    for number in range(10):
        spawn(push.send_text, str(number))
    gevent.sleep(0)
    assert [pull.receive_text(timeout=10) for _ in range(10)] == [str(number) for number in range(10)]


def test_who_comes_later_does_not_overtake_a_sender_that_waits(connected, spawn):
    pull, push = connected("pull", "push", "inproc://queue", sndhwm=1, rcvhwm=1)
    for text in "ab":
        push.send_text(text, timeout=0)
    first = spawn(push.send_text, "first")
    gevent.sleep(0.002)
    assert [pull.receive_text(timeout=0) for _ in "ab"] == ["a", "b"]
    with pytest.raises(SendTimeout):  # there is room, but for the first
        push.send_text("later", timeout=0)
    first.get(timeout=10)
    push.send_text("later", timeout=10)
    assert [pull.receive_text(timeout=10) for _ in range(2)] == ["first", "later"]


def test_who_comes_later_does_not_overtake_a_receiver_that_waits(connected, spawn):
    pull, push = connected("pull", "push", "inproc://queue")
    receiving = spawn(pull.receive_text)
    gevent.sleep(0.002)
    push.send_text("a")
    with pytest.raises(ReceiveTimeout):
        pull.receive_text(timeout=0)
    assert receiving.get(timeout=10) == "a"


def test_a_sender_that_gives_up_does_not_hold_up_the_next(connected, spawn):
    pull, push = connected("pull", "push", "inproc://give-up", sndhwm=1, rcvhwm=1)
    push.send_text("a")
    push.send_text("b")
    impatient = [spawn(push.send_text, "never", timeout=0.01) for _ in range(3)]
    killed = spawn(push.send_text, "never")
    patient = spawn(push.send_text, "c")
    gevent.joinall(impatient, timeout=10)
    killed.kill()
    assert [pull.receive_text(timeout=10) for _ in range(3)] == ["a", "b", "c"]
    patient.get(timeout=10)
    assert all(isinstance(greenlet.exception, TimeoutError) for greenlet in impatient)


# The edge of the file descriptor (pyzmq #199) ------------------------------------------------------------------
#
# Over inproc a peer's message or acknowledgement is a command in our mailbox at once, and our file descriptor readable.
# A call on the socket that is made before the hub looks at that takes the command away, and with it the edge: the
# other direction sleeps on unless it is woken. Each test is made with and without that: without, the greenlet that
# waits must be seen to sleep, or the test would prove nothing.

select = gevent.monkey.get_original("select", "select")  # the hub must not run


def edge(socket):
    """Whether the hub would be told that something happened on the socket."""
    return bool(select([socket.zmq_socket.getsockopt(zmq.FD)], [], [], 0)[0])


@pytest.fixture(params=["woken", "not woken"])
def woken(request, monkeypatch):
    """Whether waiting greenlets are woken: the mechanism under test, which one half of the tests goes without."""
    if request.param == "not woken":
        monkeypatch.setattr(GreenWaiter, "wake", lambda self: None)
    return request.param == "woken"


@pytest.fixture
def ends(woken):
    """Check that the greenlet that waits ends; without being woken, that it does not."""

    def ends(greenlet):
        greenlet.join(timeout=5 if woken else 0.05)
        assert greenlet.dead == woken, "it sleeps" if woken else "it needs no waking: the test proves nothing"

    return ends


@pytest.fixture
def pairs(context):
    """Make two sockets: ours, which has looked in vain for a message, and its peer."""

    def pairs(kind="dealer", **options):
        ours = context.socket(kind, {"linger": 0, **options})
        peer = context.socket("dealer", {"linger": 0, "rcvhwm": 1, "routing_id": "peer"})
        ours.bind("inproc://edge")
        peer.connect("inproc://edge")
        assert not ours.readable()  # the next message is announced by a command
        return ours, peer

    return pairs


def fill(socket, *route):
    """Send until the peer's queue and ours are full, both of one message."""
    for _ in range(2):
        socket.send_frames([*route, b"fill"], timeout=0)


def waiting(spawn, function, *arguments):
    """Start a greenlet that waits."""
    greenlet = spawn(function, *arguments)
    gevent.sleep(0)
    gevent.sleep(0.002)
    assert not greenlet.dead
    return greenlet


def test_a_send_that_has_to_wait_takes_no_message_from_a_reader(pairs, spawn, ends):
    ours, peer = pairs(sndhwm=1)
    fill(ours)
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    assert edge(ours)
    sending = spawn(ours.send_frames, [b"one too many"])  # the hub runs it before it looks at the file descriptors
    ends(reading)
    assert not sending.dead


def test_a_send_that_times_out_at_once_takes_no_message_from_a_reader(pairs, spawn, ends):
    ours, peer = pairs(sndhwm=1)
    fill(ours)
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    assert edge(ours)
    with pytest.raises(SendTimeout):
        ours.send_frames([b"one too many"], timeout=0)
    assert not edge(ours)
    ends(reading)


def test_a_send_that_succeeds_takes_no_message_from_a_reader(pairs, spawn, ends):
    ours, peer = pairs(sndhwm=0)
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    while edge(ours):  # libzmq looks at its mailbox with the first send after a millisecond
        ours.send_frames([b"goes out"])
    ends(reading)


def test_a_send_that_fails_takes_no_message_from_a_reader(pairs, spawn, ends):
    ours, peer = pairs("router", router_mandatory=1)
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    while edge(ours):
        with pytest.raises(Unroutable):
            ours.send_frames([b"nobody", b"x"])
    ends(reading)


def test_a_send_to_a_slow_peer_takes_no_message_from_a_reader(pairs, spawn, ends):
    ours, peer = pairs("router", router_mandatory=1, sndhwm=1)
    fill(ours, b"peer")
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    assert edge(ours)
    sending = spawn(ours.send_frames, [b"peer", b"one too many"])
    ends(reading)
    assert not sending.dead


def test_a_receive_that_succeeds_takes_no_room_from_a_sender(pairs, spawn, ends):
    ours, peer = pairs(sndhwm=1)
    fill(ours)
    sending = waiting(spawn, ours.send_frames, [b"waits"])
    peer.send_frames([b"something"])
    fill_taken = [peer.receive_frames(timeout=0) for _ in range(2)]
    assert fill_taken == [[b"fill"]] * 2
    assert edge(ours)
    assert ours.receive_frames(timeout=0) == [b"something"]
    assert not edge(ours)
    ends(sending)


@pytest.mark.parametrize("look", ["readable", "receive_frames"])
def test_a_look_at_nothing_takes_no_room_from_a_sender(pairs, spawn, ends, look):
    ours, peer = pairs(sndhwm=1)
    fill(ours)
    sending = waiting(spawn, ours.send_frames, [b"waits"])
    for _ in range(2):
        peer.receive_frames(timeout=0)
    assert edge(ours)
    with contextlib.suppress(ReceiveTimeout):
        assert not (ours.readable() if look == "readable" else ours.receive_frames(timeout=0))
    assert not edge(ours)
    ends(sending)


def test_a_receive_that_has_to_wait_takes_no_room_from_a_sender(pairs, spawn, ends):
    ours, peer = pairs(sndhwm=1)
    fill(ours)
    sending = waiting(spawn, ours.send_frames, [b"waits"])
    for _ in range(2):
        peer.receive_frames(timeout=0)
    assert edge(ours)
    receiving = spawn(ours.wait_readable)
    ends(sending)
    assert not receiving.dead


@pytest.mark.parametrize("attach", ["bind", "connect"])
def test_binding_and_connecting_take_no_message_from_a_reader(pairs, spawn, ends, attach):
    ours, peer = pairs()
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    number = 0
    while edge(ours):
        number += 1
        getattr(ours, attach)(f"inproc://other-{number}")
    ends(reading)


# What else there is to waiting ---------------------------------------------------------------------------------


def test_an_event_that_somebody_took_away_costs_seconds_and_not_for_ever(context, spawn, monkeypatch):
    """A look at the events behind our back: pyzmq's own methods, on the socket that we wrap (pyzmq #199)."""
    monkeypatch.setattr(waiting_module, "_DISTRUST", 0.05)
    ours = context.socket("dealer")
    peer = context.socket("dealer", {"linger": 0})
    ours.bind("inproc://behind")
    peer.connect("inproc://behind")
    assert not ours.readable()
    reading = waiting(spawn, ours.receive_frames)
    peer.send_frames([b"for the reader"])
    assert edge(ours)
    zmq.Socket.get(ours.zmq_socket, zmq.EVENTS)
    assert not edge(ours)
    assert reading.get(timeout=10) == [b"for the reader"]


def test_who_uses_the_pyzmq_socket_itself_is_told_of_its_events(pairs, spawn):
    ours, peer = pairs(sndhwm=1)
    reading = waiting(spawn, ours.zmq_socket.recv)
    peer.send_frames([b"for the reader"])
    assert reading.get(timeout=5) == b"for the reader"
    fill(ours)
    sending = waiting(spawn, ours.zmq_socket.send, b"waits")
    for _ in range(2):
        peer.receive_frames(timeout=5)
    sending.get(timeout=5)
    assert peer.receive_frames(timeout=5) == [b"waits"]


def test_who_closes_the_pyzmq_socket_itself_wakes_those_who_wait(context, spawn):
    socket = context.socket("pair")
    sleeping = [waiting(spawn, socket.receive_frames), waiting(spawn, socket.send_frames, [b"x"])]
    socket.zmq_socket.close()
    for greenlet in sleeping:
        with pytest.raises(SocketClosed):
            greenlet.get(timeout=5)


def test_two_wrappers_of_one_socket_know_of_each_other(pairs, spawn):
    ours, peer = pairs()
    twin = Socket(ours.zmq_socket, ours.context)
    reading = [waiting(spawn, wrapper.receive_frames) for wrapper in (ours, twin)]
    for number in range(2):
        peer.send_frames([b"%d" % number])
    assert [greenlet.get(timeout=5) for greenlet in reading] == [[b"0"], [b"1"]]


@pytest.mark.parametrize("kind", [zmq.green.Context, zmq.Context])
def test_a_socket_that_was_closed_cannot_be_wrapped(kind):
    with kind() as zmq_context:
        zmq_socket = zmq_context.socket(zmq.PAIR)
        zmq_socket.close()
        with pytest.raises(SocketClosed, match="cannot wrap"):
            Socket(zmq_socket, zmq_context)


def test_a_context_that_somebody_else_terminated_keeps_no_hub_busy(wait_for):
    """libzmq reads its file descriptor no more after that, and what comes then leaves it readable for ever."""
    zmq_context = zmq.green.Context()
    socket = Context(zmq_context).socket("pull")
    waiter = socket._waiter
    socket.bind("tcp://127.0.0.1:*")
    with zmq.Context() as others, others.socket(zmq.PUSH) as push:
        push.linger = 0
        push.connect(socket.endpoint)
        push.send(b"x")
        wait_for(socket.readable)
        termination = gevent.get_hub().threadpool.spawn(zmq_context.term)
        wait_for(lambda: not waiter._watcher.active)
        push.send(b"y")
    assert socket.receive_frames(timeout=0) == [b"x"]  # which was read ahead
    with pytest.raises(SocketClosed):
        socket.receive_frames(timeout=0)
    socket.close(linger=0)
    termination.get(timeout=10)


def test_who_uses_the_pyzmq_socket_beside_greenlets_that_wait_in_the_wrapper_misses_nothing(pairs, spawn):
    ours, peer = pairs(sndhwm=1)
    reading = waiting(spawn, ours.zmq_socket.recv)
    fill(ours)
    sending = waiting(spawn, ours.send_frames, [b"waits"])
    peer.send_frames([b"for the reader"])
    assert reading.get(timeout=5) == b"for the reader"
    for _ in range(2):
        peer.receive_frames(timeout=5)
    sending.get(timeout=5)


def test_a_socket_that_waits_in_a_thread_of_another_hub_says_so(context):
    socket = context.socket("pull")
    errors = []

    def wait():
        try:
            socket.receive_frames(timeout=5)
        except SocketStateError as error:
            errors.append(str(error))

    gevent.get_hub().threadpool.spawn(wait).get(timeout=10)
    assert "belongs to the thread that made it" in errors[0]


def test_events_that_come_before_a_look_that_was_asked_for_do_not_ask_for_another(connected, wait_for):
    reader, writer = connected("pair", "pair")
    looked = []
    reader.call_back(lambda: looked.append(1))  # it reads nothing: there is a message whenever somebody looks
    writer.send_frames([b"one"])
    wait_for(lambda: looked)
    gevent.sleep(0)
    looked.clear()
    for _ in range(50):
        reader.look()
        reader._waiter._look()  # as the hub does when there is an event
    assert len(looked) == 50
    for _ in range(5):
        gevent.sleep(0)
    assert len(looked) < 60
    reader.close(linger=0)
    writer.close(linger=0)

"""A peer that goes away in the middle of a message: the others receive whole messages only."""

import time

import gevent
import gevent.monkey
import pytest
import zmq

from dploylib.errors import SendTimeout
from dploylib.transport import Socket
from dploylib.transport import socket as transport_socket

FRAMES = 20

select = gevent.monkey.get_original("select", "select")  # the hub must not run


class Losing(list):
    """Frames of a message, during whose sending something happens: before frame number `at` is asked for."""

    def __init__(self, frames, at, happens):
        super().__init__(frames)
        self.at = at
        self.happens = [happens]

    def __getitem__(self, index):
        if index == self.at and self.happens:
            self.happens.pop()()
        return super().__getitem__(index)


def message(number):
    return [b"%d %d" % (number, index) for index in range(FRAMES)]


def lose(socket, peer):
    """Close a peer of the socket, and return when libzmq will learn of it with the next frame; the hub does not run."""
    _ = socket.zmq_socket.get(zmq.EVENTS)  # libzmq knows now of what was before
    peer.close(linger=0)
    assert select([socket.zmq_socket.getsockopt(zmq.FD)], [], [], 10)[0]
    until = time.monotonic() + 0.005  # between frames it looks once in three million ticks of the processor
    while time.monotonic() < until:
        pass


@pytest.fixture
def told(monkeypatch):
    """A list that is not empty once libzmq refused a frame in the middle of a message.

    It may also learn of the loss so fast that it drops the rest of the message and tells nobody: then it is lost.
    """
    told = []
    send = transport_socket._send

    def spy(zmq_socket, frame, flags):
        try:
            send(zmq_socket, frame, flags)
        except zmq.Again:
            if not frame.endswith(b" 0"):
                told.append(frame)
            raise

    monkeypatch.setattr(transport_socket, "_send", spy)
    return told


@pytest.mark.parametrize("at", [1, 2, FRAMES // 2, FRAMES - 2, FRAMES - 1])
@pytest.mark.parametrize("kind", ["push", "dealer"])
def test_a_message_whose_peer_went_away_is_sent_whole_to_the_next(context, spawn, told, kind, at):
    other = "pull" if kind == "push" else kind
    socket = Socket.bind_new(kind, "inproc://loss", {"linger": 0}, context)
    first = Socket.connect_new(other, "inproc://loss", {"linger": 0}, context)
    socket.send_frames(message(0))
    assert first.receive_frames(timeout=10) == message(0)
    sending = spawn(socket.send_frames, Losing(message(1), at, lambda: lose(socket, first)))
    gevent.sleep(0)
    second = Socket.connect_new(other, "inproc://loss", {"linger": 0}, context)
    socket.send_frames(message(2), timeout=10)
    sending.get(timeout=10)
    expected = [message(1), message(2)] if told else [message(2)]
    assert sorted(second.receive_frames(timeout=10) for _ in expected) == expected
    assert not second.readable()


@pytest.mark.parametrize("at", [1, 2, FRAMES // 2, FRAMES - 2, FRAMES - 1])
def test_a_pair_that_lost_its_peer_sends_the_whole_message_to_the_next(context, spawn, at):
    socket = Socket.bind_new("pair", "inproc://loss", {"linger": 0}, context)
    first = Socket.connect_new("pair", "inproc://loss", {"linger": 0}, context)
    sending = spawn(socket.send_frames, Losing(message(1), at, lambda: lose(socket, first)))
    with gevent.Timeout(10, AssertionError("the next peer receives nothing")):
        while True:  # a PAIR refuses a second peer before the first is gone, and one that was refused stays so
            second = Socket.connect_new("pair", "inproc://loss", {"linger": 0}, context)
            if second.wait_readable(0.05):
                break
            second.close(linger=0)
    assert second.receive_frames() == message(1)
    sending.get(timeout=10)


@pytest.mark.parametrize("kind", ["push", "dealer"])
@pytest.mark.parametrize("at", [1, FRAMES // 2, FRAMES - 1])
def test_a_message_goes_to_a_peer_that_is_there_without_waiting(context, told, kind, at):
    # Who waited for an event would wait in vain: the other peer has been writable all the time.
    other = "pull" if kind == "push" else kind
    socket = Socket.bind_new(kind, "inproc://loss", {"linger": 0}, context)
    peers = [Socket.connect_new(other, "inproc://loss", {"linger": 0}, context) for _ in range(2)]
    for number in range(2):
        socket.send_frames(message(number))
    assert [peer.receive_frames(timeout=10) for peer in peers] == [message(0), message(1)]
    try:
        socket.send_frames(Losing(message(2), at, lambda: lose(socket, peers[0])), timeout=10)
    except SendTimeout:
        pytest.fail("it waited, although a peer had room")
    socket.send_frames(message(3), timeout=10)
    expected = [message(2), message(3)] if told else [message(3)]
    assert [peers[1].receive_frames(timeout=10) for _ in expected] == expected
    assert not peers[1].readable()


def test_a_req_that_loses_its_peer_in_the_middle_waits_for_a_reply_as_if_it_had_lost_it_later(context):
    req = Socket.bind_new("req", "inproc://loss", {"linger": 0}, context)
    rep = Socket.connect_new("rep", "inproc://loss", {"linger": 0}, context)
    req.send_text("first")
    rep.send_text(rep.receive_text(timeout=10))
    assert req.receive_text(timeout=10) == "first"
    req.send_frames(Losing(message(1), FRAMES // 2, lambda: lose(req, rep)), timeout=10)
    with pytest.raises(TimeoutError):
        req.receive_text(timeout=0.01)


@pytest.mark.parametrize("kind", ["push", "dealer"])
def test_peers_that_come_and_go_receive_whole_messages_only(context, spawn, peer, kind):
    socket = Socket.bind_new(kind, "tcp://127.0.0.1:*", {"sndhwm": 1, "linger": 0}, context)
    other = peer("come_and_go.py", "pull" if kind == "push" else kind, socket.endpoint, "150")
    sent = []

    def send():
        while True:
            number = len(sent)
            socket.send_frames([b"%d %d" % (number, index) + b" " * (number % 50 * 100) for index in range(60)])
            sent.append(number)

    sending = [spawn(send) for _ in range(3)]
    while (line := other.line()) != "done":
        assert line.startswith("whole"), line
        received = int(line.split()[1])
    assert received > 50
    assert not any(greenlet.dead for greenlet in sending)
    assert other.end() == 0

"""Reading whole messages: of any number of frames, from any socket type, and large ones without a copy."""

import copy
import pickle

import pytest
import zmq

from dploylib.errors import MalformedEnvelope
from dploylib.transport import MAX_FRAMES, Envelope
from dploylib.transport.reading import LARGE

KINDS = [("pull", "push"), ("dealer", "dealer"), ("router", "dealer"), ("rep", "req"), ("sub", "pub"), ("pair", "pair")]


@pytest.fixture
def link(connected, context):
    """Connect two sockets of these types; what the second one sends arrives at the first one."""

    def link(kind, other):
        receiver, sender = connected(kind, other)
        if kind == "sub":
            receiver.subscribe("")
            while not receiver.wait_readable(0.01):  # a PUB drops what it sends before it knows of the subscription
                sender.send_frames([b"subscribed?"])
            while receiver.wait_readable(0.05):
                receiver.receive_frames()
        return receiver, sender

    return link


def frames_of(receiver, **options):
    frames = receiver.receive_frames(timeout=10, **options)
    return frames[1:] if receiver.socket_type == "router" else frames


@pytest.mark.parametrize(("kind", "other"), KINDS)
def test_a_message_of_any_number_of_frames_is_read_whole_and_no_more_of_it(link, kind, other):
    receiver, sender = link(kind, other)
    messages = [[b"%d of %d" % (index, count) for index in range(count)] for count in (1, 2, 3, 4, 5, 9, 1)]
    if kind != "rep":  # where they would not be there at once
        for message in messages:
            sender.send_frames(message)
    for message in messages:
        if kind == "rep":
            sender.send_frames(message)
        assert frames_of(receiver) == message
        if kind == "rep":
            receiver.send_frames(message)
            assert sender.receive_frames(timeout=10) == message
    assert not receiver.wait_readable(0)


@pytest.mark.parametrize(("kind", "other"), KINDS)
def test_of_too_many_frames_only_so_many_are_kept_and_the_next_message_is_none_the_worse(link, kind, other):
    receiver, sender = link(kind, other)
    sender.send_frames([b"x"] * 2000)
    with pytest.raises(MalformedEnvelope) as caught:
        receiver.receive_frames(timeout=10)
    assert MAX_FRAMES < len(caught.value.frames) < MAX_FRAMES + 5
    if kind == "rep":
        receiver.send_text("too many")
        sender.receive_text(timeout=10)
    sender.send_frames([b"next", b"", b""])
    assert frames_of(receiver) == [b"next", b"", b""]


@pytest.mark.parametrize(("kind", "other"), KINDS)
@pytest.mark.parametrize("size", [LARGE - 1, LARGE, 1_000_000])
def test_a_large_body_is_copied_only_where_that_is_wanted(link, kind, other, size):
    receiver, sender = link(kind, other)
    message = [b"id", b"mimetype", b"x" * size]
    for wanted in (True, False):
        sender.send_frames(message)
        frames = frames_of(receiver, copy=wanted)
        assert [type(frame) for frame in frames[:-1]] == [bytes, bytes]
        assert type(frames[-1]) is (bytes if wanted or size < LARGE else zmq.Frame)
        assert bytes(frames[-1]) == message[-1]
        if kind == "rep":
            receiver.send_frames(frames)
            assert sender.receive_frames(timeout=10) == message


@pytest.fixture
def large(link):
    """An envelope that was received with a body that nobody has asked for, and the same one made by hand."""
    receiver, sender = link("pull", "push")
    made = Envelope("id", "a/b", b"x" * LARGE, [b"route"])
    sender.send_envelope(made)
    envelope = receiver.receive_envelope(timeout=10)
    assert type(envelope._frames[-1]) is zmq.Frame
    return envelope, made


def test_a_large_envelope_is_like_any_other(large):
    envelope, made = large
    assert envelope.request_frames == [b"route"]
    assert "(65536 bytes)" in repr(envelope)
    assert envelope == made
    assert made == envelope


@pytest.mark.parametrize(
    "look",
    [
        lambda envelope: envelope.data,
        lambda envelope: envelope.text.encode(),
        lambda envelope: envelope.transfer_object()[-1],
        lambda envelope: pickle.loads(pickle.dumps(envelope)).data,
        lambda envelope: copy.copy(envelope).data,
        lambda envelope: {envelope: 1} and envelope.data,
    ],
)
def test_the_body_of_a_large_envelope_is_bytes_for_who_asks(large, look):
    envelope, made = large
    data = look(envelope)
    assert type(data) is bytes
    assert data == made.data
    assert envelope.data is envelope.data  # copied once


def test_a_large_envelope_is_sent_on_as_often_as_one_likes(large, link):
    envelope, made = large
    receiver, sender = link("dealer", "dealer")
    for _ in range(3):
        sender.send_envelope(envelope)
    for _ in range(3):
        assert receiver.receive_envelope(timeout=10) == made


def test_an_answer_to_a_large_envelope_takes_its_own_body(large):
    envelope, _ = large
    assert envelope.response_envelope(None, b"short") == Envelope("id", "a/b", b"short", [b"route"])


def test_a_malformed_message_with_a_large_frame_is_an_error_with_bytes(link):
    receiver, sender = link("pull", "push")
    sender.send_frames([b"two", b"x" * LARGE])
    with pytest.raises(MalformedEnvelope) as caught:
        receiver.receive_envelope(timeout=10)
    assert caught.value.frames == [b"two", b"x" * LARGE]
    assert pickle.loads(pickle.dumps(caught.value)).frames == caught.value.frames

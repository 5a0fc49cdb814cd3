"""Properties of what turns frames into requests and replies, over any frames (of `Envelope`: see test_envelope.py).

`answer` takes the frames of one message through the dispatcher of a socket, as they come from libzmq, without libzmq.
"""

from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import MalformedEnvelope
from dploylib.servers.dispatch import dispatcher_class
from dploylib.transport import MAX_FRAMES, Envelope, Metadata, Problem, ReceivedData, Sender
from tests.servers.echo import Echo

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

ANY_FRAMES = st.lists(st.binary(max_size=40), min_size=1, max_size=10)
# Arbitrary frames are hardly ever envelopes, or descriptions of a call: these often are, or nearly.
PIECES = st.sampled_from([b"", b"", b"a", b"text/plain", b"\xff", b"DPL1", b"DPL1\x81\xa1d\x01", b"DPL1\x80"])
MANY_FRAMES = st.builds(
    lambda piece, count, rest: [piece] * count + rest, PIECES, st.integers(240, 260), st.lists(PIECES, max_size=5)
)
FRAMES = ANY_FRAMES | st.lists(PIECES, min_size=1, max_size=10) | MANY_FRAMES
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
PEER = b"\x00peer"


class Wire(Sender):
    """Stands for a socket: it has one message, and keeps what is sent on it."""

    def __init__(self, socket_type, frames):
        self.socket_type = socket_type
        self.guard = None
        self.frames = frames
        self.replies = []

    def receive_frames(self, timeout=None, copy=True):
        if len(self.frames) > MAX_FRAMES:  # as Socket does
            raise MalformedEnvelope("too many", self.frames)
        return list(self.frames)

    def get_option(self, name):
        return -1

    def send_frames(self, frames, timeout=None):
        self.replies.append(list(frames))

    @property
    def sent(self):
        return len(self.replies)


class Quiet:
    name = "echo"
    settings = SimpleNamespace(service="quiet")
    stopping = False

    def spawn(self, *what):
        pass

    def on_error(self, socket, received, error):
        return None


def answer(name, frames):
    """The replies to a message that comes in on a socket of `Echo`, and the counts of that socket."""
    description = Echo.description.sockets[name]
    routed = name in ("rep", "router")
    wire = Wire("router" if routed else name, [PEER, *frames] if routed else list(frames))
    dispatcher = dispatcher_class(description.socket_type)(f"echo.{name}", Quiet(), wire, description)
    dispatcher(wire)
    if routed:
        assert all(reply[0] == PEER for reply in wire.replies), "a reply to somebody else"
    return [reply[1:] if routed else reply for reply in wire.replies], dispatcher.counts


def as_problem(frames):
    return Problem.from_envelope(Envelope.from_raw(frames[-3:]))


@given(FRAMES)
def test_any_message_to_a_rep_gets_one_reply_by_the_way_that_it_came(frames):
    """Up to the first empty frame, as with a REP; what follows is the envelope, or the reply is a problem."""
    [reply], counts = answer("rep", frames)
    assert counts.received == counts.handled == counts.replied == 1
    assert counts.failed == 0
    end = frames.index(b"") + 1 if b"" in frames and len(frames) < MAX_FRAMES else None
    if counts.malformed or counts.timed_out:
        assert as_problem(reply) is not None
        assert end is None or reply[:end] == frames[:end]
    else:
        assert reply == frames


@pytest.mark.parametrize("name", ["router", "dealer"])
@given(frames=FRAMES)
def test_any_message_where_replies_are_possible_gets_one_that_is_itself_or_a_problem(name, frames):
    [reply], counts = answer(name, frames)
    assert counts.received == counts.handled == counts.replied == 1
    assert counts.failed == 0
    if counts.malformed or counts.timed_out:
        assert as_problem(reply) is not None
    else:
        assert reply == frames


@given(FRAMES)
def test_any_message_to_a_pull_is_handled_or_counted_as_malformed(frames):
    replies, counts = answer("pull", frames)
    assert replies == []
    assert counts.received == counts.handled == 1
    assert counts.failed == counts.unanswered == 0
    try:
        Envelope.from_raw(frames)
    except MalformedEnvelope:
        assert counts.malformed == 1
    else:
        assert counts.malformed == 0


@given(
    TEXT | st.integers(-(2**63), 2**64 - 1) | st.none(),
    st.none() | st.floats(allow_nan=False),
    TEXT | st.none(),
    st.lists(st.binary(max_size=20).filter(lambda frame: not frame.startswith(b"DPL1")), max_size=4),
)
def test_metadata_makes_the_round_trip_among_other_frames(request_id, milliseconds, traceparent, others):
    metadata = Metadata(request_id, milliseconds, traceparent)
    assert Metadata.find([*others, metadata.to_frame(), b"DPL1\xc1"]) == metadata
    assert Metadata.find([b"DPL1\xc1", *others]) is None


@given(st.binary(max_size=60))
def test_any_frame_is_metadata_or_left_alone(body):
    metadata = Metadata.find([b"DPL1" + body])
    if metadata is not None:
        assert repr(Metadata.find([metadata.to_frame()])) == repr(metadata)  # a deadline of NaN differs from itself


@given(JSON)
def test_any_data_that_is_sent_as_json_is_received_as_the_same(data):
    received = ReceivedData(Envelope.new("application/json", msgspec.json.encode(data)))
    assert received.json == data
    assert ReceivedData(Envelope.new("application/msgpack", msgspec.msgpack.encode(data))).json == data


@given(st.text(), st.text(), st.integers(100, 599), st.text())
def test_any_problem_can_be_sent_and_read(type, title, status, detail):
    """Whatever is in it: nobody goes without an answer since it cannot be encoded."""
    body = Problem(type, title, status, detail).to_json()
    again = Problem.from_envelope(Envelope.new("application/problem+json", body))
    texts = [text[:500].encode(errors="replace").decode() for text in (type, title, detail)]
    assert [again.type, again.title, again.detail] == texts
    assert again.status == status

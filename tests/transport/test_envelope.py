"""Envelopes: what they are made of, and how they are laid out in frames."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import MalformedEnvelope, PeerError
from dploylib.transport import MAX_FRAMES, Envelope

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FRAMES = st.lists(st.binary(max_size=20), max_size=8)
# Arbitrary frames are hardly ever envelopes: these often are, or nearly.
NEARLY_ENVELOPES = st.lists(st.sampled_from([b"", b"", b"a", b"text/plain", b"\xff", "ü".encode()]), max_size=8)


def reason(frames):
    with pytest.raises(MalformedEnvelope) as caught:
        Envelope.from_raw(frames)
    assert caught.value.frames == list(frames)
    return caught.value.reason


# Making one ----------------------------------------------------------------------------------------------------


def test_it_has_the_parts_it_was_made_of():
    envelope = Envelope("id", "text/plain", b"body", [b"one", b"two"])
    assert (envelope.id, envelope.mimetype, envelope.data) == ("id", "text/plain", b"body")
    assert envelope.request_frames == [b"one", b"two"]


def test_new_takes_what_matters_first_and_an_empty_id():
    assert Envelope.new("text/plain", b"body") == Envelope("", "text/plain", b"body")
    assert Envelope.new("a/b", b"c", "id", [b"r"]) == Envelope("id", "a/b", b"c", [b"r"])
    assert Envelope.new(mimetype="a/b", data=b"c", id="id", request_frames=[b"r"]).id == "id"


def test_a_str_body_is_encoded_as_utf_8_and_text_decodes_it():
    envelope = Envelope("", "text/plain", "grün")
    assert envelope.data == b"gr\xc3\xbcn"
    assert envelope.text == "grün"


def test_text_of_a_body_that_is_not_utf_8_raises():
    with pytest.raises(UnicodeDecodeError):
        _ = Envelope("", "a/b", b"\xff").text


@pytest.mark.parametrize("body", [bytearray(b"body"), memoryview(b"body"), b"body"])
def test_a_body_with_the_buffer_protocol_is_copied_into_bytes(body):
    envelope = Envelope("", "a/b", body)
    assert type(envelope.data) is bytes
    assert envelope.data == b"body"


@pytest.mark.parametrize(
    "arguments",
    [
        (b"id", "a/b", b""),
        ("id", b"a/b", b""),
        (None, "a/b", b""),
        ("id", None, b""),
        ("id", "a/b", None),
        ("id", "a/b", 1),
        ("id", "a/b", [1]),
        ("id", "a/b", b"", ["str"]),
        ("id", "a/b", b"", [None]),
    ],
)
def test_a_part_of_another_type_is_refused(arguments):
    with pytest.raises(TypeError, match="envelope"):
        Envelope(*arguments)


@pytest.mark.parametrize("none", [None, [], ()])
def test_no_request_frames_means_no_delimiter(none):
    assert Envelope("i", "m", b"b", none).transfer_object() == [b"i", b"m", b"b"]


def test_request_frames_come_first_then_an_empty_frame():
    envelope = Envelope("i", "m", b"b", iter([b"r", bytearray(b"s")]))
    assert envelope.transfer_object() == [b"r", b"s", b"", b"i", b"m", b"b"]
    assert all(type(frame) is bytes for frame in envelope.transfer_object())


# A value -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "mimetype", "data", "_frames", "request_frames", "text", "other"])
def test_no_part_can_be_changed_or_deleted(name):
    envelope = Envelope("i", "m", b"b", [b"r"])
    with pytest.raises(AttributeError):
        setattr(envelope, name, b"x")
    with pytest.raises(AttributeError):
        delattr(envelope, name)
    assert envelope == Envelope("i", "m", b"b", [b"r"])


def test_changing_a_list_that_went_in_or_came_out_does_not_change_it():
    raw = [b"r", b"", b"i", b"m", b"b"]
    body = bytearray(b"b")
    for envelope in (Envelope.from_raw(raw), Envelope("i", "m", body, raw[:1])):
        expected = hash(envelope)
        raw[0] = b"changed"
        body[:] = b"changed"
        envelope.request_frames.append(b"changed")
        envelope.transfer_object()[-1] = b"changed"
        assert envelope.transfer_object() == [b"r", b"", b"i", b"m", b"b"]
        assert hash(envelope) == expected
        raw[0] = b"r"


def test_equality_and_hash_are_by_value():
    one = Envelope("i", "m", b"b", [b"r"])
    assert one == Envelope.from_raw([b"r", b"", b"i", b"m", b"b"])
    assert hash(one) == hash(Envelope.from_raw((b"r", b"", b"i", b"m", b"b")))
    assert len({one, Envelope("i", "m", "b", [b"r"])}) == 1


@pytest.mark.parametrize(
    "other",
    [
        Envelope("x", "m", b"b", [b"r"]),
        Envelope("i", "x", b"b", [b"r"]),
        Envelope("i", "m", b"x", [b"r"]),
        Envelope("i", "m", b"b", [b"x"]),
        Envelope("i", "m", b"b"),
        [b"r", b"", b"i", b"m", b"b"],
        None,
    ],
)
def test_it_differs_from_one_with_another_part(other):
    assert Envelope("i", "m", b"b", [b"r"]) != other


@pytest.mark.parametrize("route", [None, [b"r", b""]])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_can_be_pickled_and_copied(protocol, route):
    envelope = Envelope("i", "m", b"\xff", route)
    assert pickle.loads(pickle.dumps(envelope, protocol)) == envelope
    assert copy.copy(envelope) == copy.deepcopy(envelope) == envelope


def test_repr_shows_every_part_and_cuts_a_long_body():
    assert repr(Envelope("i", "m", b"b")) == "Envelope(id='i', mimetype='m', data=b'b')"
    assert repr(Envelope("i", "m", b"b", [b"r"])).endswith("data=b'b', request_frames=[b'r'])")
    shown = repr(Envelope("i", "m", b"x" * 1_000_000))
    assert len(shown) < 200
    assert "(1000000 bytes)" in shown


# From frames ---------------------------------------------------------------------------------------------------


def test_three_frames_are_an_envelope_without_request_frames():
    envelope = Envelope.from_raw([b"i", b"m", b"b"])
    assert envelope == Envelope("i", "m", b"b")
    assert envelope.request_frames == []


@pytest.mark.parametrize(
    ("frames", "route"),
    [
        ([b"r", b"", b"i", b"m", b"b"], [b"r"]),
        ([b"", b"", b"i", b"m", b"b"], [b""]),
        ([b"r", b"", b"s", b"", b"i", b"m", b"b"], [b"r", b"", b"s"]),
        ([b"\0" * 5, b"\xff", b"", b"", b"", b""], [b"\0" * 5, b"\xff"]),
    ],
)
def test_what_stands_before_the_delimiter_is_the_request_frames(frames, route):
    assert Envelope.from_raw(frames).request_frames == route


def test_a_tuple_will_do():
    assert Envelope.from_raw((b"i", b"m", b"b")) == Envelope("i", "m", b"b")


def test_the_body_may_be_any_bytes_and_every_part_may_be_empty():
    assert Envelope.from_raw([b"", b"", b"\xff\0"]) == Envelope("", "", b"\xff\0")


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_wrong_number_of_frames_is_malformed(count):
    assert reason([b""] * count).startswith(f"{count} frame{'' if count == 1 else 's'}, expected 3")


def test_a_delimiter_that_is_not_empty_is_malformed_and_named():
    assert reason([b"r", b"not empty", b"i", b"m", b"b"]) == "expected an empty delimiter as frame 2, got b'not empty'"
    assert "frame 3" in reason([b"", b"r", b"x", b"i", b"m", b"b"])


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([b"\xff", b"m", b""], "the id is not UTF-8: b'\\xff'"),
        ([b"i", b"\xff", b""], "the mimetype is not UTF-8: b'\\xff'"),
        ([b"\xff", b"\xff", b""], "the id is not UTF-8: b'\\xff'"),
        ([b"r", b"", b"i", b"\xed\xa0\x80", b""], "the mimetype is not UTF-8: b'\\xed\\xa0\\x80'"),
    ],
)
def test_an_id_or_mimetype_that_is_not_utf_8_is_malformed_and_named(frames, named):
    assert reason(frames) == named


def test_what_an_error_quotes_is_cut():
    assert len(reason([b"\xff" * 1_000_000, b"m", b""])) < 400
    assert len(reason([b"r", b"x" * 1_000_000, b"i", b"m", b"b"])) < 400


def test_more_frames_than_are_taken_are_malformed():
    most = [b"r"] * (MAX_FRAMES - 4) + [b"", b"i", b"m", b"b"]
    assert len(Envelope.from_raw(most).request_frames) == MAX_FRAMES - 4
    assert reason([b"r", *most]) == f"{MAX_FRAMES + 1} frames, more than the {MAX_FRAMES} that are taken"


def test_malformed_is_the_fault_of_the_peer_and_a_value_error():
    assert issubclass(MalformedEnvelope, PeerError)
    assert issubclass(MalformedEnvelope, ValueError)


@given(TEXT, TEXT, st.binary(), st.lists(st.binary(max_size=20), max_size=20))
def test_any_envelope_makes_the_round_trip(id, mimetype, data, route):
    envelope = Envelope(id, mimetype, data, route)
    again = Envelope.from_raw(envelope.transfer_object())
    assert again == envelope
    assert (again.id, again.mimetype, again.data, again.request_frames) == (id, mimetype, data, route)
    assert again.transfer_object() == envelope.transfer_object()


@given(FRAMES | NEARLY_ENVELOPES)
def test_any_frames_are_an_envelope_of_the_same_frames_or_malformed(frames):
    try:
        envelope = Envelope.from_raw(frames)
    except MalformedEnvelope:
        assert reason(frames)
    else:
        assert envelope.transfer_object() == frames
        assert Envelope(envelope.id, envelope.mimetype, envelope.data, envelope.request_frames) == envelope


# Answers -------------------------------------------------------------------------------------------------------


def test_an_answer_keeps_request_frames_and_id():
    request = Envelope("i", "m", b"b", [b"r", b"s"])
    assert request.response_envelope("n", b"c") == Envelope("i", "n", b"c", [b"r", b"s"])
    assert request.response_envelope("n", "ü").data == "ü".encode()


def test_an_answer_keeps_the_mimetype_if_none_is_given():
    assert Envelope("i", "m", b"b").response_envelope(None, b"c") == Envelope("i", "m", b"c")


@pytest.mark.parametrize("id", ["other", ""])
def test_an_answer_takes_the_id_given_even_an_empty_one(id):
    assert Envelope("i", "m", b"b").response_envelope("n", b"c", id).id == id
    assert Envelope("i", "m", b"b").response_envelope("n", b"c", id=id).id == id


def test_an_answer_leaves_the_request_as_it_was():
    request = Envelope("i", "m", b"b", [b"r"])
    request.response_envelope("n", b"c").request_frames.append(b"s")
    assert request == Envelope("i", "m", b"b", [b"r"])


def test_a_malformed_envelope_can_be_pickled():
    with pytest.raises(MalformedEnvelope) as caught:
        Envelope.from_raw([b"x"])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason, copy.frames) == (str(caught.value), caught.value.reason, [b"x"])

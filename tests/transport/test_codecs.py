"""Bodies: codecs, what a handler receives, metadata of a call, and problems."""

import dataclasses
import json
import math
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import (
    DeadlineExceeded,
    HandlerEnded,
    HandlerTimeout,
    InvalidData,
    MalformedEnvelope,
    NoReply,
    Overloaded,
    PeerError,
    ShuttingDown,
    UndecodableData,
    UnexpectedMimetype,
)
from dploylib.transport import (
    BYTES_MIMETYPE,
    JSON_MIMETYPE,
    MSGPACK_MIMETYPE,
    PROBLEM_MIMETYPE,
    TEXT_MIMETYPE,
    Envelope,
    Metadata,
    Problem,
    ReceivedData,
    codecs,
    problems,
)

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

NESTED_JSON = b"[" * 100_000 + b"]" * 100_000


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Size:
    width: int


class Job:
    """As the reference has them: with both methods."""

    def __init__(self, name):
        self.name = name

    def serialize(self):
        return {"name": self.name}

    @classmethod
    def deserialize(cls, data):
        return cls(data["name"])


def of_json(data, mimetype=JSON_MIMETYPE):
    return Envelope("", mimetype, data if isinstance(data, bytes) else json.dumps(data))


# Encoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("ü", (TEXT_MIMETYPE, "ü".encode())),
        (b"\xff", (BYTES_MIMETYPE, b"\xff")),
        (bytearray(b"a"), (BYTES_MIMETYPE, b"a")),
        (memoryview(b"a"), (BYTES_MIMETYPE, b"a")),
        ({"a": [1, None]}, (JSON_MIMETYPE, b'{"a":[1,null]}')),
        (None, (JSON_MIMETYPE, b"null")),
        (Point(1), (JSON_MIMETYPE, b'{"x":1,"y":0}')),
        (Size(3), (JSON_MIMETYPE, b'{"width":3}')),
        (Job("j"), (JSON_MIMETYPE, b'{"name":"j"}')),
        ([Job("j")], (JSON_MIMETYPE, b'[{"name":"j"}]')),
    ],
)
def test_a_value_says_its_mimetype(value, encoded):
    assert codecs.encode(value) == encoded


def test_the_method_may_have_underscores_as_the_reference_writes_it():
    class Old:
        def __serialize__(self):
            return [1]

    assert codecs.encode_object(Old()) == b"[1]"


def test_what_cannot_be_turned_into_json_is_named_with_a_way_out():
    with pytest.raises(
        TypeError, match=r"an object of type object cannot be turned into JSON: give it a method serialize\(\)"
    ):
        codecs.encode_object({"a": object()})


# Decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mimetype", ["text/plain", "text/plain; charset=utf-8", "Text/Plain"])
def test_text_is_decoded_whatever_the_parameters_of_its_mimetype(mimetype):
    assert codecs.decode_text(Envelope("", mimetype, "ü")) == "ü"


def test_text_of_another_mimetype_is_refused():
    with pytest.raises(UnexpectedMimetype, match="expected an envelope of text/plain, got one of 'application/json'"):
        codecs.decode_text(of_json([]))


def test_text_that_is_not_utf_8_says_where():
    with pytest.raises(UndecodableData, match="at byte 2"):
        codecs.decode_text(Envelope("", "text/plain", b"ok\xff"))


def test_a_problem_instead_of_what_was_expected_is_quoted():
    problem = Envelope("", PROBLEM_MIMETYPE, Problem("urn:x", "No such thing", 404).to_json())
    with pytest.raises(UnexpectedMimetype, match="No such thing"):
        codecs.decode_text(problem)


def test_what_a_peer_sent_is_quoted_in_part_only():
    huge = "x" * 1_000_000
    for envelope in (Envelope("", huge, b""), Envelope("", PROBLEM_MIMETYPE, huge)):
        with pytest.raises(UnexpectedMimetype) as caught:
            codecs.decode_text(envelope)
        assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("mimetype", [JSON_MIMETYPE, "application/json; charset=utf-8", "application/ld+json"])
def test_json_is_decoded(mimetype):
    assert codecs.decode_data(of_json({"a": [1, "ü"]}, mimetype)) == {"a": [1, "ü"]}


@pytest.mark.parametrize("mimetype", [MSGPACK_MIMETYPE, "application/x-msgpack", "application/vnd.msgpack"])
def test_msgpack_is_decoded(mimetype):
    assert codecs.decode_data(Envelope("", mimetype, msgspec.msgpack.encode({"a": b"\xff"}))) == {"a": b"\xff"}


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":}', b"\xff", b'"\xff"', NESTED_JSON])
def test_broken_json_is_undecodable(body):
    with pytest.raises(UndecodableData, match="not application/json"):
        codecs.decode_data(of_json(body))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xa2a", b"\xa1\xff", b"\x91" * 100_000])
def test_broken_msgpack_is_undecodable(body):
    with pytest.raises(UndecodableData, match="not application/msgpack"):
        codecs.decode_data(Envelope("", MSGPACK_MIMETYPE, body))


def test_data_of_another_mimetype_is_refused():
    with pytest.raises(UnexpectedMimetype, match="application/json"):
        codecs.decode_data(Envelope("", "text/plain", b"{}"))


@pytest.mark.parametrize(
    ("declared", "data", "expected"),
    [
        (Point, {"x": 1}, Point(1)),
        (Size, {"width": 2}, Size(2)),
        (list[int], [1, 2], [1, 2]),
        (int | None, None, None),
        (lambda data: data["a"], {"a": 1}, 1),
        (sorted, [2, 1], [1, 2]),
    ],
)
def test_an_object_is_made_of_what_was_declared(declared, data, expected):
    codecs.ObjectDecoder(declared)
    assert codecs.decode_object(of_json(data), declared) == expected


def test_an_object_with_a_method_deserialize_makes_it():
    codecs.ObjectDecoder(Job)
    assert codecs.decode_object(of_json({"name": "j"}), Job).name == "j"


@pytest.mark.parametrize("declared", [3, "str", object()])
def test_what_can_make_no_object_is_refused_when_declared(declared):
    with pytest.raises(TypeError):
        codecs.ObjectDecoder(declared)


def test_invalid_data_has_the_path_to_the_value():
    with pytest.raises(InvalidData, match=r"Expected `int`, got `str` - at `\$\.x`"):
        codecs.decode_object(of_json({"x": "1"}), Point)


def refuse(data):
    raise ValueError("not this one")


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        (Job, {}),  # KeyError
        (Job, None),  # TypeError
        (lambda data: data.get("a"), []),  # AttributeError
        (refuse, {}),  # ValueError
        (lambda data: msgspec.convert(data, Point), {}),  # msgspec's own
    ],
)
def test_a_body_that_a_deserializer_refuses_is_invalid(declared, data):
    with pytest.raises(InvalidData, match="refused the body") as caught:
        codecs.decode_object(of_json(data), declared)
    assert caught.value.__cause__ is not None


def test_a_deserializer_may_say_by_itself_what_is_wrong_with_a_body():
    def refuse(data):
        raise InvalidData("$.x: found 5, expected a name")

    with pytest.raises(InvalidData) as caught:
        codecs.decode_object(of_json({}), refuse)
    assert str(caught.value) == "$.x: found 5, expected a name"


@pytest.mark.parametrize("mimetype", ["application/msgpack", "application/x-msgpack", "application/vnd.it+json"])
def test_an_object_is_encoded_as_the_mimetype_says(mimetype):
    encoded = codecs.encode_object(Job("a"), mimetype)
    decoded = codecs.decode_object(Envelope("", mimetype, encoded), Job)
    assert decoded.name == "a"


def test_an_object_is_not_sent_as_what_it_is_not():
    with pytest.raises(TypeError, match="objects are sent as application/json or application/msgpack, not as 'text/"):
        codecs.encode_object({}, "text/plain")


def test_a_deserializer_that_is_broken_is_not_the_fault_of_the_peer():
    def broken(data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        codecs.decode_object(of_json({}), broken)


# What a handler receives ---------------------------------------------------------------------------------------


def test_received_data_passes_on_the_parts_of_the_envelope():
    envelope = Envelope("i", "text/plain", "ü", [b"r"])
    received = ReceivedData(envelope)
    assert received.envelope is envelope
    assert (received.id, received.mimetype, received.data, received.text) == ("i", "text/plain", b"\xc3\xbc", "ü")
    assert repr(envelope) in repr(received)


def test_nothing_is_decoded_before_it_is_asked_for_and_then_once():
    calls = []

    def deserialize(data):
        calls.append(data)
        return object()

    received = ReceivedData(of_json({"a": 1}), deserialize)
    assert calls == []
    assert received.obj is received.obj
    assert calls == [{"a": 1}]
    assert received.json is received.json


def test_an_object_that_is_none_or_false_is_made_once_too():
    calls = []
    received = ReceivedData(of_json(None), lambda data: calls.append(data))
    assert received.obj is None
    assert received.obj is None
    assert received.json is None
    assert calls == [None]


def test_text_does_not_ask_for_the_mimetype():
    assert ReceivedData(of_json([1])).text == "[1]"


@pytest.mark.parametrize(
    ("envelope", "attribute", "kind"),
    [
        (Envelope("", "a/b", b"\xff"), "text", UndecodableData),
        (Envelope("", "a/b", b"{}"), "json", UnexpectedMimetype),
        (of_json(b"{"), "json", UndecodableData),
        (of_json({"x": "1"}), "obj", InvalidData),
    ],
)
def test_what_decoding_raised_is_the_fault_of_the_message(envelope, attribute, kind):
    received = ReceivedData(envelope, Point)
    assert received.fault is None
    for _ in range(2):
        with pytest.raises(kind) as caught:
            getattr(received, attribute)
        assert received.fault is caught.value


def test_obj_without_a_declaration_is_our_mistake():
    received = ReceivedData(of_json({}))
    with pytest.raises(TypeError, match="declares no obj="):
        _ = received.obj
    assert received.fault is None


def test_the_deadline_is_on_the_monotonic_clock():
    before = time.monotonic()
    received = ReceivedData(of_json({}), metadata=Metadata(milliseconds_left=1500))
    assert before + 1.5 <= received.deadline <= time.monotonic() + 1.5


@pytest.mark.parametrize("metadata", [None, Metadata(), Metadata("id")])
def test_without_a_time_there_is_no_deadline(metadata):
    received = ReceivedData(of_json({}), metadata=metadata)
    assert received.deadline is None
    assert received.metadata is metadata


# Metadata of a call --------------------------------------------------------------------------------------------


def test_metadata_is_four_bytes_and_a_small_map():
    frame = Metadata("id", 5, "00-trace").to_frame()
    assert frame[:4] == b"DPL1"
    assert msgspec.msgpack.decode(frame[4:]) == {"r": "id", "d": 5, "t": "00-trace"}
    assert Metadata().to_frame() == b"DPL1\x80"


@given(
    st.builds(
        Metadata,
        st.none() | st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**64 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    ),
    st.lists(st.binary(max_size=8), max_size=3),
)
def test_metadata_is_found_among_other_frames(metadata, others):
    assert Metadata.find([*others, metadata.to_frame(), b"after"]) == metadata


def test_metadata_of_a_later_version_is_read_as_far_as_it_is_known():
    frame = b"DPL1" + msgspec.msgpack.encode({"r": 7, "new": [1, {"a": None}]})
    assert Metadata.find([frame]) == Metadata(7)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"DPL",
        b"DPL1",
        b"DPL2\x80",
        b"xDPL1\x80",
        b"DPL1\x80\x80",
        b"DPL1\xc0",
        b"DPL1\x81",
        b"DPL1" + msgspec.msgpack.encode({"d": "soon"}),
        b"DPL1" + msgspec.msgpack.encode({"r": [1]}),
        b"DPL1\x81\xa1r\xa1\xff",
        b"DPL1\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b"DPL1" + b"\x81" * 100_000,
    ],
)
def test_a_frame_that_does_not_parse_is_somebody_elses(frame):
    assert Metadata.find([frame]) is None
    assert Metadata.find([frame, Metadata("id").to_frame()]) == Metadata("id")


@given(st.binary(max_size=30))
def test_no_frame_makes_the_search_fail(garbage):
    Metadata.find([garbage, b"DPL1" + garbage])


def test_there_may_be_no_frames_at_all():
    assert Metadata.find([]) is None


@pytest.mark.parametrize("milliseconds", [0, -5, math.inf, -math.inf, 2**63])
def test_any_time_left_gives_a_deadline(milliseconds):
    metadata = Metadata.find([b"DPL1" + msgspec.msgpack.encode({"d": milliseconds})])
    assert isinstance(ReceivedData(of_json({}), metadata=metadata).deadline, float)


# Problems ------------------------------------------------------------------------------------------------------


def test_a_problem_is_a_body_of_rfc_9457_and_comes_back():
    problem = Problem("urn:dploylib:x", "X", 404, "no ü")
    body = problem.to_json()
    assert json.loads(body) == {"type": "urn:dploylib:x", "title": "X", "status": 404, "detail": "no ü"}
    for mimetype in (PROBLEM_MIMETYPE, "application/problem+json; charset=utf-8"):
        assert Problem.from_envelope(Envelope("", mimetype, body)) == problem


def test_what_is_no_problem_has_none_in_it():
    assert Problem.from_envelope(of_json({"type": "a", "title": "b", "status": 1})) is None


@given(st.text(), st.text(), st.text())
def test_saying_a_problem_never_fails(type, title, detail):
    said = json.loads(Problem(type, title, 500, detail).to_json())
    assert said["status"] == 500
    assert len(said["detail"]) <= len(detail)


def test_surrogates_are_replaced_and_huge_texts_cut():
    said = json.loads(Problem("\udc80", "\udc80", 500, "a\ud800b" + "x" * 10_000_000).to_json())
    assert (said["type"], said["title"]) == ("?", "?")
    assert said["detail"].startswith("a?bx")
    assert len(said["detail"]) == 500


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"\xff", b"[]", b"{}", b'{"type":"a","title":"b","status":"x"}', NESTED_JSON]
)
def test_a_problem_that_cannot_be_read_is_still_one(body):
    problem = Problem.from_envelope(Envelope("", PROBLEM_MIMETYPE, body))
    assert problem.status == 500
    assert problem.detail == body.decode(errors="replace")
    problem.to_json()


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (MalformedEnvelope("2 frames", []), 400, "urn:dploylib:malformed-envelope"),
        (UnexpectedMimetype("x"), 400, "urn:dploylib:unexpected-mimetype"),
        (UndecodableData("x"), 400, "urn:dploylib:undecodable-data"),
        (InvalidData("x"), 422, "urn:dploylib:invalid-data"),
        (type("Subclass", (PeerError,), {})("x"), 400, "urn:dploylib:bad-request"),
        (NoReply("x"), 500, "urn:dploylib:no-reply"),
        (Overloaded("x"), 503, "urn:dploylib:overloaded"),
        (ShuttingDown("x"), 503, "urn:dploylib:shutting-down"),
        (HandlerEnded("x"), 503, "urn:dploylib:handler-ended"),
        (HandlerTimeout("x"), 504, "urn:dploylib:handler-timeout"),
        (DeadlineExceeded("x"), 504, "urn:dploylib:deadline-exceeded"),
    ],
)
def test_each_error_that_a_peer_is_told_of_has_a_stable_type_and_a_status(error, status, type):
    problem = problems.problem_of(error)
    assert (problem.status, problem.type) == (status, type)
    assert problem.detail == str(error)


def test_of_a_handler_that_raised_a_peer_learns_where_and_no_more():
    problem = problems.handler_failed("echo.request")
    assert (problem.status, problem.type) == (500, "urn:dploylib:handler-failed")
    assert problem.detail == "the handler of echo.request failed"
    assert Problem.from_envelope(Envelope("", PROBLEM_MIMETYPE, problem.to_json())) == problem

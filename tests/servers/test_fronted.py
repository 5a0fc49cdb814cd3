"""What goes between a front and its workers for a message."""

import array

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from dploylib.servers.fronted import pack, unpack
from dploylib.transport.reading import LARGE


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=20))
def test_frames_come_out_as_they_went_in(frames):
    packed = pack(frames)
    assert len(packed) == 1
    assert packed[0]
    assert unpack(packed) == frames


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, zmq.Frame])
def test_a_large_body_is_passed_as_it_is(make):
    body = make(b"x" * LARGE)
    packed = pack([b"id", b"", body])
    assert packed[1] is body
    assert unpack(packed) == [b"id", b"", body]


@pytest.mark.parametrize("make", [bytearray, memoryview, zmq.Frame, lambda data: array.array("H", data)])
def test_any_buffer_is_a_frame(make):
    assert unpack(pack([make(b"some"), b"", make(b"data")])) == [b"some", b"", b"data"]


@pytest.mark.parametrize("odd", [b"x", b"\xc1", b"\x90", b"\x80", b"\x91\x01", msgspec.msgpack.encode(["text"])])
def test_what_was_not_packed_is_an_error(odd):
    with pytest.raises(msgspec.MsgspecError):
        unpack([odd])

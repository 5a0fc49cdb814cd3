"""Reading a traceparent, as W3C's Trace Context says (https://www.w3.org/TR/trace-context/)."""

import pytest

from dploylib.handling import Trace

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_traceparent_makes_the_round_trip(flags):
    text = f"00-{TRACE}-{SPAN}-{flags:02x}"
    assert Trace.parse(text) == Trace(TRACE, SPAN, flags)
    assert str(Trace.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.replace('4', '٤')}-{SPAN}-01",
    ],
)
def test_a_malformed_one_is_ignored(text):
    assert Trace.parse(text) is None


@pytest.mark.parametrize("text", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes", f"fe-{TRACE}-{SPAN}-f9"])
def test_of_a_later_version_what_is_known_is_passed_on(text):
    assert str(Trace.parse(text)) == f"00-{TRACE}-{SPAN}-01"

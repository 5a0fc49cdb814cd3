"""The lines of a log, and what they say of messages."""

import io
import json
import logging
import sys

import pytest

from dploylib.handling import Where, begin, forget
from dploylib.logs import FIELDS, JSONFormatter, MessageFields, formatter, may_colour
from dploylib.transport import Metadata

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def handling():
    """`handling(metadata)`: a message of the socket `request` of the server `echo` is handled."""
    yield lambda metadata=None: begin((Where("shop", "echo", "request"), metadata))
    forget()


@pytest.fixture
def log():
    """`log(form, **how)`: a logger whose lines are `log.text`."""

    def make(form="text", **how):
        handler = logging.StreamHandler(io.StringIO())
        handler.addFilter(MessageFields())
        handler.setFormatter(formatter(form, **how))
        logger = logging.Logger("tests")  # of its own, which nobody else finds
        logger.addHandler(handler)
        logger.lines = lambda: handler.stream.getvalue().splitlines()
        return logger

    return make


def test_a_record_says_which_message_is_handled(log, handling):
    handling(Metadata(7, None, TRACEPARENT))
    lines = log("json")
    lines.warning("hello")
    entry = json.loads(lines.lines()[0])
    assert {key: entry[key] for key in FIELDS} == {
        "service": "shop",
        "server": "echo",
        "socket": "request",
        "request_id": "7",
        "trace_id": TRACE,
    }


def test_a_line_of_text_has_that_at_its_end_before_the_traceback(log, handling):
    handling(Metadata("r1", None, TRACEPARENT))
    lines = log()
    try:
        raise KeyError("x")
    except KeyError:
        lines.exception("hello")
    assert lines.lines()[0].endswith(f": hello [echo.request request=r1 trace={TRACE}]")
    assert lines.lines()[-1] == "KeyError: 'x'"


def test_what_is_not_known_is_left_out(log, handling):
    text, as_json = log(), log("json")
    handling()
    text.warning("one")
    as_json.warning("one")
    assert text.lines()[0].endswith(": one [echo.request]")
    forget()
    text.warning("two")
    as_json.warning("two")
    assert text.lines()[1].endswith(": two")
    entries = [json.loads(line).keys() for line in as_json.lines()]
    assert entries == [
        {"time", "level", "logger", "message", "service", "server", "socket"},
        {"time", "level", "logger", "message"},
    ]


@pytest.mark.parametrize("request_id", ["two\nlines", "\x1b[31m", "x" * 10_000, "\ud800", "é"])
def test_no_peer_can_write_lines_or_long_ones_into_the_log(log, handling, request_id):
    handling(Metadata(request_id, None, "\n" + TRACEPARENT))
    lines = log()
    lines.warning("hello")
    assert len(lines.lines()) == 1
    assert lines.lines()[0].isascii()
    assert lines.lines()[0].isprintable()
    assert len(lines.lines()[0]) < 600


def test_a_format_of_the_users_can_have_the_fields(handling):
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(MessageFields())
    handler.setFormatter(logging.Formatter("%(server)s/%(socket)s/%(request_id)s/%(trace_id)s %(message)s"))
    logger = logging.Logger("tests")
    logger.addHandler(handler)
    logger.error("outside")
    handling(Metadata("r1"))
    logger.error("inside")
    assert handler.stream.getvalue().splitlines() == ["/// outside", "echo/request/r1/ inside"]


def test_a_record_keeps_what_it_has_from_elsewhere(log, handling):
    handling(Metadata("r1"))
    lines = log("json")
    lines.warning("hello", extra={"server": "another one", "order": {"number": 5}, "odd": object})
    entry = json.loads(lines.lines()[0])
    assert (entry["server"], entry["order"], entry["odd"]) == ("another one", {"number": 5}, str(object))


def test_what_is_said_besides_does_not_hide_what_every_line_has():
    record = logging.makeLogRecord({"msg": "hello", "level": "x", "time": "y", "levelname": "INFO"})
    entry = json.loads(JSONFormatter().format(record))
    assert (entry["level"], entry["message"]) == ("info", "hello")
    assert entry["time"] != "y"


def test_text_is_coloured_where_that_is_asked_for(log, handling):
    handling()
    lines = log(colours=True)
    lines.error("bad")
    assert "\x1b[31mERROR\x1b[0m" in lines.lines()[0]
    assert lines.lines()[0].endswith("bad \x1b[2m[echo.request]\x1b[0m")
    plain = log()
    plain.error("bad")
    assert "\x1b" not in plain.lines()[0]


@pytest.mark.parametrize(
    ("environment", "stream", "expected"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": ""}, io.StringIO(), False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Terminal(), False),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, Terminal(), True),
    ],
)
def test_who_may_be_given_colours(monkeypatch, environment, stream, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert may_colour(stream) is expected


def test_a_traceback_of_another_process_is_an_exception_here():
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.LogRecord("app", logging.ERROR, __file__, 1, "bad", None, sys.exc_info())
    record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
    assert json.loads(JSONFormatter().format(record))["exception"].endswith("KeyError: 'x'")

"""What a server tells of the last error, whatever it was: its statistics are JSON, and its callers are answered."""

import msgspec
import pytest

from dploylib.servers import Server, bind_in
from dploylib.statistics import LastError, ServerStatistics


class SaysNothing(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


ERRORS = {
    "usual": ValueError("as usual"),
    "long": ValueError("x" * 10_000),
    "surrogate": ValueError("a file called \udc80"),
    "speechless": SaysNothing(),
}


class Fails(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        raise ERRORS[received.text]


@pytest.fixture
def last_error(serve, peer):
    """Let a handler raise one of the errors, and return what is told of it."""

    def ask(which: str) -> LastError:
        server = serve(Fails)
        caller = peer("req", server.endpoints["request"][0])
        assert caller.ask_problem(b"", b"text/plain", which.encode())["status"] == 500
        told = msgspec.json.decode(msgspec.json.encode(server.statistics()), type=ServerStatistics).sockets["request"]
        assert (told.failed, told.problems) == (1, {"handler-failed": 1})
        return told.last_error

    return ask


@pytest.mark.parametrize(
    ("which", "kind", "message"),
    [
        ("usual", "ValueError", "as usual"),
        ("long", "ValueError", "x" * 300),
        ("surrogate", "ValueError", "a file called ?"),
        ("speechless", "SaysNothing", ""),
    ],
)
def test_an_error_is_told_as_far_as_it_can_be(last_error, which, kind, message):
    told = last_error(which)
    assert (told.type, told.message) == (kind, message)

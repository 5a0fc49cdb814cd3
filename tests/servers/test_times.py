"""How long messages have waited for their handlers, by what callers say, who may say anything."""

import math
import time

import msgspec
import pytest

from dploylib.servers import Server, bind_in
from dploylib.statistics import ServerStatistics


class Echo(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received.text


@pytest.fixture
def ask(serve, peer, metadata_frame, wait_until):
    """Ask as somebody who says when it sent that, and return what the server tells then, as JSON has it."""

    def ask(sent_at: float) -> ServerStatistics:
        server = serve(Echo)
        caller = peer("dealer", server.endpoints["request"][0])
        assert caller.ask(metadata_frame(s=sent_at), b"", b"", b"text/plain", b"hello")[-1] == b"hello"
        wait_until(lambda: server.counts["request"].handled == 1)
        return msgspec.json.decode(msgspec.json.encode(server.statistics()), type=ServerStatistics)

    return ask


def test_the_time_since_a_caller_has_sent_its_request_is_told(ask):
    waited = ask(time.time() - 100).sockets["request"].wait_time
    assert waited.count == 1
    assert 100 <= waited.sum < 1000


def test_a_caller_whose_clock_is_ahead_has_not_waited(ask):
    waited = ask(time.time() + 100).sockets["request"].wait_time
    assert (waited.count, waited.sum) == (1, 0)


@pytest.mark.parametrize("sent_at", [0.0, -1e300, -math.inf, math.nan])
def test_a_time_that_cannot_be_right_does_not_spoil_the_others(ask, sent_at):
    request = ask(sent_at).sockets["request"]
    assert (request.wait_time.count, request.wait_time.sum) == (0, 0)
    assert request.handler_time.count == 1

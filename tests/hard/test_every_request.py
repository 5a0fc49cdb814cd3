"""Requests to handlers that do whatever handlers may do: each is answered, and none twice.

`HARD_REQUESTS` says how many (10,000), for each concurrency.
"""

import logging
import os
import random
from collections import Counter

import gevent
import pytest

from dploylib.servers import Server, bind_in
from dploylib.services import Service
from dploylib.transport import Context

REQUESTS = int(os.environ.get("HARD_REQUESTS", "10000"))
OUTSTANDING = 200


class Unruly(Server):
    """What a handler does is written in the request, so that every run is the same."""

    def setup(self):
        self.begun = Counter()

    @bind_in("request", "rep")
    def request(self, socket, received):
        number, way = received.id, received.text
        self.begun[number] += 1
        return getattr(self, way)(socket)

    def returns(self, socket):
        return "done"

    def sends(self, socket):
        socket.send_text("done")

    def sends_twice(self, socket):
        socket.send_text("done")
        socket.send_text("again")

    def sends_and_returns(self, socket):
        socket.send_text("done")
        return "again"

    def raises(self, socket):
        raise KeyError("as bad code does")

    def leaves(self, socket):
        raise SystemExit(3)

    def forgets(self, socket):
        pass

    def returns_what_cannot_be_sent(self, socket):
        return {object()}

    def sleeps(self, socket):
        gevent.sleep(0.0001)
        return "done"

    def gives_way(self, socket):
        gevent.sleep(0)
        return "done"

    def is_killed(self, socket):
        gevent.getcurrent().kill()

    def is_killed_while_it_waits(self, socket):
        gevent.spawn(gevent.getcurrent().kill)
        gevent.sleep(1)
        return "done"

    def sends_and_is_killed(self, socket):
        socket.send_text("done")
        gevent.getcurrent().kill()

    def is_killed_after_it_has_returned(self, socket):
        gevent.get_hub().loop.run_callback(gevent.getcurrent().kill)
        return "done"

    def leaves_a_timeout_behind(self, socket):
        gevent.Timeout(0.00005).start()
        return "done"

    def lasts_too_long(self, socket):
        gevent.sleep(60)


# Of these there are fewer: each takes its time.
RARE = ("sleeps", "lasts_too_long", "is_killed_while_it_waits")
WAYS = [name for name in vars(Unruly) if not name.startswith("_") and name not in ("setup", "request", "description")]
OFTEN = [way for way in WAYS if way not in RARE]
DONE = {"returns", "sends", "sends_twice", "sends_and_returns", "sends_and_is_killed"}
# A kill or timeout that came too late for its own handler may hit the next one in that greenlet, if it waits.
EITHER = {"sleeps", "gives_way", "leaves_a_timeout_behind", "is_killed_after_it_has_returned"}


@pytest.mark.timeout(60 + REQUESTS / 200)
@pytest.mark.parametrize("concurrency", [1, 30])
def test_each_request_is_answered_once_whatever_its_handler_does(concurrency):
    logging.getLogger("dploylib").setLevel(logging.CRITICAL)  # it would have a traceback of each
    try:
        _ask_and_count(concurrency)
    finally:
        logging.getLogger("dploylib").setLevel(logging.NOTSET)


def _ask_and_count(concurrency):
    chance = random.Random(1)
    ways = [chance.choice(RARE if chance.random() < 0.005 else OFTEN) for _ in range(REQUESTS)]
    service = Service()
    service.add_server("unruly", Unruly)
    request = {"uri": "tcp://127.0.0.1:*", "concurrency": concurrency, "timeout": 0.02}
    replies, outcomes = Counter(), Counter()
    with service.start(config_dict={"servers": {"unruly": {"request": request}}}), Context.new() as context:
        server = service.servers["unruly"]
        with context.socket("dealer", {"linger": 0}) as client:
            client.connect(service.endpoints["unruly"]["request"])
            asked = answered = 0
            while answered < REQUESTS:
                while asked < REQUESTS and asked - answered < OUTSTANDING:
                    number = b"%d" % asked
                    client.send_frames([number, b"", number, b"text/plain", ways[asked].encode()])
                    asked += 1
                number, _, _, mimetype, body = client.receive_frames(timeout=20)
                answered += 1
                replies[number] += 1
                outcomes[ways[int(number)], "done" if body == b"done" else mimetype] += 1
            gevent.sleep(0.05)
            assert not client.readable(), "somebody was answered twice"
            counts = server.counts["request"]
            assert len(replies) == len(server.begun) == counts.received == counts.handled == REQUESTS
    problem = b"application/problem+json"
    for way in WAYS:
        possible = {"done"} if way in DONE else {"done", problem} if way in EITHER else {problem}
        assert {outcome for asked_for, outcome in outcomes if asked_for == way} <= possible, way
        assert outcomes[way, "done"] or way not in EITHER

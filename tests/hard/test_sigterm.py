"""Services that get a SIGTERM under load: whatever was received is answered before they are gone.

`HARD_STOPS` says how many (12), a third of them under a load that does not end.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import gevent
import pytest
import zmq.green
from gevent import subprocess

from tests.hard.running import PATIENCE, ROOT

pytestmark = pytest.mark.once("services run in interpreters of their own, which decide to patch")

SERVICE = Path(__file__).with_name("stopping.py")
SOCKETS = ("one", "many", "router")
STOPS = int(os.environ.get("HARD_STOPS", "12"))
CLIENTS = 3  # on each socket
OUTSTANDING = 40
CONFIGURATION = {"servers": {"stopping": {name: {"uri": "tcp://127.0.0.1:*"} for name in SOCKETS}}}


class Load:
    """Clients of one socket. Each asks again for each answer, until it hears of the stop; or for ever."""

    def __init__(self, context, endpoint, for_ever):
        self.replies, self.problems = Counter(), 0  # by client and number
        self._for_ever = for_ever
        self.greenlets = [gevent.spawn(self._run, context, endpoint, client) for client in range(CLIENTS)]

    def _run(self, context, endpoint, client):
        with context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(endpoint)
            asked, answered, goes_on = 0, 0, True
            while True:
                while goes_on and asked - answered < OUTSTANDING:
                    socket.send_multipart([b"", b"%d" % asked, b"text/plain", b"x"])
                    asked += 1
                _, number, mimetype, body = socket.recv_multipart()
                self.replies[client, number] += 1
                answered += 1
                if mimetype != b"text/plain":
                    assert json.loads(body)["type"] == "urn:dploylib:shutting-down", body
                    self.problems += 1
                    goes_on = self._for_ever

    @property
    def answered(self):
        return sum(self.replies.values())


@pytest.mark.timeout(60 + 6 * STOPS)
@pytest.mark.parametrize(
    ("clients", "services"), [("that hear of the stop", STOPS - STOPS // 3), ("that ask for ever", STOPS // 3)]
)
def test_every_request_that_was_received_is_answered(clients, services, tmp_path):
    configuration = tmp_path / "stopping.yaml"
    configuration.write_text(json.dumps(CONFIGURATION))
    problems = 0
    for number in range(services):
        how = "--patch" if number % 2 else "--no-patch"
        problems += _stop_under_load(configuration, how, clients == "that ask for ever")
    assert problems > 0, "no stop was under load"


def _stop_under_load(configuration, how, for_ever):
    service = subprocess.Popen(
        [sys.executable, "-m", "dploylib", "run", str(SERVICE), "-c", str(configuration), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    loads, context = {}, zmq.green.Context()
    try:
        with gevent.Timeout(3 * PATIENCE):
            endpoints = json.loads(service.stdout.readline())
            loads = {name: Load(context, endpoints[name][0], for_ever) for name in SOCKETS}
            while any(load.answered < 200 for load in loads.values()):
                gevent.sleep(0.001)
            service.send_signal(signal.SIGTERM)
            received = json.loads(service.stdout.readline())
            assert service.wait() == 0, service.stderr.read()
            while {name: load.answered for name, load in loads.items()} != received:
                gevent.sleep(0.01)  # what was sent is on its way; what was not never comes, and the time is up
        assert all(count == 1 for load in loads.values() for count in load.replies.values())
        return sum(load.problems for load in loads.values())
    finally:
        gevent.killall([greenlet for load in loads.values() for greenlet in load.greenlets])
        context.destroy(linger=0)
        service.kill()
        service.wait()
        service.stdout.close()
        service.stderr.close()

"""A service inside a test: really started, talked to over real sockets, and gone afterwards.

    pytest examples/in_a_test/test_greeting.py

No port is written down anywhere, so that such tests never get into each other's way.
"""

import pytest

from dploylib import Envelope, Server, Service, Socket, bind_in
from dploylib.transport import Problem


class Greeter(Server):
    @bind_in("request", "rep")
    def greet(self, socket, received):
        return f"{self.settings.get('greeting')}, {received.text}"


@pytest.fixture
def service():
    with Service() as service:
        service.add_server("greeter", Greeter)
        service.start(
            config_dict={
                "servers": {"greeter": {"request": {"uri": "tcp://127.0.0.1:*"}}},  # any port that is free
                "general": {"greeting": "Hello"},
            }
        )
        yield service


@pytest.fixture
def client(service):
    with Socket.new("req", service.endpoints["greeter"]["request"]) as socket:
        yield socket


def test_a_greeting_has_the_name(client):
    client.send_text("Ada")
    assert client.receive_text(timeout=5) == "Hello, Ada"


def test_a_name_that_is_no_text_is_refused(client, service):
    client.send_envelope(Envelope.new("text/plain", b"\xff"))
    problem = Problem.from_envelope(client.receive_envelope(timeout=5))
    assert problem.type == "urn:dploylib:undecodable-data"
    assert service.servers["greeter"].counts["request"].refused == 1

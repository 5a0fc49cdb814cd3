"""A service inside a test, really started and talked to over real sockets; and one of its handlers without any.

    pytest examples/in_a_test/test_greeting.py

No port is written down anywhere, so that such tests never get into each other's way. If the service died, or
left something behind, they would fail.
"""

import pytest

from dploylib import Envelope, Server, Service, bind_in
from dploylib.errors import RemoteError
from dploylib.testing import call_handler


class Greeter(Server):
    @bind_in("request", "rep")
    def greet(self, socket, received):
        return f"{self.settings.get('greeting')}, {received.text}"


@pytest.fixture
def greeter(service_runner):
    service = Service()
    service.add_server("greeter", Greeter)
    return service_runner(service, general={"greeting": "Hello"})


def test_a_greeting_has_the_name(greeter):
    assert greeter.client("greeter.request").request("Ada").text == "Hello, Ada"


def test_a_name_that_is_no_text_is_refused(greeter):
    with pytest.raises(RemoteError, match="Undecodable body"):
        greeter.client("greeter.request").request(Envelope.new("text/plain", b"\xff"))
    assert greeter.server("greeter").counts["request"].refused == 1


def test_the_greeting_is_that_of_the_settings():
    assert call_handler(Greeter, "request", "Ada", general={"greeting": "Servus"}).reply.text == "Servus, Ada"

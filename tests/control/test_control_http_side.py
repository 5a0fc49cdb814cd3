"""The HTTP side of a service in this process: open with each start whose configuration says where."""

import gc
import logging
import re

import gevent
import gevent.socket
import pytest

from dploylib.control.http import HTTPServer
from dploylib.control.http_side import http_side
from dploylib.control.local import Local
from dploylib.errors import AddressInUse, EndpointError
from dploylib.servers import Server, bind_in
from dploylib.services import Service, State


class Echo(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received


@pytest.fixture
def service(leak_check, caplog):
    """A service with an HTTP side, if its configuration has one; in the end nothing is left of it."""
    caplog.set_level(logging.INFO)
    service = Service()
    service.add_server("echo", Echo)
    with http_side(service, Local(service, "shop")):
        yield service
        service.stop(0)


@pytest.fixture
def start(service):
    def start(**monitoring):
        servers = {"echo": {"request": {"uri": "tcp://127.0.0.1:*"}}}
        return service.start(config_dict={"servers": servers, "monitoring": monitoring})

    return start


@pytest.fixture
def ports(caplog):
    """Where it has listened, the latest last."""
    return lambda: [int(port) for port in re.findall(r"listening at http://127\.0\.0\.1:(\d+)/", caplog.text)]


def get(port, path):
    """The status of the answer; None where nobody listens."""
    try:
        with gevent.socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            with client.makefile("rb") as file:
                return int(file.read().split()[1])
    except ConnectionRefusedError:
        return None


def test_without_an_address_there_is_none(start, ports):
    start()
    assert ports() == []


def test_it_answers_from_the_start_until_after_the_stop(start, service, ports):
    start(http=0)
    [port] = ports()
    assert [get(port, path) for path in ("/healthz", "/readyz", "/")] == [200, 200, 200]
    service.stop()
    assert [get(port, path) for path in ("/healthz", "/readyz")] == [200, 503]


def test_another_start_listens_anew(start, service, ports):
    start(http=0)
    service.stop()
    start(http="localhost:0")
    first, second = ports()
    assert get(second, "/readyz") == 200
    assert get(first, "/readyz") is None or first == second
    service.stop()
    start()
    assert get(second, "/readyz") is None


def test_where_somebody_listens_nothing_is_started(start, service, ports):
    with gevent.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"cannot listen at http://127\.0\.0\.1:{port}/ \(monitoring\.http\)"):
            start(http=port)
    assert service.servers == {}
    assert service.state is State.STOPPED
    start(http=0)
    assert get(ports()[-1], "/readyz") == 200


def test_where_nobody_can_listen_nothing_is_started(start, service):
    with pytest.raises(EndpointError, match=r"cannot listen at http://192\.0\.2\.1:8080/"):
        start(http="192.0.2.1:8080")
    assert service.servers == {}


def test_a_start_that_fails_afterwards_leaves_nothing_of_it(service, start, ports):
    class Fails(Echo):
        def setup(self):
            raise ValueError("broken")

    service.add_server("fails", Fails)
    servers = {name: {"request": {"uri": "tcp://127.0.0.1:*"}} for name in ("echo", "fails")}
    with pytest.raises(ValueError, match="broken"):
        service.start(config_dict={"servers": servers, "monitoring": {"http": 0}})
    assert get(ports()[-1], "/readyz") == 503


def test_nothing_of_it_is_kept_in_memory(service, start):
    start(http=0)
    service.stop()
    start(http=None)
    gc.collect()
    assert [one for one in gc.get_objects() if isinstance(one, HTTPServer)] == []

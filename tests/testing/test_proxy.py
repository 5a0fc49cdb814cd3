"""FlakyProxy: what it does to the connections between a peer and a service."""

import contextlib

import gevent
import pytest
from gevent import socket

from dploylib.errors import EndpointError
from dploylib.testing import FlakyProxy
from dploylib.transport import Context

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too

pytestmark = pytest.mark.usefixtures("leak_check")


@pytest.fixture
def echo():
    """The endpoint of something that sends back what it is sent."""
    with Context.new() as context:
        router = context.socket("router")
        router.bind("tcp://127.0.0.1:*")

        def answer():
            while True:
                router.send_frames(router.receive_frames())

        answering = gevent.spawn(answer)
        yield router.endpoint
        answering.kill()


@pytest.fixture
def proxy(echo):
    with FlakyProxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    with Context.new() as context, context.socket("dealer", {"linger": 0, "reconnect_ivl": 10}) as socket:
        socket.connect(proxy.endpoint)
        yield socket


def connects(proxy):
    """Whether a connection is accepted."""
    host, port = proxy.endpoint.removeprefix("tcp://").split(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def test_it_passes_on_what_comes_and_counts_it(proxy, client):
    client.send_text("hello")
    assert client.receive_text(PATIENCE) == "hello"
    assert min(proxy.passed.values()) > len("hello")
    assert proxy.connections == 1


def test_connections_that_are_refused_are_made_when_they_are_accepted_again(proxy, client, wait_until):
    client.send_text("before")
    assert client.receive_text(PATIENCE) == "before"
    endpoint = proxy.endpoint
    proxy.refuse()
    proxy.refuse()
    assert not connects(proxy)
    client.send_text("those that there are go on")
    assert client.receive_text(PATIENCE) == "those that there are go on"
    proxy.cut()
    assert not connects(proxy)
    assert proxy.connections == 1
    proxy.accept()
    proxy.accept()
    assert proxy.endpoint == endpoint
    client.send_text("after")
    assert client.receive_text(PATIENCE) == "after"
    assert proxy.connections == 2


def test_what_is_throttled_passes_in_small_pieces(proxy, client, wait_until):
    client.send_text("hello")  # so that the connection is made
    assert client.receive_text(PATIENCE) == "hello"
    text = "x" * 1_000_000
    proxy.rate = 1000
    before = proxy.passed["up"]
    client.send_text(text)
    wait_until(lambda: proxy.passed["up"] > before)
    # A piece of 100 bytes a tenth of a second: all of it would take a quarter of an hour.
    assert proxy.passed["up"] - before < len(text) / 2
    proxy.rate = float("inf")
    assert client.receive_text(PATIENCE) == text


def test_what_is_throttled_takes_as_long_as_its_rate_says(proxy, client, monkeypatch):
    slept, sleep = [], gevent.sleep
    monkeypatch.setattr(gevent, "sleep", lambda seconds=0: (slept.append(seconds), sleep(seconds)))
    proxy.rate = 20_000
    client.send_text("x" * 1000)
    client.receive_text(PATIENCE)
    assert sum(slept) >= 2 * 1000 / 20_000


def test_what_is_stalled_comes_when_it_is_resumed(echo, proxy, client, wait_until):
    proxy.stall()
    client.send_text("hello")
    wait_until(lambda: proxy.connections)
    with FlakyProxy(echo) as other, Context.new() as context, context.socket("dealer", {"linger": 0}) as quicker:
        quicker.connect(other.endpoint)
        for _ in range(3):
            quicker.send_text("meanwhile")
            assert quicker.receive_text(PATIENCE) == "meanwhile"
    assert proxy.passed == {"up": 0, "down": 0}
    proxy.resume()
    assert client.receive_text(PATIENCE) == "hello"


def test_a_connection_is_cut_where_it_should_be(proxy, client, wait_until):
    client.send_text("hello")
    assert client.receive_text(PATIENCE) == "hello"
    before = proxy.passed["up"]
    proxy.cut_after(up=3)
    client.send_text("x" * 1000)
    wait_until(lambda: proxy.cuts == 1)
    assert proxy.passed["up"] == before + 3
    wait_until(lambda: proxy.connections == 2)
    client.send_text("again")
    assert client.receive_text(PATIENCE) == "again"


def test_a_peer_is_cut_off_when_the_service_is_down(capsys):
    with socket.socket() as unused:  # bound, and not listening
        unused.bind(("127.0.0.1", 0))
        with FlakyProxy(f"tcp://127.0.0.1:{unused.getsockname()[1]}") as proxy, socket.socket() as peer:
            peer.connect(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2])))
            with gevent.Timeout(PATIENCE):
                assert peer.recv(1) == b""
    assert capsys.readouterr().err == ""  # where gevent prints what ends a greenlet


def test_closing_it_ends_the_connections_and_frees_the_port(echo, wait_until):
    proxy = FlakyProxy(echo)
    host, port = proxy.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        wait_until(lambda: proxy.connections)
        proxy.close()
        with gevent.Timeout(PATIENCE), contextlib.suppress(ConnectionError):
            while peer.recv(1000):  # a ROUTER greets who connects
                pass
    assert not connects(proxy)


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/x", "inproc://x", "tcp://127.0.0.1:*", "127.0.0.1:80"])
def test_it_stands_before_tcp_only(endpoint):
    with pytest.raises(EndpointError, match="not before"):
        FlakyProxy(endpoint)


@pytest.mark.parametrize(("name", "value"), [("delay", -1), ("rate", 0), ("rate", -5), ("delay", float("nan"))])
def test_what_a_proxy_cannot_do_is_refused(name, value):
    with FlakyProxy("tcp://127.0.0.1:1") as proxy:
        with pytest.raises(ValueError, match="a number of"):
            setattr(proxy, name, value)
        with pytest.raises(ValueError, match="a number of"):
            proxy.cut_after(down=-1)

"""The socket monitor, and what is known of a connection from its events."""

import socket as network

import pytest

from dploylib.errors import ReceiveTimeout, SocketClosed
from dploylib.transport import Context, Link, SocketEvent, SocketMonitor
from dploylib.transport.monitor import count_connections

pytestmark = pytest.mark.usefixtures("leak_check")

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too


@pytest.fixture
def context():
    with Context.new() as context:
        yield context


@pytest.fixture
def watch(context):
    """`watch(endpoint)`: a DEALER that connects to it, its monitor, and what is known of the connection."""
    monitors = []

    def connect(endpoint):
        socket = context.socket("dealer", {"linger": 0, "handshake_ivl": 300})
        monitors.append(SocketMonitor(socket))
        socket.connect(endpoint)
        return socket, monitors[-1], Link()

    yield connect
    for monitor in monitors:
        monitor.close()


def hear_until(monitor, link, *states):
    seen = []
    while link.state not in states:
        link.hear(monitor.receive(PATIENCE))
        seen.append(link.state)
    return seen


def test_a_connection_is_known_to_be_made_and_to_be_lost(context, watch):
    server = context.socket("router")
    server.bind("tcp://127.0.0.1:*")
    _, monitor, link = watch(server.endpoint)
    assert hear_until(monitor, link, "ready") == ["shaking hands", "ready"]
    assert (link.ready, link.connections) == (True, 1)
    server.close()
    assert hear_until(monitor, link, "lost") == ["lost"]
    assert hear_until(monitor, link, "unreachable")[-1] == "unreachable"
    assert not link.ready


def test_a_peer_that_comes_back_is_connected_to_again(context, watch):
    server = context.socket("router")
    server.bind("tcp://127.0.0.1:*")
    endpoint = server.endpoint
    _, monitor, link = watch(endpoint)
    hear_until(monitor, link, "ready")
    server.close()
    hear_until(monitor, link, "lost")
    again = context.socket("router")
    again.bind(endpoint)
    hear_until(monitor, link, "ready")
    assert link.connections == 2


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "ipc:///nowhere/at/all", "tcp://no-such-host.invalid:5000"])
def test_nobody_there_is_unreachable(watch, endpoint):
    _, monitor, link = watch(endpoint)
    assert hear_until(monitor, link, "unreachable") == ["unreachable"]


def test_a_peer_of_another_type_is_known_to_be_there(context, watch):
    publisher = context.socket("pub")
    publisher.bind("tcp://127.0.0.1:*")
    _, monitor, link = watch(publisher.endpoint)
    states = hear_until(monitor, link, "rejected", "handshake failed")  # as who closes the connection first has it
    assert states[0] == "shaking hands"


def test_who_does_not_speak_zeromq_fails_the_handshake(watch):
    with network.create_server(("127.0.0.1", 0)) as server:  # which accepts, and says nothing
        _, monitor, link = watch(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        states = hear_until(monitor, link, "handshake failed", "rejected")
    assert states[0] == "shaking hands"


def test_every_state_has_words_and_no_other_event_changes_it():
    link = Link()
    for kind in ("connected", "handshake_succeeded", "disconnected", "connect_retried", "closed", "connected"):
        link.hear(SocketEvent(kind, "", 0))
        assert link.state in Link.STATES
    link.hear(SocketEvent("handshake_failed_auth", "", 0))
    link.hear(SocketEvent("disconnected", "", 0))
    assert link.state == "handshake failed"


def test_a_monitor_waits_no_longer_than_it_may_and_ends_with_close(watch):
    _, monitor, _ = watch("inproc://nobody")  # of which there are no events
    with pytest.raises(ReceiveTimeout):
        monitor.receive(timeout=0)
    monitor.close()
    monitor.close()
    with pytest.raises(SocketClosed):
        monitor.receive(timeout=0)


def test_many_monitors_come_and_go(context, watch):
    """Their names must not clash, although libzmq uses file descriptors again at once."""
    for _ in range(50):
        socket, monitor, _ = watch("tcp://127.0.0.1:1")
        monitor.close()
        socket.close()


def test_a_context_may_be_closed_while_connections_are_counted():
    """In whatever order it has them: libzmq tells each monitor that it ends, and waits for ever if it is gone."""
    for _ in range(30):
        with Context.new() as context:
            for _ in range(3):
                bound = context.socket("rep")
                count_connections(bound)
                bound.bind("tcp://127.0.0.1:*")

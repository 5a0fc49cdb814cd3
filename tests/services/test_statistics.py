"""What a service tells of its servers, wherever they run, and that it is not forgotten when one is started again."""

import signal

import gevent
import psutil
import pytest

from dploylib.services import State
from dploylib.transport import Socket
from tests.services.suite import Echo, Mortal, Upper, Waits

SOON = {"restart": "on-failure", "backoff": 0.01, "intensity": 20}


@pytest.fixture
def supervised(make_service, config_for):
    """A service with a server that can die, and is started again at once."""
    service = make_service(mortal=Mortal)
    service.start(config_dict=config_for(service) | {"supervision": {"mortal": SOON}})
    return service


@pytest.fixture
def client(supervised):
    """A client that stays connected to that server, or connects again."""
    with Socket.connect_new("dealer", supervised.endpoints["mortal"]["request"], {"linger": 0}) as client:
        yield client


def tell(client, text):
    client.send_frames([b"", b"", b"text/plain", text.encode()])


def ask(client, text):
    tell(client, text)
    while (answer := client.receive_frames(timeout=10)[-1].decode()) != text:
        assert answer == "hello"  # what was asked for before, again and again
    return answer


def ask_until_answered(client):
    """What is asked while the server is down may be lost."""
    with gevent.Timeout(20):
        tell(client, "hello")
        while not client.wait_readable(timeout=0.3):
            tell(client, "hello")
        client.receive_frames()


def test_all_servers_tell_what_they_have_counted(start, ask, wait_until):
    service = start(echo=Echo, upper=Upper)
    for _ in range(3):
        ask(service.endpoints["echo"]["request"], "four")
    wait_until(lambda: service.statistics()["echo"].sockets["request"].handled == 3)
    found = service.statistics()
    assert list(found) == ["echo", "upper"]
    assert {name: (one.type, one.state, one.restarts) for name, one in found.items()} == {
        "echo": ("Echo", "running", 0),
        "upper": ("Upper", "running", 0),
    }
    socket = service.statistics()["echo"].sockets["request"]
    assert socket.endpoints == [service.endpoints["echo"]["request"]]
    assert (socket.type, socket.bytes_received, socket.bytes_sent, socket.handler_time.count) == ("rep", 12, 12, 3)
    assert socket.connections.opened == 3
    wait_until(lambda: service.statistics()["echo"].sockets["request"].connections.open == 0)
    wait_until(lambda: service.statistics()["upper"].hub_delay.count)
    assert service.statistics()["upper"].sockets["request"].received == 0


def test_they_are_known_after_the_stop_and_then_nothing_is_in_flight(start, ask, spawn, flags, wait_until):
    service = start(waits=Waits)
    asking = spawn(ask, service.endpoints["waits"]["request"])
    flags.running.wait()
    wait_until(lambda: service.statistics()["waits"].sockets["request"].in_flight == 1)
    flags.go_on.set()
    asking.get(timeout=10)
    service.stop()
    found = service.statistics()["waits"]
    assert found.state == "stopped"
    assert (found.sockets["request"].received, found.sockets["request"].in_flight) == (1, 0)


def test_before_the_start_there_are_none_and_the_next_start_begins_anew(make_service, config_for, ask, wait_until):
    service = make_service(echo=Echo)
    assert service.statistics() == {}
    for _ in range(2):
        service.start(config_dict=config_for(service))
        ask(service.endpoints["echo"]["request"])
        wait_until(lambda: service.statistics()["echo"].sockets["request"].handled == 1)
        service.stop()


def test_a_server_that_is_started_again_goes_on_counting(supervised, client, wait_until):
    assert [ask(client, "hello") for _ in range(3)] == ["hello"] * 3
    service, seen = supervised, []

    def now():
        socket = service.statistics()["mortal"].sockets["request"]
        seen.append(socket.received)
        return socket

    wait_until(lambda: now().handled == 3)
    for count in (1, 2):
        assert ask(client, "die") == "die"
        wait_until(lambda count=count: service.statistics()["mortal"].restarts == count)
        ask_until_answered(client)
        wait_until(lambda: service.statistics()["mortal"].state == "running")
    wait_until(lambda: now().handled >= 5)
    wait_until(lambda: now().in_flight == 0)
    found = now()
    assert found.concurrency == 1
    assert found.endpoints == [service.endpoints["mortal"]["request"]]
    assert found.handler_time.count >= 3
    wait_until(lambda: now().connections.open == 1)
    assert now().connections.opened >= 3
    assert seen == sorted(seen), "a count has gone back"


@pytest.mark.processes_only("somebody kills it")
def test_a_server_whose_process_is_killed_has_counted_what_it_told_last(supervised, client, wait_until):
    service = supervised

    def now():
        return service.statistics()["mortal"].sockets["request"]

    for _ in range(5):
        ask(client, "hello")
    wait_until(lambda: now().handled == 5)
    [child] = psutil.Process().children()
    child.send_signal(signal.SIGKILL)
    wait_until(lambda: service.statistics()["mortal"].restarts == 1)
    assert now().received >= 5
    ask_until_answered(client)
    wait_until(lambda: now().handled >= 6)
    assert (now().concurrency, now().in_flight) == (1, 0)
    assert service.state is State.RUNNING

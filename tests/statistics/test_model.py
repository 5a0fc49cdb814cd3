"""What several processes tell as one: counts add up, the last error is the latest, states are those of the first."""

import msgspec
import pytest

from dploylib.statistics import (
    Connections,
    Histogram,
    LastError,
    ProcessStatistics,
    ServerStatistics,
    SocketStatistics,
    at_rest,
    merged,
    together,
)

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")


def histogram(*seconds):
    made = Histogram()
    for one in seconds:
        made.record(one)
    return made


def a_server(number=1, **fields):
    """A server whose socket has this number in all that is counted, and 2 messages in flight."""
    counts = {name: number for name, default in defaults(SocketStatistics).items() if type(default) is int}
    socket = SocketStatistics(
        **{"type": "rep", "endpoints": [f"tcp://127.0.0.1:{number}"]}
        | counts
        | {
            "received": number + 2,
            "problems": {"overloaded": number, f"only-{number}": number},
            "handler_time": histogram(*[0.25] * number),
            "wait_time": histogram(*[0.5] * number),
            "connections": Connections(opened=5 * number, closed=number, failed=number),
            "last_error": LastError(time=float(number), type=f"Error{number}"),
        }
    )
    return ServerStatistics(**{"type": "Echo", "hub_delay": histogram(0.001), "sockets": {"request": socket}} | fields)


def defaults(kind):
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def a_process(*servers, **fields):
    names = ["echo", "other"]
    return ProcessStatistics(
        **{
            "service": "shop",
            "role": "worker",
            "pid": 1,
            "instance": "one",
            "version": "1",
            "state": "running",
            "started": 1.0,
            "taken": 2.0,
            "servers": dict(zip(names, servers, strict=False)),
        }
        | fields
    )


def test_all_that_is_counted_adds_up():
    found = merged([a_process(a_server(1)), a_process(a_server(2)), a_process(a_server(4))])["echo"]
    socket = found.sockets["request"]
    for name, default in defaults(SocketStatistics).items():
        if type(default) is int:
            assert getattr(socket, name) == (7 if name != "received" else 13), name
    assert socket.problems == {"overloaded": 7, "only-1": 1, "only-2": 2, "only-4": 4}
    assert (socket.handler_time.count, socket.wait_time.count, found.hub_delay.count) == (7, 7, 3)
    assert (socket.connections.opened, socket.connections.closed, socket.connections.open) == (35, 7, 28)
    assert socket.in_flight == 6
    assert socket.errors == 6 * 7


def test_the_last_error_is_the_latest_whoever_comes_first():
    for order in ([1, 3, 2], [3, 2, 1], [2, 1, 3]):
        assert merged(a_process(a_server(one)) for one in order)["echo"].sockets["request"].last_error.type == "Error3"


def test_what_does_not_add_up_is_as_the_first_one_has_it():
    found = together([{"echo": a_server(1, state="stopping")}, {"echo": a_server(2, state="running", type="Other")}])
    assert (found["echo"].state, found["echo"].type) == ("stopping", "Echo")
    assert found["echo"].sockets["request"].endpoints == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]


def test_who_counts_no_connections_takes_nothing_from_who_does():
    silent = a_server(1)
    silent.sockets["request"].connections = silent.sockets["request"].last_error = None
    for order in ([silent, a_server(2)], [a_server(2), silent]):
        socket = together({"echo": one} for one in order)["echo"].sockets["request"]
        assert socket.connections == Connections(opened=10, closed=2, failed=2)
        assert socket.last_error.type == "Error2"
    assert together([{"echo": silent}, {"echo": silent}])["echo"].sockets["request"].connections is None


def test_servers_and_sockets_that_one_of_them_has_alone_are_there():
    one, other = a_server(1), a_server(2)
    other.sockets["more"] = other.sockets.pop("request")
    found = merged([a_process(one, a_server(3)), a_process(other)])
    assert set(found) == {"echo", "other"}
    assert set(found["echo"].sockets) == {"request", "more"}
    assert merged([]) == {}


def test_putting_together_changes_none_of_them():
    one, other = a_server(1), a_server(2)
    before = msgspec.json.encode([one, other])
    found = together([{"echo": one}, {"echo": other}])["echo"]
    found.sockets["request"].problems["overloaded"] = 99
    found.sockets["request"].connections.opened = 99
    assert msgspec.json.encode([one, other]) == before


def test_of_who_has_ended_nothing_is_in_flight_nor_connected_and_no_handler_may_run():
    [found] = at_rest([{"echo": a_server(1)}, {"echo": a_server(2)}]).values()
    socket = found.sockets["request"]
    assert (found.state, socket.in_flight, socket.connections.open, socket.concurrency) == ("stopped", 0, 0, 0)
    assert (socket.received, socket.connections.opened, socket.connections.failed) == (7, 15, 3)


def test_putting_to_rest_changes_none_of_them():
    one = a_server(1)
    before = msgspec.json.encode(one)
    at_rest([{"echo": one}])
    assert msgspec.json.encode(one) == before


def test_it_is_the_same_when_it_comes_back_as_json():
    process = a_process(a_server(1), a_server(2))
    assert msgspec.json.decode(msgspec.json.encode(process), type=ProcessStatistics) == process
    assert process.hub_delay.count == 2

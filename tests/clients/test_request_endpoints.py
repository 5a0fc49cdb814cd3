"""RequestClient: several endpoints, connections that are lost, and what is asked again."""

import contextlib
import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gevent
import gevent.monkey
import gevent.subprocess
import pytest
import zmq.green
from gevent.event import Event

from dploylib import Server, Service, bind_in
from dploylib.clients import RequestClient
from dploylib.clients.retrying import Circuit, RetryBudget
from dploylib.connecting import backoff
from dploylib.errors import ConnectionLost, RemoteError, RequestTimeout, TransportError
from dploylib.testing import FlakyProxy
from dploylib.transport import Metadata
from tests.clients.asking import asking, received_by
from tests.processes import Process

pytestmark = pytest.mark.usefixtures("leak_check")

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"


class Echo:
    """The echo of `peers/echo.py`, which can be killed and started again at its endpoint."""

    def __init__(self, run_peer: Callable[..., Process]) -> None:
        self._run_peer = run_peer
        self.endpoint = ANYWHERE
        self.start()

    def start(self) -> None:
        self.process = self._run_peer("echo.py", self.endpoint)
        self.endpoint = self.process.line()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.signal(number)

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def start_echo(run_peer) -> Callable[[], Echo]:
    """`start_echo()`: an echo in a process of its own."""
    return lambda: Echo(run_peer)


@pytest.fixture
def echo(start_echo):
    return start_echo()


def who(reply):
    """The process that has answered."""
    return int(reply.text.split()[0])


# Lost connections --------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_known_at_once(echo, wait_until):
    """And not at the deadline: there is none."""
    with RequestClient(echo.endpoint, timeout=math.inf) as client:
        calls = [gevent.spawn(client.request, "mute") for _ in range(100)]
        wait_until(lambda: client.endpoints[echo.endpoint].outstanding == 100)
        echo.kill()
        gevent.joinall(calls, timeout=PATIENCE)
        assert {type(call.exception) for call in calls} == {ConnectionLost}
        error = calls[0].exception
        assert isinstance(error, ConnectionError)
        assert error.endpoint == echo.endpoint
        assert "the request may have been handled" in str(error)


def test_replies_that_came_before_the_connection_broke_are_handed_out(wait_until):
    """Each round has a peer that ends right after its replies."""
    context = zmq.green.Context()
    for _ in range(20):
        peer = context.socket(zmq.ROUTER)
        peer.linger = 10_000
        peer.bind(ANYWHERE)
        with RequestClient(peer.last_endpoint.decode(), timeout=PATIENCE) as client:
            calls = [gevent.spawn(client.request, str(number)) for number in range(50)]
            for frames in [received_by(peer) for _ in range(50)]:
                peer.send_multipart(frames)
            peer.close()
            assert [call.get(timeout=PATIENCE).text for call in calls] == [str(number) for number in range(50)]
    context.destroy(linger=0)


def test_a_service_that_is_back_is_asked_again(echo):
    with RequestClient(echo.endpoint, timeout=PATIENCE) as client:
        for _ in range(3):
            assert who(client.request("x")) == echo.pid
            echo.kill()
            echo.start()
        assert who(client.request("x")) == echo.pid


def test_what_was_not_sent_waits_for_the_service_to_be_back(echo, wait_until):
    with RequestClient(echo.endpoint, timeout=PATIENCE) as client:
        client.request("x")
        echo.kill()
        wait_until(lambda: not client.connected)
        with asking(client, "not idempotent") as call:
            echo.start()
            assert who(call.get(timeout=PATIENCE)) == echo.pid


def test_an_idempotent_request_is_sent_again(echo, wait_until):
    with RequestClient(echo.endpoint, timeout=PATIENCE) as client:
        client.wait_connected()
        echo.signal(signal.SIGSTOP)
        with asking(client, "x", idempotent=True) as call:
            wait_until(lambda: client.endpoints[echo.endpoint].outstanding == 1)
            echo.kill()
            echo.start()
            assert who(call.get(timeout=PATIENCE)) == echo.pid


def test_no_more_often_than_it_may(bare, wait_until):
    """The connection of each try is cut by the proxy of a peer that never answers."""
    peer, endpoint = bare("router")
    proxy = FlakyProxy(endpoint)
    with RequestClient(proxy.endpoint, retries=2) as client, asking(client, "x", idempotent=True) as call:
        for _ in range(3):
            received_by(peer)
            proxy.cut()
        with pytest.raises(TransportError) as raised:
            call.get(timeout=PATIENCE)
        assert isinstance(raised.value, ConnectionLost)
        assert peer.poll(100) == 0
    proxy.close()


def test_a_deadline_ends_the_tries(echo, wait_until):
    with RequestClient(echo.endpoint) as client:
        client.wait_connected()
        with asking(client, "mute", timeout=1.0, idempotent=True) as call:
            wait_until(lambda: client.endpoints[echo.endpoint].outstanding == 1)
            echo.kill()
            with pytest.raises((RequestTimeout, ConnectionLost)) as raised:
                call.get(timeout=PATIENCE)
            if isinstance(raised.value, RequestTimeout):
                assert raised.value.sent
                assert "the connection was lost" in raised.value.known


# Several endpoints -------------------------------------------------------------------------------------------------


def test_all_endpoints_are_asked(start_echo, wait_until):
    first, second = start_echo(), start_echo()
    with RequestClient([first.endpoint, second.endpoint]) as client:
        wait_until(lambda: all(one.connection == "ready" for one in client.endpoints.values()))
        asked = Counter(who(client.request("x")) for _ in range(100))
        assert asked == {first.pid: 50, second.pid: 50}


def test_the_one_with_less_to_do_is_asked(start_echo, wait_until):
    first, second = start_echo(), start_echo()
    with RequestClient([first.endpoint, second.endpoint]) as client:
        wait_until(lambda: all(one.connection == "ready" for one in client.endpoints.values()))
        first.signal(signal.SIGSTOP)
        calls = [gevent.spawn(client.request, "x", timeout=PATIENCE) for _ in range(100)]
        wait_until(lambda: sum(call.ready() for call in calls) == 50)
        assert {who(client.request("x", timeout=PATIENCE)) for _ in range(20)} == {second.pid}
        first.signal(signal.SIGCONT)
        gevent.joinall(calls, timeout=PATIENCE, raise_error=True)
        assert Counter(who(call.value) for call in calls) == {first.pid: 50, second.pid: 50}


def test_dead_endpoints_are_skipped_and_come_back_by_themselves(start_echo, wait_until):
    first, second = start_echo(), start_echo()
    with RequestClient([first.endpoint, second.endpoint, "tcp://127.0.0.1:1"], timeout=PATIENCE) as client:
        wait_until(lambda: [one.connection for one in client.endpoints.values()].count("ready") == 2)
        first.kill()
        wait_until(lambda: client.endpoints[first.endpoint].connection != "ready")
        assert {who(client.request("x")) for _ in range(20)} == {second.pid}
        first.start()
        wait_until(lambda: client.endpoints[first.endpoint].connection == "ready")
        assert {who(client.request("x")) for _ in range(20)} == {first.pid, second.pid}


def test_an_idempotent_request_goes_to_another_endpoint(start_echo, wait_until):
    first, second = start_echo(), start_echo()
    with RequestClient([first.endpoint, second.endpoint], timeout=PATIENCE) as client:
        wait_until(lambda: all(one.connection == "ready" for one in client.endpoints.values()))
        for one in (first, second):
            one.signal(signal.SIGSTOP)
        calls = [gevent.spawn(client.request, "x", idempotent=True) for _ in range(100)]
        wait_until(lambda: client.endpoints[first.endpoint].outstanding == 50)
        first.kill()
        second.signal(signal.SIGCONT)
        gevent.joinall(calls, timeout=PATIENCE, raise_error=True)
        assert {who(call.value) for call in calls} == {second.pid}


# What a service says that cannot now -------------------------------------------------------------------------------


def problem(peer, frames, type, status=503):
    body = {"type": type, "title": "No", "status": status}
    peer.send_multipart([*frames[:-2], b"application/problem+json", json.dumps(body).encode()])


@pytest.mark.parametrize(
    ("type", "status", "idempotent", "again"),
    [
        ("urn:dploylib:overloaded", 503, False, True),
        ("urn:dploylib:shutting-down", 503, False, True),
        ("urn:dploylib:handler-ended", 503, False, False),
        ("urn:dploylib:handler-ended", 503, True, True),
        ("about:blank", 503, False, False),
        ("about:blank", 503, True, True),
        ("urn:dploylib:handler-failed", 500, True, False),
        ("urn:dploylib:deadline-exceeded", 504, True, False),
    ],
)
def test_only_what_is_safe_is_asked_again(bare, type, status, idempotent, again):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "x", idempotent=idempotent) as call:
        problem(peer, received_by(peer), type, status)
        if again:
            peer.send_multipart(received_by(peer))
            assert call.get(timeout=PATIENCE).text == "x"
        else:
            with pytest.raises(RemoteError) as raised:
                call.get(timeout=PATIENCE)
            assert (raised.value.type, raised.value.status) == (type, status)


def test_a_deadline_is_told_as_such_whoever_notices_it_first(bare):
    peer, endpoint = bare("router")
    sleep = gevent.monkey.get_original("time", "sleep")
    with RequestClient(endpoint) as client:
        client.wait_connected(PATIENCE)
        for _ in range(5):
            with asking(client, "x", timeout=0.1) as call:
                problem(peer, received_by(peer), "urn:dploylib:deadline-exceeded", 504)
                sleep(0.15)  # the hub is blocked, and then there is the reply, and the time is up
                with pytest.raises(RequestTimeout):
                    call.get(timeout=PATIENCE)


def test_an_overloaded_service_gets_no_more_than_some_tries(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint, retries=2) as client, asking(client, "x") as call:
        for _ in range(3):
            problem(peer, received_by(peer), "urn:dploylib:overloaded")
        with pytest.raises(RemoteError):
            call.get(timeout=PATIENCE)
        assert peer.poll(100) == 0


def test_each_try_has_a_frame_of_its_own_and_the_time_that_is_left(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client, asking(client, "x", timeout=PATIENCE) as call:
        tries = []
        for _ in range(2):
            tries.append(received_by(peer))
            problem(peer, tries[-1], "urn:dploylib:overloaded")
        peer.send_multipart(received_by(peer))
        first, second = (Metadata.find(frames) for frames in tries)
        assert first.request_id != second.request_id
        assert first.milliseconds_left > second.milliseconds_left
        assert call.get(timeout=PATIENCE).text == "x"


def test_a_service_that_shuts_down_is_asked_nothing_more_while_others_are_there(bare, start_echo, wait_until):
    peer, leaving = bare("router")
    other = start_echo()
    with RequestClient([leaving, other.endpoint], timeout=PATIENCE) as client:
        wait_until(lambda: all(one.connection == "ready" for one in client.endpoints.values()))
        calls = [gevent.spawn(client.request, "x") for _ in range(10)]
        for frames in [received_by(peer) for _ in range(5)]:
            problem(peer, frames, "urn:dploylib:shutting-down")
        gevent.joinall(calls, timeout=PATIENCE, raise_error=True)
        assert {who(call.value) for call in calls} == {other.pid}
        assert client.endpoints[leaving].circuit == "closed"


def test_a_request_waits_for_a_service_that_shuts_down_as_long_as_its_deadline_allows(bare, wait_until):
    peer, endpoint = bare("router")
    with RequestClient(endpoint, retries=1) as client:
        with asking(client, "x", timeout=PATIENCE) as call:
            for _ in range(4):
                problem(peer, received_by(peer), "urn:dploylib:shutting-down")
                wait_until(lambda: client.endpoints[endpoint].connection == "draining")
            peer.send_multipart(received_by(peer))
            assert call.get(timeout=PATIENCE).text == "x"
        with asking(client, "x", timeout=0.5) as call:
            problem(peer, received_by(peer), "urn:dploylib:shutting-down")
            with pytest.raises(RequestTimeout) as raised:
                call.get(timeout=PATIENCE)
        assert (raised.value.sent, raised.value.known) == (False, "the service is shutting down")


def test_without_retries_nothing_is_ever_sent_twice(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint, retries=0) as client:
        for type in ("urn:dploylib:shutting-down", "urn:dploylib:overloaded"):
            with asking(client, "x", idempotent=True) as call:
                problem(peer, received_by(peer), type)
                with pytest.raises(RemoteError) as raised:
                    call.get(timeout=PATIENCE)
                assert raised.value.type == type
        assert peer.poll(300) == 0


def test_a_service_that_restarts_answers_all_requests(wait_until):
    """None of them is idempotent: those that come too late are told so, and wait for the next one."""

    class Slow(Server):
        @bind_in("request", "rep", concurrency=10)
        def work(self, socket, received):
            gevent.sleep(0.005)
            return received.text

    with Service() as service:
        service.add_server("slow", Slow)
        service.start(config_dict={"servers": {"slow": {"request": {"uri": ANYWHERE}}}})
        endpoint = service.endpoints["slow"]["request"]
        answered = Counter()

        def ask(client, number):
            while not done.is_set():
                # In the milliseconds in which the sockets close, requests may be lost: that is told, and never silent.
                with contextlib.suppress(ConnectionLost):
                    assert client.request(str(number)).text == str(number)
                    answered[number] += 1

        done = Event()
        with RequestClient(endpoint, timeout=PATIENCE) as client:
            callers = [gevent.spawn(ask, client, number) for number in range(30)]
            for _ in range(3):
                before = sum(answered.values())
                wait_until(lambda before=before: sum(answered.values()) > before + 100)
                service.stop()
                service.start(config_dict={"servers": {"slow": {"request": {"uri": endpoint}}}})
            done.set()
            for call in callers:
                call.get(timeout=PATIENCE)


# Circuits ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_circuit_opens_after_failures_in_a_row_and_lets_one_request_try():
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(4):
        circuit.failed()
    circuit.succeeded()
    for _ in range(4):
        circuit.failed()
    assert (circuit.state, circuit.allows()) == ("closed", True)
    circuit.failed()
    assert (circuit.state, circuit.allows(), circuit.failures) == ("open", False, 5)
    clock.now += 1.3
    assert (circuit.state, circuit.allows()) == ("half-open", True)
    circuit.begin()
    assert (circuit.state, circuit.allows()) == ("half-open", False)
    circuit.succeeded()
    assert (circuit.state, circuit.allows(), circuit.failures) == ("closed", True, 0)


def test_a_circuit_stays_open_for_longer_each_time_up_to_a_bound():
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(5):
        circuit.failed()
    durations = []
    for _ in range(12):
        opened = clock.now
        while not circuit.allows():
            clock.now += 0.01
        durations.append(clock.now - opened)
        circuit.begin()
        circuit.failed()
    assert sorted(durations[:5]) == durations[:5]
    assert max(durations) <= 30 * 1.25 + 0.02


def test_failures_of_requests_that_were_sent_before_do_not_keep_a_circuit_open():
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(1000):
        circuit.failed()
    clock.now += 1.3
    assert circuit.allows()


def test_a_try_of_which_nobody_tells_how_it_ended_is_followed_by_another_one():
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(5):
        circuit.failed()
    clock.now += 1.3
    circuit.begin()
    assert not circuit.allows()
    clock.now += 1.1
    assert circuit.allows()


def test_an_endpoint_that_answers_nothing_is_left_out_and_that_is_visible(start_echo, bare, wait_until):
    echo = start_echo()
    _, mute = bare("router")
    with RequestClient([echo.endpoint, mute]) as client:
        wait_until(lambda: all(one.connection == "ready" for one in client.endpoints.values()))
        failed = 0
        while client.endpoints[mute].circuit == "closed":
            with contextlib.suppress(RequestTimeout):
                client.request("x", timeout=0.2)
                continue
            failed += 1
        assert failed == client.endpoints[mute].failures == 5
        assert client.endpoints[mute].circuit == "open"
        assert {who(client.request("x")) for _ in range(20)} == {echo.pid}


def test_where_nobody_else_is_left_an_open_circuit_keeps_nobody_from_asking(bare):
    peer, endpoint = bare("router")
    with RequestClient(endpoint) as client:
        for _ in range(100):  # of those that are not even sent in that time, nothing is known
            if client.endpoints[endpoint].circuit == "open":
                break
            with pytest.raises(RequestTimeout):
                client.request("late", timeout=0.02)
        assert client.endpoints[endpoint].circuit == "open"
        with asking(client, "x") as call:
            while (request := received_by(peer))[-1] != b"x":
                pass
            peer.send_multipart(request)
            assert call.get(timeout=PATIENCE).text == "x"
        assert client.endpoints[endpoint].circuit == "closed"


# Budget and backoff ------------------------------------------------------------------------------------------------


def test_no_more_than_a_part_of_the_calls_are_retries_at_once(wait_until):
    budget = RetryBudget()
    assert all(budget.take(100, 0) for _ in range(20))
    assert not budget.take(100, 0)
    assert budget.take(105, 0)
    waiting = [gevent.spawn(budget.take, 100, PATIENCE) for _ in range(3)]
    gevent.sleep(0)
    budget.give_back()
    gevent.sleep(0.01)
    assert [one.ready() for one in waiting] == [False, False, False]
    for _ in range(3):
        budget.give_back()
    assert [one.get(timeout=PATIENCE) for one in waiting] == [True, True, True]


def test_a_few_retries_are_always_allowed():
    budget = RetryBudget()
    assert [budget.take(1, 0) for _ in range(11)] == [True] * 10 + [False]


def test_a_turn_that_its_owner_cannot_take_goes_to_the_next_one():
    budget = RetryBudget()
    for _ in range(10):
        budget.take(1, 0)
    first, second = gevent.spawn(budget.take, 1, PATIENCE), gevent.spawn(budget.take, 1, PATIENCE)
    gevent.sleep(0)
    first.kill(block=False)  # which is about to happen when its turn comes
    budget.give_back()
    assert second.get(timeout=PATIENCE)
    assert budget.under_way == 10


def test_who_waits_for_a_turn_waits_no_longer_than_it_may_although_others_take_it():
    budget = RetryBudget()
    for _ in range(10):
        budget.take(1, 0)
    waiting = gevent.spawn(budget.take, 1, 0.2)
    for _ in range(40):
        gevent.sleep(0.05)
        if waiting.ready():
            break
        budget.give_back()
        budget.take(1, 0)
    assert waiting.ready()
    assert waiting.value is False


def test_pauses_grow_up_to_a_bound_and_are_not_all_alike():
    pauses = [[backoff(tries) for _ in range(200)] for tries in range(1, 12)]
    assert max(pauses[0]) <= 0.05
    assert max(max(some) for some in pauses) <= 2
    assert all(len(set(some)) > 100 for some in pauses)
    assert sum(pauses[5]) > sum(pauses[0])


# Where it is used --------------------------------------------------------------------------------------------------


class Backend(Server):
    def setup(self):
        self.deadlines = []

    @bind_in("request", "rep", concurrency=100)
    def work(self, socket, received):
        self.deadlines.append(received.deadline)
        if received.text == "slow":
            gevent.sleep(PATIENCE)
        return received.text.upper()


class Front(Server):
    def setup(self):
        self.client = RequestClient(self.settings.get("backend"), context=self.context)
        self.later = Event()

    def teardown(self):
        self.client.close()

    @bind_in("request", "rep", concurrency=100)
    def ask(self, socket, received):
        if received.text == "later":
            gevent.spawn(self.ask_later)
            return "spawned"
        if received.text == "many":
            return " ".join(reply.text for reply in self.client.imap(["a", "b"]))
        return self.client.request(received.text)

    def ask_later(self):
        self.client.request("later")
        self.later.set()

    @bind_in("direct", "rep")
    def direct(self, socket, received):
        return received.text


@pytest.fixture
def front():
    with Service() as backend, Service() as front:
        backend.graceful_timeout = front.graceful_timeout = 0
        backend.add_server("backend", Backend)
        backend.start(config_dict={"servers": {"backend": {"request": {"uri": ANYWHERE}}}})
        front.add_server("front", Front)
        front.start(
            config_dict={
                "servers": {"front": {"request": {"uri": ANYWHERE}, "direct": {"uri": ANYWHERE}}},
                "general": {"backend": backend.endpoints["backend"]["request"]},
            }
        )
        front.backend = backend.servers["backend"]
        yield front


def test_a_handler_that_asks_another_service_does_not_block_its_server(front, wait_until):
    endpoints = front.endpoints["front"]
    client, direct = (RequestClient(endpoints[name], timeout=PATIENCE) for name in ("request", "direct"))
    with client, direct, asking(client, "slow"):
        wait_until(lambda: front.backend.deadlines)
        assert client.request("hello").text == "HELLO"
        assert direct.request("hello").text == "hello"
        calls = [gevent.spawn(client.request, str(number)) for number in range(50)]
        assert [call.get(timeout=PATIENCE).text for call in calls] == [str(number) for number in range(50)]


def test_the_deadline_of_a_handler_goes_on_to_whom_it_asks(front):
    with RequestClient(front.endpoints["front"]["request"]) as client:
        client.request("x", timeout=5)
        client.request("many", timeout=5)
        now = time.monotonic()
        assert len(front.backend.deadlines) == 3
        assert all(now - PATIENCE < deadline <= now + 5 for deadline in front.backend.deadlines)
        client.request("x", timeout=math.inf)
        assert front.backend.deadlines[-1] > now + 20  # the client's own 30 s


def test_a_greenlet_that_a_handler_leaves_behind_has_its_own_time(front):
    with RequestClient(front.endpoints["front"]["request"]) as client:
        client.request("later", timeout=5)
        assert front.servers["front"].later.wait(PATIENCE)
        assert front.backend.deadlines[-1] > time.monotonic() + 5 - PATIENCE + 15


SCRIPT = """
import sys
from dploylib.clients import RequestClient
from dploylib.errors import ConnectionLost, RequestTimeout

with RequestClient(sys.argv[1], timeout=20) as client:
    print(client.request("first").text, flush=True)
    try:
        client.request("mute", timeout=0.5)
    except RequestTimeout as error:
        print("timeout", error.sent, flush=True)
    print([reply.text.split()[1] for reply in client.imap(map(str, range(5)))], flush=True)
    try:
        print("asking", flush=True)
        client.request("mute")
    except ConnectionLost:
        print("lost", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def script(echo):
    process = gevent.subprocess.Popen(
        [sys.executable, "-c", SCRIPT, echo.endpoint],
        stdout=gevent.subprocess.PIPE,
        stderr=gevent.subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
    )

    def line():
        with gevent.Timeout(2 * PATIENCE, AssertionError("the script prints nothing")):
            return process.stdout.readline().decode().strip()

    assert line() == f"{echo.pid} first"
    assert line() == "timeout True"
    assert line() == "['0', '1', '2', '3', '4']"
    assert line() == "asking"
    assert [echo.process.line() for _ in range(2)] == ["mute", "mute"]
    yield process, line
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def test_a_plain_script_learns_of_a_lost_connection(script, echo):
    _, line = script
    echo.kill()
    assert line() == "lost"


def test_a_plain_script_can_be_interrupted(script, echo):
    process, line = script
    process.send_signal(signal.SIGINT)
    assert line() == "interrupted"
    assert process.wait(timeout=PATIENCE) == 0


def test_a_script_that_did_something_else_meanwhile_does_not_take_the_new_connection_for_the_lost_one(echo, run_peer):
    script = run_peer("script.py", echo.endpoint)
    for _ in range(3):
        script.say("hello")
        assert script.line() == f"{echo.pid} hello"
        echo.kill()
        echo.start()
        with RequestClient(echo.endpoint) as client:  # when libzmq has connected again here, it has there
            client.request("x", timeout=PATIENCE)
        gevent.sleep(0.3)


def test_signal_handlers_of_gevent_are_called_in_a_script_that_asks_all_the_time(echo, run_peer):
    script = run_peer("script.py", echo.endpoint)
    script.say("loop")
    assert script.line() == "looping"
    script.signal(signal.SIGUSR1)
    assert script.line() == "stopped"

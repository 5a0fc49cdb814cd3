"""`Service.run`: in the foreground, until a signal or a failure ends it."""

import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import gevent
import pytest
from gevent import subprocess

from dploylib.errors import ServiceFailing
from dploylib.servers import Server, bind_in
from dploylib.services import Service, State
from dploylib.services.signals import on_signals
from dploylib.transport import Problem, Socket

ROOT = Path(__file__).parents[2]
ANYWHERE = "tcp://127.0.0.1:*"

PROGRAM = """
import sys

if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()

import gevent
from dploylib import servers
from dploylib.services import Service, State

class Tested(servers.Server):
    def setup(self):
        if "slow" in sys.argv:
            print("setting up", flush=True)
            gevent.sleep(60)
        gevent.spawn(self.announce)

    def announce(self):
        while service.state is not State.RUNNING:  # until then a signal ends the start, and every handler at once
            gevent.sleep(0.001)
        print(self.endpoints["request"][0], flush=True)

    def teardown(self):
        print("torn down", flush=True)

    @servers.bind_in("request", "rep")
    def request(self, socket, received):
        print("handling", flush=True)
        gevent.sleep(float(received.text))
        return "done"

service = Service()
service.add_server("tested", Tested)
service.run(config_dict={"servers": {"tested": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
print("returned", flush=True)
"""


@pytest.fixture
def program():
    """Start a program that runs a service; its output can be read line by line."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line_of(process) -> str:
    with gevent.Timeout(20, TimeoutError("the program says nothing")):
        return process.stdout.readline().decode().strip()


def rest_of(process) -> tuple[int, list[str], str]:
    output, errors = process.communicate(timeout=20)
    return process.returncode, output.decode().splitlines(), errors.decode()


@pytest.mark.parametrize("how", ["plain", "patched"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_handler_finish_and_run_return(program, number, how):
    process = program(how)
    with Socket.connect_new("req", line_of(process)) as client:
        client.send_text("0.2")
        assert line_of(process) == "handling"
        process.send_signal(number)
        assert client.receive_text(timeout=10) == "done"
    assert rest_of(process) == (0, ["torn down", "returned"], "")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_and_the_caller_is_told(program, first):
    process = program()
    with Socket.connect_new("req", line_of(process)) as client:
        client.send_text("60")
        assert line_of(process) == "handling"
        process.send_signal(first)
        assert not client.wait_readable(timeout=0.1)  # the handler still has its time
        process.send_signal(signal.SIGTERM)
        assert Problem.from_envelope(client.receive_envelope(timeout=10)).status == 503
    assert rest_of(process) == (0, ["torn down", "returned"], "")


def test_a_signal_while_it_starts_ends_the_start(program):
    process = program("slow")
    assert line_of(process) == "setting up"
    process.send_signal(signal.SIGTERM)
    assert rest_of(process) == (0, ["returned"], "")


class Echo(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received


class Broken(Echo):
    def setup(self):
        raise ValueError("broken")


class Dies(Echo):
    def setup(self):
        self.spawn(self.die)

    def die(self):
        gevent.sleep(0.01)
        raise ValueError("broken")


def config_of(service):
    return {"servers": {name: {"request": {"uri": ANYWHERE}} for name in service.server_classes}}


@pytest.fixture
def handlers():
    """Signal handlers of ours, which must be there again after every run."""

    def handler(number, frame):
        seen.append(number)

    seen = []
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield seen
    assert [signal.getsignal(number) for number in before] == [handler, handler]
    os.kill(os.getpid(), signal.SIGTERM)
    with gevent.Timeout(10):
        while not seen:
            gevent.sleep(0.001)
    for number, previous in before.items():
        signal.signal(number, previous)


def test_in_this_process_a_signal_ends_it_and_the_handlers_are_restored(make_service, handlers):
    service = make_service(echo=Echo)
    running = gevent.spawn(service.run, config_dict=config_of(service))
    while service.state is not State.RUNNING:
        gevent.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    running.get(timeout=10)
    assert service.state is State.STOPPED
    assert handlers == []


def test_stop_ends_it_too(make_service, handlers):
    service = make_service(echo=Echo)
    running = gevent.spawn(service.run, config_dict=config_of(service))
    while service.state is not State.RUNNING:
        gevent.sleep(0.001)
    service.stop()
    running.get(timeout=10)


def test_it_raises_what_start_raises(make_service, handlers):
    service = make_service(broken=Broken)
    with pytest.raises(ValueError, match="broken"):
        service.run(config_dict=config_of(service))
    assert service.state is State.STOPPED


def test_it_raises_when_a_server_dies_and_stops_the_others(make_service, handlers):
    service = make_service(dies=Dies, echo=Echo)
    with pytest.raises(ServiceFailing, match="server 'dies' died") as caught:
        service.run(config_dict=config_of(service))
    assert isinstance(caught.value.__cause__, ValueError)
    assert service.state is State.STOPPED
    assert service.servers["echo"].sockets.request.closed


def test_signals_are_left_alone_in_another_thread(leak_check):
    results = []

    def in_thread():
        before = signal.getsignal(signal.SIGTERM)
        with on_signals((signal.SIGTERM,), results.append):
            results.append(signal.getsignal(signal.SIGTERM) is before)
        gevent.get_hub().destroy()

    thread = threading.Thread(target=in_thread) if not _patched() else _native_thread(in_thread)
    thread.start()
    thread.join()
    assert results == [True]


def _patched() -> bool:
    from gevent import monkey

    return monkey.is_module_patched("threading")


def _native_thread(function):
    from gevent.threadpool import ThreadPool

    class Native:
        def start(self):
            self.pool = ThreadPool(1)
            self.result = self.pool.spawn(function)

        def join(self):
            self.result.get(timeout=10)
            self.pool.kill()

    return Native()


def test_a_service_in_another_thread_runs_without_signals(leak_check):
    """Its hub is that of the thread."""
    service = Service()
    service.add_server("echo", Echo)
    result = gevent.get_hub().threadpool.apply(_run_and_ask, (service,))
    assert result == "hello"
    assert service.state is State.STOPPED


def _run_and_ask(service: Service) -> str:
    try:
        running = gevent.spawn(service.run, config_dict=config_of(service))
        while service.state is not State.RUNNING:
            gevent.sleep(0.001)
        with Socket.connect_new("req", service.endpoints["echo"]["request"]) as client:
            client.send_text("hello")
            text = client.receive_text(timeout=10)
        service.stop()
        running.get(timeout=10)
        return text
    finally:
        gevent.get_hub().destroy(destroy_loop=True)

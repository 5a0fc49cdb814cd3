"""`Service.run`: in the foreground, until a signal or a failure ends it."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import gevent
import pytest
from gevent import subprocess

from dploylib.errors import ServiceFailing
from dploylib.services import Service, State
from dploylib.services.signals import on_signals
from dploylib.transport import Problem, Socket
from tests.services import suite
from tests.services.suite import Echo

ROOT = Path(__file__).parents[2]

# Its server is a class of the script, of __main__, which in another process is another module.
PROGRAM = """
import sys

if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()

import gevent
from dploylib import servers, services

class Tested(servers.Server):
    def setup(self):
        if self.settings.get("slow"):
            print("setting up", flush=True)
            gevent.sleep(60)

    def teardown(self):
        print("torn down", flush=True)

    @servers.bind_in("request", "rep")
    def request(self, socket, received):
        print("handling", flush=True)
        gevent.sleep(float(received.text))
        return "done"

def announce(service):
    while service.state is not services.State.RUNNING:  # until then a signal ends the start, and every handler at once
        gevent.sleep(0.001)
    print(service.endpoints["tested"]["request"], flush=True)

if __name__ == "__main__":
    service = services.Service(coordinator=getattr(services, sys.argv[1])())
    service.add_server("tested", Tested)
    announcing = gevent.spawn(announce, service)
    config = {"servers": {"tested": {"request": {"uri": "tcp://127.0.0.1:*"}}}, "general": {"slow": "slow" in sys.argv}}
    service.run(config_dict=config)
    print("returned", flush=True)
"""


@pytest.fixture
def program(coordinator, tmp_path):
    """Start a program that runs a service; its output can be read line by line. It has a process group of its own."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, script, coordinator.__name__, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its processes too, which it may have left
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


def test_a_signal_to_the_whole_process_group_is_one_signal(program):
    """As a Ctrl-C in a terminal is: it reaches the processes of the servers too, if they have some."""
    process = program()
    with Socket.connect_new("req", line_of(process)) as client:
        client.send_text("0.2")
        assert line_of(process) == "handling"
        os.killpg(process.pid, signal.SIGINT)
        assert client.receive_text(timeout=10) == "done"
    assert rest_of(process) == (0, ["torn down", "returned"], "")


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


@pytest.fixture
def running(make_service, config_for, wait_until):
    """`running(echo=Echo)`: a service that runs, and the greenlet that runs it."""

    def run(**servers) -> tuple[Service, gevent.Greenlet]:
        service = make_service(**servers)
        running = gevent.spawn(service.run, config_dict=config_for(service))
        wait_until(lambda: service.state is State.RUNNING)
        return service, running

    return run


def test_in_this_process_a_signal_ends_it_and_the_handlers_are_restored(running, handlers):
    service, run = running(echo=Echo)
    os.kill(os.getpid(), signal.SIGINT)
    run.get(timeout=10)
    assert service.state is State.STOPPED
    assert handlers == []


def test_stop_ends_it_too(running, handlers):
    service, run = running(echo=Echo)
    service.stop()
    run.get(timeout=10)


def test_it_raises_what_start_raises(make_service, config_for, handlers):
    service = make_service(broken=suite.Broken)
    with pytest.raises(ValueError, match="broken"):
        service.run(config_dict=config_for(service))
    assert service.state is State.STOPPED


def test_it_raises_when_a_server_dies_and_stops_the_others(running, flags, handlers):
    service, run = running(dies=suite.Dies, tidy=suite.Tidy)
    flags.die.set()
    with pytest.raises(ServiceFailing, match="server 'dies' died") as caught:
        run.get(timeout=10)
    assert isinstance(caught.value.__cause__, ValueError)
    assert service.state is State.STOPPED
    assert flags.events.lines() == ["tidy torn down"]


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


@pytest.mark.one_process("gevent can wait for processes in the main thread only, see test_processes.py")
def test_a_service_in_another_thread_runs_without_signals(make_service, config_for, wait_until):
    """Its hub is that of the thread."""
    service = make_service(echo=Echo)
    result = gevent.get_hub().threadpool.apply(_run_and_ask, (service, config_for(service), wait_until))
    assert result == "hello"
    assert service.state is State.STOPPED


def _run_and_ask(service, config, wait_until) -> str:
    try:
        running = gevent.spawn(service.run, config_dict=config)
        wait_until(lambda: service.state is State.RUNNING)
        with Socket.connect_new("req", service.endpoints["echo"]["request"]) as client:
            client.send_text("hello")
            text = client.receive_text(timeout=10)
        service.stop()
        running.get(timeout=10)
        return text
    finally:
        gevent.get_hub().destroy(destroy_loop=True)

"""Servers in threads and in processes of their own: what is particular about these places."""

import logging
import os
import signal
import sys
import textwrap
from pathlib import Path

import gevent
import psutil
import pytest
from gevent import subprocess

from dploylib.errors import ConfigurationError, DeclarationError, ServiceFailing, ServiceStateError
from dploylib.servers import Server, bind_in
from dploylib.services import ProcessServerCoordinator, State, coordinator
from dploylib.transport import Socket
from tests.services.suite import Echo, Front, Mortal, Tidy

ROOT = Path(__file__).parents[2]
ANYWHERE = "tcp://127.0.0.1:*"
CONFIG = {"servers": {"mortal": {"request": {"uri": ANYWHERE}}, "echo": {"request": {"uri": ANYWHERE}}}}


@pytest.fixture
def running(make_service, config_for):
    """A service of a server that does what it is asked to, and another one."""

    def running(max_blocking=0.0):
        service = make_service(mortal=Mortal, echo=Echo)
        service.max_blocking = max_blocking
        return service.start(config_dict=config_for(service))

    return running


# Hubs of their own -----------------------------------------------------------------------------------------------


@pytest.mark.own_hub("in one hub all servers wait for one that blocks")
def test_a_server_that_blocks_holds_up_no_other_one(running, ask, wait_until, flags):
    service = running()
    with Socket.connect_new("req", service.endpoints["mortal"]["request"]) as client:
        client.send_text("block")
        wait_until(flags.blocking.is_set)
        assert ask(service.endpoints["echo"]["request"]) == "hello"
        assert not client.wait_readable(timeout=0) or client.receive_text() == "block"
    flags.go_on.set()
    service.stop()


@pytest.mark.own_hub("its own hub is watched where it is")
def test_what_blocks_it_is_logged(running, wait_until, flags, caplog):
    service = running(max_blocking=0.05)
    with Socket.connect_new("req", service.endpoints["mortal"]["request"]) as client:
        client.send_text("block")
        # On a loaded machine it may be told of others before.
        wait_until(lambda: "the greenlet 'mortal: Mortal.block' has blocked the hub" in caplog.text)
        assert "in block; no other greenlet of this hub runs meanwhile: see servers.offload" in caplog.text
        flags.go_on.set()
        assert client.receive_text(timeout=10) == "block"


@pytest.mark.own_hub("what blocks the hub of the test ends the test")
def test_a_stop_does_not_wait_for_one_that_blocks(running, kind, wait_until, flags, monkeypatch, caplog):
    monkeypatch.setattr(coordinator, "_CLOSING_TIME", 0.1)
    monkeypatch.setattr(coordinator, "_DYING_TIME", 0.1)
    service = running()
    with Socket.connect_new("req", service.endpoints["mortal"]["request"]) as client:
        client.send_text("block")
        wait_until(flags.blocking.is_set)
        service.stop(0)
        assert service.state is State.STOPPED
        client.close(linger=0)
    if kind == "thread":
        assert "server mortal goes on although it was killed, and is left behind" in caplog.text
    else:
        assert "the process of server mortal does not end, and is killed" in caplog.text
    flags.go_on.set()


@pytest.mark.own_hub("in one hub there is no other thread")
def test_a_service_can_be_stopped_from_another_thread(running):
    service = running()
    threadpool = gevent.get_hub().threadpool
    threadpool.apply(_stop_here, (service,))
    assert service.state is State.STOPPED
    service.wait()


def _stop_here(service):
    try:
        service.stop()
    finally:
        gevent.get_hub().destroy(destroy_loop=True)


# Processes -------------------------------------------------------------------------------------------------------


@pytest.mark.processes_only("they have the log of another one")
def test_what_a_process_logs_is_logged_here(running, ask, wait_until, caplog):
    service = running()
    with caplog.at_level(logging.WARNING):
        assert ask(service.endpoints["mortal"]["request"], "log") == "log"
        wait_until(lambda: "from mortal" in caplog.text)
    [record] = [record for record in caplog.records if record.name == "suite"]
    assert record.levelno == logging.WARNING
    assert record.process != os.getpid()


@pytest.mark.processes_only("elsewhere nothing is pickled")
@pytest.mark.parametrize("what", ["log_a_lock", "log_what_cannot_be_read"])
def test_a_record_with_what_cannot_be_pickled_is_logged_without_it(running, ask, wait_until, what, caplog):
    service = running()
    with caplog.at_level(logging.WARNING):
        assert ask(service.endpoints["mortal"]["request"], what) == what
        assert ask(service.endpoints["mortal"]["request"], "log") == "log"
        wait_until(lambda: "from mortal" in caplog.text)
    assert caplog.records[0].getMessage() in ("locked", "odd")
    assert not hasattr(caplog.records[0], "lock")


@pytest.mark.processes_only("they have the log of another one")
def test_a_log_that_fails_here_does_not_make_deaf_to_a_process(running, ask, wait_until, caplog):
    def fail(record):
        raise ValueError("as a bad filter does")

    logging.getLogger("suite").addFilter(fail)
    try:
        service = running()
        assert ask(service.endpoints["mortal"]["request"], "log") == "log"
        wait_until(lambda: "what the process of server mortal says cannot be taken" in caplog.text)
        ask(service.endpoints["mortal"]["request"], "die")
        with pytest.raises(ServiceFailing, match="it was asked to"):
            service.wait()
    finally:
        logging.getLogger("suite").removeFilter(fail)


@pytest.mark.processes_only("elsewhere nothing is pickled")
def test_an_error_that_cannot_be_pickled_is_told_all_the_same(running, ask, caplog):
    service = running()
    ask(service.endpoints["mortal"]["request"], "die_unspeakably")
    with pytest.raises(ServiceFailing, match="die_unspeakably raised Unspeakable: a thing") as caught:
        service.wait()
    assert "Unspeakable: a thing" in str(caught.value.__cause__)
    assert "in die_unspeakably" in caplog.text  # the traceback over there


@pytest.mark.processes_only("elsewhere there is no signal for one server")
def test_a_process_that_is_told_to_end_does_so_gracefully_and_the_service_knows(running, ask, kind):
    service = running()
    psutil.Process(int(ask(service.endpoints["mortal"]["request"], "pid"))).terminate()
    with pytest.raises(ServiceFailing, match=r"server 'mortal' ended without being told to$"):
        service.wait()


@pytest.mark.processes_only("elsewhere a class need not be found by its name")
def test_a_class_that_cannot_be_imported_is_refused(make_service, config_for):
    class Local(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            return received

    service = make_service(local=Local)
    with pytest.raises(DeclarationError, match=r"server 'local' cannot run in a process of its own: .*Local"):
        service.start(config_dict=config_for(service))
    assert service.state is State.STOPPED


@pytest.mark.processes_only("elsewhere they are in one process")
def test_inproc_endpoints_between_servers_are_refused(make_service, config_for):
    service = make_service(a=Echo, b=Echo)
    config = config_for(service, a={"request": {"uri": "inproc://x"}})
    service.start(config_dict=config)
    service.stop()
    service = make_service(a=Echo, b=Tidy, c=Front)
    config = config_for(service, a={"request": {"uri": "inproc://x"}}, c={"back": {"uri": "inproc://x"}})
    with pytest.raises(ConfigurationError) as caught:
        service.start(config_dict=config)
    assert "inproc://x is known within one process only, and server 'a', which has it too" in str(caught.value)
    with pytest.raises(ValueError, match="the control socket needs ipc://"):
        ProcessServerCoordinator(control_uri="inproc://control")


def test_other_machines_cannot_reach_the_control_socket(coordinator):
    with pytest.raises(ValueError, match=r"tcp://\*:\* can be reached from other machines, and carries the stop"):
        coordinator(control_uri="tcp://*:*")


@pytest.mark.processes_only("elsewhere nobody has to wait for a process")
def test_another_thread_than_the_main_one_cannot_start_processes(make_service, config_for):
    service = make_service(echo=Echo)
    config = config_for(service)
    with pytest.raises(ServiceStateError, match="in the main thread only"):
        gevent.get_hub().threadpool.apply(_start_here, (service, config))
    assert service.state is State.STOPPED


def _start_here(service, config):
    try:
        service.start(config_dict=config)
    finally:
        gevent.get_hub().destroy(destroy_loop=True)


SCRIPT = """
    import sys
    if "patched" in sys.argv:
        from gevent import monkey
        monkey.patch_all()
    import os, time
    from gevent.monkey import get_original
    from dploylib.servers import Server, bind_in
    from dploylib.services import ProcessServerCoordinator, Service

    class Tested(Server):
        def setup(self):
            print(os.getpid(), flush=True)
            self.spawn(self.background)

        def background(self):
            if "blocks" in sys.argv:
                get_original("time", "sleep")(3600)

        @bind_in("request", "rep")
        def request(self, socket, received):
            return received

    def main():
        service = Service(coordinator=ProcessServerCoordinator())
        service.add_server("tested", Tested)
        service.run(config_dict={"servers": {"tested": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
"""
GUARDED = f"{textwrap.dedent(SCRIPT)}\nif __name__ == '__main__':\n    main()\n"
UNGUARDED = f"{textwrap.dedent(SCRIPT)}\nmain()\n"


@pytest.fixture
def script(tmp_path):
    """Run a script, and end it and what it has started."""
    started = []

    def run(text, *arguments):
        path = tmp_path / "script.py"
        path.write_text(text)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        popen = subprocess.Popen(
            [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        started.append(popen)
        return popen

    yield run
    for popen in started:
        popen.kill()
        popen.wait()
        popen.stdout.close()
        popen.stderr.close()


@pytest.mark.parametrize("how", ["idle", "blocks"])
@pytest.mark.parametrize("patched", ["plain", "patched"])
def test_processes_end_when_their_parent_is_gone_however_that_came(script, how, patched):
    """In seconds also where the hub is blocked."""
    parent = script(GUARDED, how, patched)
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.ppid() == parent.pid
    parent.kill()
    with gevent.Timeout(30):
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            gevent.sleep(0.01)


def test_processes_have_the_flags_of_the_interpreter(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        GUARDED.replace("print(os.getpid(), flush=True)", "print(sys.flags.optimize, flush=True); os._exit(1)")
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-O", str(path)], capture_output=True, text=True, env=env, timeout=30)
    assert ended.stdout == "1\n"


def test_a_script_that_starts_a_service_whenever_it_is_imported_is_told_so(script):
    parent = script(UNGUARDED)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 1
    assert 'put what starts it behind `if __name__ == "__main__":`' in errors


@pytest.mark.parametrize("how", [["-c", GUARDED], ["-c", UNGUARDED]])
def test_a_class_that_was_typed_in_is_told_so(how):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, *how], capture_output=True, text=True, env=env, timeout=30)
    assert ended.returncode == 1
    assert "DeclarationError: this server cannot run in a process of its own: " in ended.stderr
    assert "its class has to be at the top level of a module that can be imported" in ended.stderr


def test_a_terminal_that_interrupts_all_processes_stops_the_service_once(script):
    parent = script(GUARDED, "idle")
    child = psutil.Process(int(parent.stdout.readline()))
    with gevent.Timeout(30):
        while not child.net_connections("tcp"):
            gevent.sleep(0.01)
    child.send_signal(signal.SIGINT)
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 0, errors
    assert not child.is_running()

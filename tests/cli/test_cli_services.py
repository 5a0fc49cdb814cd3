"""The commands about services that run: which one, what they print, and their exit status."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dploylib.cli.services import found_services
from dploylib.cli.top import Followed
from dploylib.control.finding import running_in

pytestmark = pytest.mark.once("commands run in interpreters of their own")

ROOT = Path(__file__).parent.parent.parent
TARGET = Path(__file__).with_name("control_target.py")
PATIENCE = 30.0  # seconds; an upper bound for what takes some, on a loaded machine too
CONFIGURATION = "servers: {echo: {request: {uri: 'tcp://127.0.0.1:*'}}}"
SOURCE = """
from dploylib import Server, Service, bind_in

class Echo(Server):
    @bind_in("request", "rep")
    def echo(self, socket, received):
        return received.text

service = Service()
service.add_server("echo", Echo)
"""


def wait_until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


class Machine:
    """Where services run that find each other: a base directory for their run directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = directory / "base"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(self.base)}
        self.processes: list[subprocess.Popen[bytes]] = []
        (directory / "parrot.py").write_text(SOURCE)
        (directory / "config.yaml").write_text(CONFIGURATION)

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        log = (self.directory / f"log{len(self.processes)}").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.directory,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self, process: "subprocess.Popen[bytes]") -> str:
        return (self.directory / f"log{self.processes.index(process)}").read_text()

    def endpoint(self, process: "subprocess.Popen[bytes]") -> str:
        return self.log(process).partition("echo.request is at ")[2].split()[0]

    def run(self, *options: str, **environment: str) -> "subprocess.Popen[bytes]":
        """`dploylib run`, which is ready."""
        process = self.start("-m", "dploylib", "run", "parrot", "-c", "config.yaml", *options, **environment)
        wait_until(lambda: "is at" in self.log(process) or process.poll() is not None)
        assert process.poll() is None, self.log(process)
        return process

    def fake(self, role: str = "run", directory: str = "run") -> "subprocess.Popen[bytes]":
        """A process that can be asked, of a service with this run directory."""
        run_dir = self.directory / directory
        process = self.start(str(TARGET), str(run_dir), role)
        wait_until((run_dir / f"control.{process.pid}").exists)
        wait_until(lambda: all(one["state"] == "ready" for one in running_in(str(run_dir))))
        return process

    def asked(self) -> list[str]:
        return (self.directory / "run" / "asked").read_text().splitlines()

    def do(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "dploylib", *command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture
def machine(ipc_dir: Path) -> Iterator[Machine]:
    """A machine on which no service runs yet; in the end, none is left."""
    machine = Machine(ipc_dir)
    yield machine
    for process in machine.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
    for path in sorted(ipc_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


# What `run` leaves to be found --------------------------------------------------------------------------------------


def test_a_service_that_run_runs_is_found_until_it_ends(machine):
    service = machine.run()
    [run_dir] = machine.base.iterdir()
    assert run_dir.name.startswith("parrot-")
    assert run_dir.stat().st_mode & 0o777 == 0o700
    done = machine.do("ps", "--json")
    found = json.loads(done.stdout)
    assert (found["name"], found["pid"], found["mode"], found["state"]) == ("parrot", service.pid, "run", "ready")
    assert found["run_dir"] == str(run_dir)
    assert found["endpoints"]["echo.request"] in machine.log(service)
    assert machine.do("status").stdout.startswith(f"parrot ({service.pid}): ready, up ")
    service.send_signal(signal.SIGTERM)
    assert service.wait(PATIENCE) == 0
    assert list(machine.base.iterdir()) == []
    assert (machine.do("ps").stdout.split(), machine.do("ps").returncode) == (
        ["NAME", "PID", "MODE", "STATE", "UP", "WORKERS", "VERSION", "ENDPOINTS"],
        0,
    )
    assert machine.do("status").returncode == 1


def test_the_configuration_names_a_service_unless_an_option_does(machine):
    machine.run("--set", "daemon.name=shop")
    machine.run("--set", "daemon.name=shop", "--name", "other")
    names = {json.loads(line)["name"] for line in machine.do("ps", "--json").stdout.splitlines()}
    assert names == {"shop", "other"}
    for name in names:
        assert json.loads(machine.do("stats", name, "--json").stdout)["processes"][0]["service"] == name


def test_what_a_killed_service_leaves_is_removed_by_the_next(machine):
    service = machine.run()
    service.kill()
    service.wait()
    assert len(list(machine.base.iterdir())) == 1
    assert machine.do("health").returncode == 8
    machine.run("--name", "other")
    [left] = machine.base.iterdir()
    assert left.name.startswith("other-")


def test_another_process_with_the_id_of_a_killed_one_is_not_taken_for_it(machine):
    service = machine.run("--run-dir", "run")
    service.kill()
    service.wait()
    [status] = (machine.directory / "run").glob("status.*.json")
    said = json.loads(status.read_text()) | {"pid": os.getpid()}
    status.with_name(f"status.{os.getpid()}.json").write_text(json.dumps(said))
    assert machine.do("health", "--run-dir", "run").returncode == 8


def test_a_service_runs_where_no_directory_can_be_made(machine):
    machine.base.write_text("a file")
    service = machine.run()
    wait_until(lambda: "other commands will not find this service" in machine.log(service))
    service.send_signal(signal.SIGTERM)
    assert service.wait(PATIENCE) == 0


def test_a_service_writes_nothing_when_it_is_not_to_be_found(machine):
    service = machine.run("--no-control")
    assert not machine.base.exists()
    assert "will not find" not in machine.log(service)


def test_a_run_directory_that_another_service_has_is_refused(machine):
    first = machine.run("--run-dir", "run")
    second = machine.start("-m", "dploylib", "run", "parrot", "-c", "config.yaml", "--run-dir", "run")
    assert second.wait(PATIENCE) == 3
    assert f"is the run directory of parrot ({first.pid})" in machine.log(second)
    assert machine.do("ps").stdout.count("parrot ") == 1  # found though it is elsewhere


# Which service ------------------------------------------------------------------------------------------------------


def test_the_service_is_named_where_there_are_several(machine):
    one, other = machine.run("--name", "one"), machine.run("--name", "other", "--run-dir", "run")
    done = machine.do("stop")
    assert done.returncode == 2
    assert f"2 such services run: one ({one.pid}), other ({other.pid}); say which one" in done.stderr
    assert json.loads(machine.do("ps", "one", "--json").stdout)["pid"] == one.pid
    assert json.loads(machine.do("ps", str(other.pid), "--json").stdout)["name"] == "other"
    assert json.loads(machine.do("ps", "--run-dir", "run", "--json").stdout)["name"] == "other"
    (machine.directory / "pid").write_text(f"{one.pid}\n")
    assert json.loads(machine.do("ps", "-p", "pid", "--json").stdout)["name"] == "one"


@pytest.mark.parametrize("command", ["stats", "health", "stop", "reload", "stacks", "loglevel", "top"])
def test_a_service_that_does_not_run_has_an_exit_status_of_its_own(machine, command):
    done = machine.do(command, "parrot")
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.startswith(f"no such service is running: there is none in {machine.base}; ")
    done = machine.do(command, "-p", "nothing.pid")
    assert done.returncode == 8
    assert done.stderr == "no such service is running: no process id in nothing.pid: No such file or directory\n"


# Health -------------------------------------------------------------------------------------------------------------


def test_health_is_0_when_it_is_ready_and_1_with_the_reasons_when_not(machine):
    service = machine.fake()
    done = machine.do("health")
    assert (done.returncode, done.stdout) == (0, f"parrot ({service.pid}): ready\n")
    (machine.directory / "run" / "unready").write_text("no seed")
    done = machine.do("health")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"parrot ({service.pid}): not ready"
    assert "no seed" in done.stdout
    service.send_signal(signal.SIGSTOP)
    assert machine.do("health").returncode == 1


def test_health_waits_for_a_service_that_is_not_there_yet(machine):
    waiting = machine.start("-m", "dploylib", "health", "parrot", "--wait", str(PATIENCE))
    service = machine.fake()
    assert waiting.wait(PATIENCE) == 0
    assert machine.log(waiting) == f"parrot ({service.pid}): ready\n"


# Stopping -----------------------------------------------------------------------------------------------------------


def test_stop_waits_until_the_service_has_gone(machine):
    service = machine.run()
    done = machine.do("stop", "parrot")
    assert (done.returncode, done.stdout) == (0, f"parrot ({service.pid}): stopped\n")
    assert service.wait(PATIENCE) == 0
    assert list(machine.base.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "asked"), [((), '{"graceful_timeout":null}'), (("--now",), '{"graceful_timeout":0.0}')]
)
def test_stop_says_how_long_handlers_may_take(machine, options, asked):
    service = machine.fake()
    assert machine.do("stop", *options).returncode == 0
    assert service.wait(PATIENCE) == 0
    assert f"STOP {asked}" in (machine.directory / "run" / "asked").read_text()


def test_stop_ends_with_5_when_the_service_has_not_gone_in_time(machine):
    service = machine.run()
    service.send_signal(signal.SIGSTOP)
    done = machine.do("stop", "--timeout", "0.1")
    assert done.returncode == 5
    assert done.stderr.startswith(f"parrot ({service.pid}) was told to stop, and has not gone within 0.1 s")


def test_a_service_of_run_cannot_reload(machine):
    machine.run()
    done = machine.do("reload")
    assert done.returncode == 1
    assert "which cannot reload" in done.stderr


# What they tell -----------------------------------------------------------------------------------------------------


def test_stats_adds_up_all_processes(machine):
    machine.fake(), machine.fake("worker")
    told = json.loads(machine.do("stats", "--json").stdout)
    socket = told["servers"]["echo"]["sockets"]["request"]
    assert (socket["received"], socket["errors"], socket["in_flight"]) == (200, 10, 4)
    assert socket["handler_time"]["count"] == 200
    assert socket["handler_time"]["p50"] == pytest.approx(0.001, rel=0.02)
    assert {one["role"] for one in told["processes"]} == {"run", "worker"}
    done = machine.do("stats")
    heading, row = done.stdout.splitlines()[:2]
    assert heading.split()[:4] == ["SOCKET", "TYPE", "RECEIVED", "SENT"]
    assert row.split()[:6] == ["echo.request", "rep", "400", "0", "20", "4"]
    assert "echo.request: 20 failed\n" in done.stdout
    assert "echo.request: last error: ValueError: no\\nseed\n" in done.stdout


def test_a_service_that_run_runs_tells_of_itself(machine):
    service = machine.run()
    assert machine.do("call", machine.endpoint(service), "hello").stdout == "hello\n"
    assert machine.do("health").stdout == f"parrot ({service.pid}): ready\n"
    [process] = json.loads(machine.do("stats", "--json").stdout)["processes"]
    assert (process["pid"], process["role"]) == (service.pid, "run")
    assert process["servers"]["echo"]["sockets"]["request"]["received"] == 1
    assert "server echo" in machine.do("stacks").stdout
    assert machine.do("loglevel", "error").stdout == f"process {service.pid}: error, was info\n"
    assert f"run {service.pid}" in machine.do("top", "--once", "--interval", "0.1").stdout


def test_processes_that_do_not_answer_are_told_and_the_others_shown(machine):
    service, worker = machine.fake(), machine.fake("worker")
    worker.send_signal(signal.SIGSTOP)
    done = machine.do("loglevel")
    assert (done.returncode, done.stdout) == (1, f"process {service.pid}: info\n")
    assert done.stderr.startswith(f"process {worker.pid}: ")


def test_a_service_that_cannot_be_asked_is_told(machine):
    machine.run("--run-dir", "run")
    for control in (machine.directory / "run").glob("control.*"):
        control.unlink()
    done = machine.do("stacks")
    assert done.returncode == 1
    assert done.stderr.startswith("none of the processes of parrot (")


def test_stacks_are_those_of_all_processes(machine):
    service, worker = machine.fake(), machine.fake("worker")
    text = machine.do("stacks").stdout
    assert f"process {service.pid} of parrot:\n\nthe stack of the run\n" in text
    assert f"process {worker.pid} of parrot:\n\nthe stack of the worker\n" in text
    said = [json.loads(line) for line in machine.do("stacks", "--json").stdout.splitlines()]
    assert {one["pid"]: one["text"] for one in said}[worker.pid] == "the stack of the worker\n"


def test_the_level_of_the_log_is_shown_and_changed(machine):
    service = machine.fake()
    assert machine.do("loglevel").stdout == f"process {service.pid}: info\n"
    assert machine.do("loglevel", "parrot", "debug").stdout == f"process {service.pid}: debug, was info\n"
    assert machine.do("loglevel", "warning", "--logger", "a.b").stdout == f"process {service.pid}: warning, was debug\n"
    told = [line.removeprefix("LOGLEVEL ") for line in machine.asked()]
    assert [json.loads(one or "null") for one in told] == [
        None,
        {"level": "debug", "logger": ""},
        {"level": "warning", "logger": "a.b"},
    ]


def test_top_prints_one_interval_where_there_is_no_terminal(machine):
    service, worker = machine.fake(), machine.fake("worker")
    lines = machine.do("top", "--interval", "0.1").stdout.splitlines()
    sockets = dict(zip(lines[0].split(), lines[1].split(), strict=False))
    shown = [sockets[title] for title in ("socket", "msg/s", "p99", "busy", "err/s")]
    assert shown == ["echo.request", "200", "50ms", "4", "10"]
    processes = [line.split()[:3] for line in lines[4:]]
    assert sorted(processes) == [["run", str(service.pid), "100"], ["worker", str(worker.pid), "100"]]


def test_top_goes_on_with_a_service_that_takes_the_place_of_the_one_that_has_gone(machine, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(machine.base))
    first = machine.fake()
    [service] = found_services("parrot", None, None)
    followed = Followed(service, lambda: found_services("parrot", None, None))
    assert [one.pid for one in followed.statistics()] == [first.pid]
    first.send_signal(signal.SIGTERM)
    first.wait(PATIENCE)
    assert [one.pid for one in followed.statistics() if one.role != "gone" and one.pid != first.pid] == []
    second = machine.fake(directory="another")
    assert [one.pid for one in followed.statistics()] == [second.pid]
    assert followed.health().ready


def test_top_draws_in_a_terminal_and_leaves_it_as_it_was(machine):
    machine.fake()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    top = subprocess.Popen(
        [sys.executable, "-m", "dploylib", "top", "--interval", "0.1"],
        cwd=machine.directory,
        env={**machine.environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    machine.processes.append(top)
    written = b""

    def drawn(text: bytes) -> bool:
        nonlocal written
        while select.select([ours], [], [], 0)[0]:
            written += os.read(ours, 65536)
        return text in written

    try:
        wait_until(lambda: drawn(b"echo.request"))
        assert termios.tcgetattr(theirs) != before
        os.write(ours, b"q")
        wait_until(lambda: drawn(b"\x1b[?1049l") and top.poll() is not None)  # the alternate screen is left
        assert top.returncode == 0
        assert termios.tcgetattr(theirs) == before
        assert b"Traceback" not in written
    finally:
        os.close(ours)
        os.close(theirs)

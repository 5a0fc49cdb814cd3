"""What `dploylib serve` makes of its options and surroundings: whose they are, what is refused, and what is left."""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dploylib.config import Settings, as_yaml
from dploylib.control.finding import lock_path, statuses
from dploylib.control.run_dir import RunDir
from dploylib.ipc_lock import lock_file
from tests.daemon.running import ROOT, RunningDaemon, wait_until

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")


def configured(uri="tcp://127.0.0.1:*", **sections):
    """A configuration of the server echo, which listens there."""
    return {"servers": {"echo": {"request": {"uri": uri}}}, **sections}


# Children that fail ----------------------------------------------------------------------------------------------

FAILING = """
import os

def fail({arguments}):
    if os.path.exists({path!r}):
        raise {error}("as the hook wants it")
"""


@pytest.fixture
def with_hook(tmp_path):
    """A daemon that listens at an ipc endpoint, with a hook that raises an error while a file exists: both of them."""
    failing = tmp_path / "failing"

    def start(hook, error="ValueError", *options, **keywords):
        arguments = "arbiter" if hook in ("pre_exec", "on_starting") else "arbiter, worker"
        (tmp_path / "hooks_of_mine.py").write_text(FAILING.format(path=str(failing), error=error, arguments=arguments))
        configuration = configured(f"ipc://{tmp_path}/e", daemon={"hooks": {hook: "hooks_of_mine:fail"}})
        environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
        return RunningDaemon(tmp_path, *options, configuration=configuration, environment=environment, **keywords)

    return start, failing


@pytest.mark.parametrize("error", ["ValueError", "StopIteration", "KeyboardInterrupt"])
def test_a_child_that_fails_after_the_fork_cleans_up_nothing_of_the_arbiter(tmp_path, with_hook, error):
    start, failing = with_hook
    with start("post_fork", error, "-w", "2", "--balance", "messages") as daemon:
        before = daemon.processes()
        failing.touch()
        daemon.send(signal.SIGTTIN)
        daemon.wait_logged("exited with status 1")
        daemon.wait_logged(f"{error}: as the hook wants it")
        assert daemon.processes() == before
        assert daemon.pidfile.read_text() == f"{daemon.process.pid}\n"
        assert (tmp_path / "e").exists()
        assert daemon.ask().endswith(" x")
        failing.unlink()
        wait_until(lambda: len(daemon.processes()) == 3)
        assert "Shutting down" not in daemon.log
        assert daemon.stop() == 0


def test_children_that_fail_at_first_end_the_service_which_leaves_nothing(tmp_path, with_hook):
    start, failing = with_hook
    failing.touch()
    with start("post_fork", ready=False) as daemon:
        assert daemon.process.wait(30) == 1
        assert "could not start: it exited with status 1" in daemon.log
        assert list(daemon.run_dir.iterdir()) == []
        assert not daemon.pidfile.exists()
        assert not (tmp_path / "e").exists()


def test_a_second_arbiter_that_cannot_be_started_changes_nothing(tmp_path, with_hook):
    start, failing = with_hook
    with start("pre_exec") as daemon:
        failing.touch()
        daemon.send(signal.SIGUSR2)
        daemon.wait_logged("a new arbiter could not be started")
        daemon.wait_logged("the new arbiter")
        assert daemon.ask().endswith(" x")
        assert daemon.pidfile.exists()
        failing.unlink()
        daemon.send(signal.SIGUSR2)
        wait_until(lambda: (tmp_path / "pid.2").exists())
        daemon.wait_logged("ready: ", 2)
        os.kill(int((tmp_path / "pid.2").read_text()), signal.SIGTERM)
        wait_until(lambda: not (tmp_path / "pid.2").exists())
        assert daemon.stop() == 0


# Whose the run directory and the pid file are --------------------------------------------------------------------


@pytest.fixture
def in_use(tmp_path):
    """A daemon, and how to start another one from a directory of its own."""
    (tmp_path / "other").mkdir()
    with RunningDaemon(tmp_path, "-w", "2", "-n", "first") as daemon:
        uri = f"ipc://{tmp_path}/e"

        def other(*options, **keywords):
            return RunningDaemon(
                tmp_path / "other", *options, ready=False, configuration=configured(uri), **keywords
            )  # of equal options the last one counts

        yield daemon, other


def refused(daemon, said):
    """Wait for the end of a daemon that does not start, and check that it says why."""
    with daemon:
        assert daemon.process.wait(30) == 3
        assert said in daemon.log
        assert "Traceback" not in daemon.log


def test_a_run_directory_that_another_service_has_is_refused(tmp_path, in_use):
    daemon, other = in_use
    front = daemon.processes("front")
    refused(
        other("--run-dir", str(daemon.run_dir), "-w", "2"),
        f"daemon.run_dir: {daemon.run_dir} is the run directory of first ({daemon.process.pid}): stop that first",
    )
    assert not (tmp_path / "e").exists()
    assert not (tmp_path / "other/pid").exists()
    assert daemon.ask().endswith(" x")
    assert daemon.status()["pid"] == daemon.process.pid
    assert daemon.processes("front") == front
    assert daemon.stop() == 0


def test_a_run_directory_is_free_when_its_arbiter_was_killed_though_its_processes_live_on(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        pids = [one["pid"] for one in daemon.status()["workers"]]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        daemon.process.kill()
        daemon.process.wait(30)
        (tmp_path / "other").mkdir()
        options = ("--run-dir", str(daemon.run_dir), "-p", str(daemon.pidfile), "-w", "1")
        with RunningDaemon(tmp_path / "other", *options, ready=False) as other:
            wait_until(lambda: [one["pid"] for one in daemon.statuses()] == [other.process.pid])
            other.wait_logged("ready: ")
            assert daemon.pidfile.read_text() == f"{other.process.pid}\n"
            assert other.stop() == 0


def test_a_run_directory_is_that_of_both_arbiters_during_an_upgrade_and_then_of_the_second(tmp_path, in_use):
    daemon, other = in_use
    daemon.send(signal.SIGUSR2)
    first, second = (one["pid"] for one in wait_until(lambda: len(daemon.statuses()) == 2 and daemon.statuses()))
    refused(other("--run-dir", str(daemon.run_dir)), f"the run directory of first ({first}) and first ({second}): stop")
    daemon.wait_logged("ready: ", 2)
    assert daemon.stop() == 0
    refused(other("--run-dir", str(daemon.run_dir)), f"the run directory of first ({second}): stop")
    wait_until(lambda: daemon.pidfile.exists() and daemon.pidfile.read_text() == f"{second}\n")
    assert daemon.ask().endswith(" x")
    os.kill(second, signal.SIGTERM)
    wait_until(lambda: list(daemon.run_dir.iterdir()) == [])


def test_a_pid_file_of_a_process_that_runs_is_refused_and_nothing_is_left(tmp_path, in_use):
    daemon, other = in_use
    refused(
        other("-p", str(daemon.pidfile)),
        f"daemon.pidfile: {daemon.pidfile} is of process {daemon.process.pid}, which runs: stop that first",
    )
    assert not (tmp_path / "other/run").exists()
    assert not (tmp_path / "e").exists()
    assert daemon.pidfile.read_text() == f"{daemon.process.pid}\n"
    assert daemon.ask().endswith(" x")


@pytest.mark.parametrize(("file", "said"), [("no/pid", "there is no directory "), ("run", "cannot be read: Is a dir")])
def test_a_pid_file_that_cannot_be_is_refused(tmp_path, file, said):
    (tmp_path / "run").mkdir(mode=0o700)
    refused(RunningDaemon(tmp_path, "-p", str(tmp_path / file), ready=False), said)


def test_a_stale_pid_file_is_taken_over(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "pid").write_text(f"{ended.pid}\n")
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.pidfile.read_text() == f"{daemon.process.pid}\n"
        assert daemon.stop() == 0
        assert not daemon.pidfile.exists()


def test_what_fails_after_all_was_opened_leaves_nothing(tmp_path, with_hook):
    start, failing = with_hook
    failing.touch()
    with start("on_starting", ready=False) as daemon:
        assert daemon.process.wait(30) == 1
        assert "as the hook wants it" in daemon.log
        assert list(daemon.run_dir.iterdir()) == []
        assert not daemon.pidfile.exists()
        assert not (tmp_path / "e").exists()


def test_the_second_arbiter_is_the_only_one_when_the_first_was_killed(tmp_path, in_use):
    daemon, _ = in_use
    daemon.send(signal.SIGUSR2)
    second = wait_until(lambda: len(daemon.statuses()) == 2 and daemon.status()["pid"])
    daemon.wait_logged("ready: ", 2)
    daemon.process.kill()  # nobody waits for it as yet: to others it seems to run
    wait_until(lambda: daemon.pidfile.read_text() == f"{second}\n")
    assert daemon.ask().endswith(" x")
    os.kill(second, signal.SIGTERM)
    wait_until(lambda: list(daemon.run_dir.iterdir()) == [])


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something to others")
NOBODY = 65534


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o1777])
def test_a_run_directory_that_is_open_to_others_is_refused_with_what_mends_it(tmp_path, mode):
    directory = tmp_path / "a run"
    directory.mkdir()
    directory.chmod(mode)
    daemon = RunningDaemon(tmp_path, "--run-dir", str(directory), ready=False)
    refused(daemon, f"with mode {mode:04o}: others than")
    assert list(directory.iterdir()) == []
    [command] = re.findall(r"mend it by (.*)", daemon.log)
    subprocess.run(command, shell=True, check=True)
    with RunningDaemon(tmp_path, "--run-dir", str(directory), ready=False) as mended:
        mended.wait_logged("ready: ")


@AS_ROOT
def test_a_run_directory_of_somebody_else_is_refused_with_what_mends_it(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    daemon = RunningDaemon(tmp_path, ready=False)
    refused(daemon, "belongs to nobody, with mode 0700: others than root could listen in")
    subprocess.run(re.findall(r"mend it by (.*)", daemon.log)[0], shell=True, check=True)
    with RunningDaemon(tmp_path) as mended:
        assert mended.ask().endswith(" x")


def test_a_run_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "run").write_text("no directory")
    refused(RunningDaemon(tmp_path, ready=False), f"daemon.run_dir: {tmp_path}/run cannot be the run directory: File ")


@AS_ROOT
@pytest.mark.parametrize("owner", [None, 0, NOBODY])
def test_the_run_directory_belongs_to_the_user_of_the_workers(tmp_path, owner):
    directory = tmp_path / "run"
    if owner is not None:
        directory.mkdir(mode=0o700)
        os.chown(directory, owner, owner)
    run_dir = RunDir.make("parrot", (NOBODY, NOBODY), str(directory))
    found = directory.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (NOBODY, NOBODY, 0o700)
    run_dir.remove()
    assert list(directory.iterdir()) == []


# What is found ---------------------------------------------------------------------------------------------------


def status(*options, environment=None, **keywords):
    """Run `dploylib status`."""
    command = [sys.executable, "-m", "dploylib", "status", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, cwd="/", **keywords)


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"])
@pytest.mark.parametrize("where", ["elsewhere", "base", "in base"])
def test_a_service_with_a_run_directory_of_its_own_is_found(tmp_path, variable, where):
    session = tmp_path / "session"
    base = session / "dploylib" if variable == "XDG_RUNTIME_DIR" else session
    base.mkdir(mode=0o700, parents=True)
    run_dir = {"elsewhere": tmp_path / "run", "base": base, "in base": base / "run"}[where]
    environment = {"RUNTIME_DIRECTORY": "", variable: str(session)}
    with RunningDaemon(
        tmp_path, "-n", "parrot", "--run-dir", str(run_dir), environment=environment, ready=False
    ) as daemon:
        daemon.run_dir = run_dir
        daemon.wait_ready()
        for options in ((), ("-p", str(daemon.pidfile)), ("parrot",)):
            done = status(*options, environment=environment)
            assert done.stdout.count("parrot (") == 1, done
            assert done.returncode == 0
        found = json.loads(status("--json", environment=environment).stdout)
        assert found["run_dir"] == str(run_dir)
        assert daemon.stop() == 0
        assert status(environment=environment).returncode == 1
        assert [one.name for one in base.iterdir()] == (["run"] if where == "in base" else [])


def test_a_service_runs_whose_arbiter_is_of_another_user(tmp_path, monkeypatch):
    def not_permitted(pid, number):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    run_dir = RunDir.make("parrot", (os.geteuid(), os.getegid()), str(tmp_path / "run"))
    try:
        run_dir.write_status({"name": "parrot", "started": 1.0})
        monkeypatch.setattr(os, "kill", not_permitted)
        assert [one["name"] for one in statuses(run_dir.path)] == ["parrot"]
    finally:
        run_dir.remove()


@AS_ROOT
def test_root_writes_nothing_where_a_link_of_the_user_leads_to(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    run_dir = RunDir.make("parrot", (NOBODY, NOBODY), str(tmp_path / "run"))
    try:
        Path(f"{run_dir.path}/status.{os.getpid()}.json.new").symlink_to(precious)
        run_dir.write_status({"name": "parrot", "started": 1.0})
        assert precious.read_text() == "as it was"
        assert [one["name"] for one in statuses(run_dir.path)] == ["parrot"]
    finally:
        run_dir.remove()


def test_what_leads_to_a_service_that_was_killed_goes_with_the_next_start(tmp_path):
    (tmp_path / "other").mkdir()
    base = tmp_path / "session/dploylib"
    environment = {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": str(tmp_path / "session")}
    (tmp_path / "session").mkdir()
    with RunningDaemon(tmp_path, environment=environment) as daemon:
        [pointer] = base.iterdir()
        assert pointer.resolve() == daemon.run_dir
    assert pointer.is_symlink()
    assert status(environment=environment).returncode == 1
    with RunningDaemon(tmp_path / "other", environment=environment) as daemon:
        assert [one.resolve() for one in base.iterdir()] == [daemon.run_dir]
        assert not pointer.is_symlink()


def test_what_was_killed_before_it_said_anything_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    names = {"parrot-abcd1234": [], "parrot-locked_1": ["lock"], "parrot-unlocked": ["lock"], "parrot-others_1": ["x"]}
    for name, files in {**names, "parrot-justmade": [], "cache": []}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        if name in names:
            os.utime(tmp_path / name, (0, 0))
    lock = lock_file(lock_path(str(tmp_path / "parrot-locked_1")))
    try:
        RunDir.make("parrot", (os.geteuid(), os.getegid())).remove()
    finally:
        os.close(lock)
    left = {one.name for one in tmp_path.iterdir()}
    assert left == {"parrot-locked_1", "parrot-others_1", "parrot-justmade", "cache"}


def test_a_directory_that_an_arbiter_has_stays_though_another_one_of_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    owner = os.geteuid(), os.getegid()
    run_dir = RunDir.make("parrot", owner)
    with subprocess.Popen(["true"]) as killed:
        pass
    Path(f"{run_dir.path}/status.{killed.pid}.json").write_text("{}")
    RunDir.make("other", owner).remove()
    assert os.path.isdir(run_dir.path)
    run_dir.let_go()
    RunDir.make("other", owner).remove()
    assert not os.path.exists(run_dir.path)


def test_a_service_starts_where_nothing_can_lead_to_it(tmp_path):
    (tmp_path / "session").write_text("no directory")
    environment = {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": str(tmp_path / "session")}
    with RunningDaemon(tmp_path, environment=environment) as daemon:
        assert daemon.ask().endswith(" x")
        assert status("--run-dir", str(daemon.run_dir), environment=environment).returncode == 0
        assert daemon.stop() == 0


def test_both_arbiters_of_an_upgrade_are_shown_and_told_apart(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        daemon.send(signal.SIGUSR2)
        daemon.wait_logged("ready: ", 2)
        states = wait_until(lambda: len(daemon.statuses()) == 2 and daemon.statuses())
        first, second = (one["pid"] for one in states)
        wait_until(lambda: all(one["state"] == "ready" for one in daemon.statuses()))
        wait_until(lambda: daemon.statuses()[0]["successor"] == second)
        for _ in range(3):  # neither overwrites the other
            assert [one["pid"] for one in daemon.statuses()] == [first, second]
            assert [len(one["workers"]) for one in daemon.statuses()] == [3, 2]  # the front is a process of the first
            written = [one["written"] for one in daemon.statuses()]
            wait_until(lambda before=written: min(one["written"] for one in daemon.statuses()) > max(before))
        done = status("--run-dir", str(daemon.run_dir))
        assert done.returncode == 0
        old, new = done.stdout.split(f"parrot ({second}): ready")
        assert old.startswith(f"parrot ({first}): ready")
        assert f"this is the old one, and {second} the new one" in old
        assert f"this is the new one, and {first} the old one" in new
        assert daemon.stop() == 0
        wait_until(lambda: daemon.status()["predecessor"] is None)
        done = status("--run-dir", str(daemon.run_dir))
        assert done.stdout.startswith(f"parrot ({second}): ready")
        assert "upgrade" not in done.stdout
        assert "of the arbiter before this one" in done.stdout  # who has started the front, which goes on
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: list(daemon.run_dir.iterdir()) == [])


@pytest.fixture
def upgrading(tmp_path):
    """A run directory of two arbiters, of which the first is ready, and the second starts, and the pid file of that."""
    run_dir = RunDir.make("parrot", (os.geteuid(), os.getegid()), str(tmp_path / "run"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second:
        first = {"name": "parrot", "pid": os.getpid(), "state": "ready", "started": 1.0, "written": time.time()}
        first |= {"generation": 1, "successor": second.pid, "predecessor": None, "endpoints": {}, "workers": []}
        run_dir.write_status(first)
        changes = {"pid": second.pid, "state": "starting", "predecessor": os.getpid(), "successor": None}
        Path(f"{run_dir.path}/status.{second.pid}.json").write_text(json.dumps(first | changes))
        (tmp_path / "pid.2").write_text(f"{second.pid}\n")
        yield run_dir.path, str(tmp_path / "pid.2")
    run_dir.remove()


def test_a_service_is_ready_during_an_upgrade_and_the_new_one_has_a_status_of_its_own(upgrading):
    run_dir, pidfile = upgrading
    assert status("--run-dir", run_dir).returncode == 0
    done = status("--run-dir", run_dir, "-p", pidfile)
    assert done.stdout.count("parrot (") == 1
    assert done.returncode == 1


def test_the_tests_end_a_second_arbiter_too(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        daemon.send(signal.SIGUSR2)
        wait_until(lambda: len(daemon.statuses()) == 2)
        assert daemon.all_processes() >= {one["pid"] for one in daemon.statuses()}
    assert daemon.all_processes() == set()


# Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
def test_all_paths_may_be_relative_to_a_relative_directory_which_it_changes_to(tmp_path, link):
    if link:
        (tmp_path / "app").mkdir()
        (tmp_path / "link").symlink_to("app")
    environment = {"PYTHONPATH": os.path.relpath(ROOT, tmp_path)}
    options = ("-w", "2", "--log-file", "the.log")
    with RunningDaemon(tmp_path, *options, chdir="link" if link else "app", environment=environment) as daemon:
        daemon.log_file = tmp_path / "app/the.log"
        first = daemon.process
        daemon.new_version("2")
        daemon.reload()
        wait_until(lambda: len(daemon.processes(generation=2)) == 2 and {one for one, _ in daemon.askers()} == {"2"})
        daemon.new_version("3")
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: len(daemon.statuses()) == 2 and daemon.status()["pid"])
        daemon.wait_logged("ready: ", 2)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        wait_until(lambda: daemon.pidfile.exists() and daemon.pidfile.read_text() == f"{second}\n")
        assert {one for one, _ in daemon.askers()} == {"3"}
        os.kill(second, signal.SIGHUP)
        wait_until(lambda: daemon.log.count("reloaded\n") == 2)
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: not daemon.pidfile.exists() and list(daemon.run_dir.iterdir()) == [])
        assert {one.name for one in tmp_path.iterdir()} - {"link"} == {"app", "log"}


def test_a_daemon_that_has_detached_keeps_its_run_directory(tmp_path, in_use):
    (tmp_path / "detached").mkdir()
    with RunningDaemon(tmp_path / "detached", "-D", "--log-file", str(tmp_path / "log2"), ready=False) as daemon:
        assert daemon.process.wait(30) == 0
        pid = wait_until(lambda: daemon.status().get("state") == "ready" and daemon.status()["pid"])
        refused(in_use[1]("--run-dir", str(daemon.run_dir)), f"is the run directory of dploylib ({pid}): stop")
        assert daemon.ask().endswith(" x")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: list(daemon.run_dir.iterdir()) == [])


def checked(*options, what="--check-config", configuration="examples/echo/config.yaml", **environment):
    """What `dploylib serve` says of examples/echo with these options."""
    command = [sys.executable, "-m", "dploylib", "serve", "examples/echo/service.py", "-c", configuration, what]
    environment = {**os.environ, **environment}
    return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5", "1001"])
def test_a_number_of_workers_in_the_environment_that_is_none_is_wrong_usage(value):
    done = checked(WEB_CONCURRENCY=value)
    assert done.returncode == 2
    assert f"Error: WEB_CONCURRENCY={value}: expected a number of workers from 1 to 1000" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_number_of_workers_in_the_environment_is_as_if_it_were_not_set(tmp_path):
    with RunningDaemon(tmp_path, environment={"WEB_CONCURRENCY": ""}) as daemon:
        assert len(daemon.processes()) == 1


def test_the_section_is_printed_as_it_is_used(tmp_path):
    section = {"workers": 2, "max_requests": 100, "servers": {"echo": {"workers": 1}}}
    options = (
        *("-w", "3", "--timeout", "2.5", "-D", "--max-memory", "1G", "-n", "parrot", "--umask", "0o027"),
        *("--set", f"daemon={json.dumps(section)}", "--set", "general={password: hidden}"),
    )
    done = checked(*options, what="--print-config")
    assert done.returncode == 0
    printed = yaml.safe_load(done.stdout)
    assert printed["daemon"] == section | {
        "workers": 3,
        "timeout": 2.5,
        "daemon": True,
        "max_memory": "1G",
        "name": "parrot",
        "umask": "0o027",
    }
    assert printed["general"] == {"password": "***"}
    (tmp_path / "printed.yaml").write_text(done.stdout)
    again = checked(what="--print-config", configuration=str(tmp_path / "printed.yaml"))
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_the_number_of_workers_in_the_environment_is_printed_unless_another_one_is_said():
    printed = [
        yaml.safe_load(checked(*options, what="--print-config", WEB_CONCURRENCY="4").stdout)["daemon"]["workers"]
        for options in ((), ("--set", "daemon.workers=2"), ("-w", "3"))
    ]
    assert printed == [4, 2, 3]


def test_names_of_servers_are_no_secrets_in_the_section_either():
    text = as_yaml(Settings({"servers": {}, "daemon": {"servers": {"tokens": {"workers": 1}}}}))
    assert yaml.safe_load(text)["daemon"] == {"servers": {"tokens": {"workers": 1}}}


# Syslog ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["udp", "unix"])
def syslog(tmp_path, request):
    """A syslog server: a socket, and its address."""
    if request.param == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            yield server, f"udp://127.0.0.1:{server.getsockname()[1]}"
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(tmp_path / "s"))
            yield server, f"unix://{tmp_path}/s#dgram"


@pytest.mark.parametrize(("options", "tag"), [((), "parrot_1"), (("--log-syslog-prefix", "bird"), "bird")])
def test_lines_in_syslog_begin_with_the_name_of_the_service(tmp_path, syslog, options, tag):
    server, address = syslog
    options = ("-n", "parrot:1", "--log-syslog", "--log-syslog-to", address, *options)
    lines = []
    with RunningDaemon(tmp_path, *options) as daemon:
        pids = {daemon.process.pid, *daemon.processes()}
        assert daemon.stop() == 0
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            lines.append(server.recv(65536).decode())
    found = [re.fullmatch(rf"<\d+>{tag}\[(\d+)\]: INFO ([\w.]+): (.*)\0", line) for line in lines]
    assert all(found), lines
    assert {int(one[1]) for one in found} == pids
    assert {one[2] for one in found} >= {"dploylib.daemon", "dploylib.services.service"}
    said = [one[3] for one in found]
    assert said[0].startswith("starting dploylib")
    assert said[-1] == "Shutting down: parrot:1"


def test_options_end_where_two_dashes_say_so(tmp_path):
    (tmp_path / "target_service.py").write_text((ROOT / "tests/daemon/daemon_target.py").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configured()))
    command = [sys.executable, "-m", "dploylib", "serve", "--check-config", "-c", "config.yaml", "--"]
    done = subprocess.run(
        [*command, "target_service.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", [("--log-file", "/nowhere/log"), ("--log-syslog", "--log-syslog-facility", "odd")])
def test_a_log_that_cannot_be_opened_is_told_in_a_line(tmp_path, option):
    with RunningDaemon(tmp_path, *option, ready=False) as daemon:
        assert daemon.process.wait(30) == 3
    assert "daemon: the log cannot be opened: " in daemon.log
    assert "Traceback" not in daemon.log
    assert not list(tmp_path.glob("run/*"))

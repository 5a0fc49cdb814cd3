"""`dploylib serve`: the processes that it runs, its signals and reloads, and what is left of it."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from tests.daemon.running import ROOT, RunningDaemon, wait_until

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

BALANCE = pytest.mark.parametrize("balance", ["messages", "connections"])


def configured(sockets=None, servers=None, **sections):
    """A configuration of the server echo with these sockets, and others."""
    echo = {
        name: {"uri": "tcp://127.0.0.1:*"} | settings for name, settings in ({"request": {}} | (sockets or {})).items()
    }
    return {"servers": {"echo": echo} | (servers or {}), **sections}


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_files(pid: int) -> set[str]:
    """The paths of what this process has open."""
    found = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(one))
    return found


def refuses(endpoint: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == errno.ECONNREFUSED


def killed(pid: int) -> bool:
    """Kill this process; False when there is none: what the status says may be a second old."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def serve(directory, *arguments, code="", configuration=None):
    """Run the command to its end."""
    (directory / "target_service.py").write_text((ROOT / "tests/daemon/daemon_target.py").read_text() + code)
    (directory / "config.yaml").write_text(json.dumps(configuration or configured()))
    command = [sys.executable, "-m", "dploylib", "serve", "target_service.py", "-c", "config.yaml", *arguments]
    return subprocess.run(
        command, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30
    )


# Starting and stopping -------------------------------------------------------------------------------------------


@BALANCE
def test_workers_answer_and_nothing_is_left_after_the_stop(tmp_path, balance):
    path = tmp_path / "e"
    configuration = configured({"request": {"uri": f"ipc://{path}"}})
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance, configuration=configuration) as daemon:
        wait_until(lambda: {pid for _, pid in daemon.askers()} == set(daemon.processes()))
        assert len(daemon.processes("front")) == (balance == "messages")
        assert os.stat(path).st_mode & 0o777 == 0o600
        pids = [one["pid"] for one in daemon.status()["workers"]]
        assert daemon.stop() == 0
        assert not any(map(running, pids))
        assert not path.exists()
        assert not daemon.pidfile.exists()
        assert list(daemon.run_dir.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_running_handler_finishes_at_a_graceful_stop_and_is_told_of_a_quick_one(tmp_path, number):
    with RunningDaemon(tmp_path, "-w", "2", configuration=configured({"told": {}})) as daemon:
        endpoint = daemon.endpoint("echo.told")
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.connect(endpoint)
            req.send_multipart([b"", b"text/plain", b"wait 1"])
            wait_until(lambda: daemon.status()["front"]["lanes"]["echo.told"]["in_flight"] == 1)
            assert daemon.stop(number) == 0
            assert req.poll(5000)
            answer = req.recv_multipart()[-1]
        assert answer.endswith(b" wait") == (number == signal.SIGTERM)
        assert (b"urn:dploylib" in answer) == (number != signal.SIGTERM)


def test_a_service_that_cannot_start_says_why_and_leaves_nothing(tmp_path):
    code = (
        "\nclass Failing(Echo):\n    def setup(self):\n        raise OSError('no such luck')\n\nservice = Service()\n"
    )
    done = serve(tmp_path, "-w", "2", "--run-dir", "run", code=f"{code}service.add_server('echo', Failing)\n")
    assert done.returncode == 1
    assert "no such luck" in done.stderr
    assert "could not start" in done.stderr
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("options", "code", "configuration", "status", "said"),
    [
        ([], "\ndef (:\n", None, 4, "SyntaxError"),
        ([], "", configured() | {"bogus": 1}, 3, "bogus: unknown key"),
        (["-w", "x"], "", None, 2, "--workers"),
        (["-w", "0"], "", None, 2, "--workers"),
        (["--max-memory", "5 apples"], "", None, 2, "expected a number of bytes"),
        (["-u", "nobody-of-this-name"], "", None, 3, "daemon.user: No such user"),
        (["--chdir", "/nowhere"], "", None, 2, "No such file or directory"),
        ([], "", configured(daemon={"hooks": {"when_ready": "no.such:thing"}}), 3, "daemon.hooks.when_ready"),
        ([], "", configured(daemon={"hooks": {"when_ready": "os:getpid"}}), 3, "daemon.hooks.when_ready"),
        ([], "", configured({"request": {"uri": "tcp://127.0.0.1:1/x"}}), 3, "servers.echo.request.uri"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, options, code, configuration, status, said):
    done = serve(tmp_path, *options, code=code, configuration=configuration)
    assert said in done.stderr
    assert done.returncode == status
    assert "starts" not in done.stderr


def test_an_address_in_use_is_named_with_its_socket(tmp_path, taken):
    done = serve(tmp_path, configuration=configured({"request": {"uri": taken}}))
    assert done.returncode == 7
    assert f"echo.request: cannot bind to {taken}: somebody else listens there" in done.stderr


def test_an_ipc_endpoint_in_use_is_not_stolen(tmp_path):
    uri = f"ipc://{tmp_path}/e"
    (tmp_path / "first").mkdir()
    with RunningDaemon(tmp_path / "first", configuration=configured({"request": {"uri": uri}})) as daemon:
        assert serve(tmp_path, configuration=configured({"request": {"uri": uri}})).returncode == 7
        assert daemon.ask().endswith(" x")


def test_the_check_says_what_would_run(tmp_path):
    done = serve(tmp_path, "-w", "3", "--check-config")
    assert (done.returncode, done.stdout) == (0, "OK: 3 x echo; a front for echo.request\n")


def test_the_configuration_that_is_used_is_printed(tmp_path):
    done = serve(tmp_path, "--print-config", "--set", "daemon.workers=3")
    assert done.returncode == 0
    assert "workers: 3" in done.stdout


def test_a_daemon_detaches_and_is_found_by_its_pid_file(tmp_path):
    log = tmp_path / "the.log"
    done = serve(tmp_path, "-D", "-p", "the.pid", "--run-dir", str(tmp_path / "run"), "--log-file", str(log))
    assert done.returncode == 0
    pid = wait_until(lambda: (tmp_path / "the.pid").exists() and int((tmp_path / "the.pid").read_text() or 0))
    wait_until(lambda: "ready:" in log.read_text())
    found = subprocess.run(
        [sys.executable, "-m", "dploylib", "status", "--run-dir", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert found.returncode == 0
    assert f"({pid}): ready" in found.stdout
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not running(pid))
    assert not (tmp_path / "the.pid").exists()


def test_fifty_starts_and_stops_leave_nothing(tmp_path):
    path = tmp_path / "e"
    for number in range(int(os.environ.get("HARD_ROUNDS", "5"))):
        balance = ("messages", "connections")[number % 2]
        with RunningDaemon(
            tmp_path, "-w", "2", "--balance", balance, configuration=configured({"request": {"uri": f"ipc://{path}"}})
        ) as daemon:
            pids = [one["pid"] for one in daemon.status()["workers"]]
            assert daemon.ask().endswith(" x")
            assert daemon.stop((signal.SIGTERM, signal.SIGINT)[number % 2]) == 0
        assert not any(map(running, pids))
        left = {one.name for one in tmp_path.iterdir()} - {"__pycache__"}
        assert left == {"config.yaml", "log", "run", "target_service.py"}
        assert list(daemon.run_dir.iterdir()) == []


def test_when_the_arbiter_is_killed_the_others_end_and_the_next_one_starts(tmp_path):
    configuration = configured({"request": {"uri": f"ipc://{tmp_path}/e"}})
    with RunningDaemon(tmp_path, "-w", "2", configuration=configuration) as daemon:
        pids = [one["pid"] for one in daemon.status()["workers"]]
        daemon.process.kill()
        wait_until(lambda: not any(map(running, pids)), "the end of the workers")
    with RunningDaemon(tmp_path, "-w", "2", configuration=configuration) as daemon:
        assert daemon.ask().endswith(" x")


# Reloading -------------------------------------------------------------------------------------------------------


@BALANCE
def test_a_reload_brings_the_new_code_and_the_new_configuration(tmp_path, balance):
    configuration = configured({"told": {}}, general={"greeting": "hello"})
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance, configuration=configuration) as daemon:
        before = daemon.processes()
        daemon.new_version("2")
        daemon.configure(configuration | {"general": {"greeting": "good day"}})
        daemon.reload()
        wait_until(lambda: len(daemon.processes(generation=2)) == 2 and len(daemon.processes(state="leaving")) == 0)
        assert {version for version, _ in daemon.askers()} == {"2"}
        assert daemon.ask("greet", "echo.told") == "good day"
        assert not set(before) & set(daemon.processes())
        assert "general.greeting has changed: applied" in daemon.log


@pytest.fixture
def taken():
    """An endpoint that somebody else is bound to."""
    with zmq.Context() as context, context.socket(zmq.REP) as rep:
        rep.bind("tcp://127.0.0.1:*")
        yield rep.last_endpoint.decode()


@BALANCE
@pytest.mark.parametrize("broken", ["code", "configuration", "endpoint", "setup"])
def test_a_reload_that_would_fail_changes_nothing(tmp_path, balance, broken, taken):
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance) as daemon:
        before = daemon.processes()
        if broken == "code":
            daemon.service.write_text("def (:")
        elif broken == "configuration":
            daemon.configure(configured({"request": {"urii": "tcp://127.0.0.1:*"}}))
        elif broken == "setup":
            text = daemon.service.read_text()
            daemon.service.write_text(f"{text}\nEcho.setup = lambda self: 1 / 0\n")
        else:
            daemon.configure(configured({"request": {"uri": taken}}))
        daemon.send(signal.SIGHUP)
        daemon.wait_logged("not reloaded, nothing has changed")
        wait_until(lambda: daemon.processes() == before)
        assert daemon.askers() <= {("1", pid) for pid in before}
        daemon.service.write_text((ROOT / "tests/daemon/daemon_target.py").read_text())
        daemon.configure(configured({"request": {"timeout": 5}}))
        daemon.reload()  # it is none the worse
        wait_until(lambda: len(daemon.processes()) == 2 and not set(before) & set(daemon.processes()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_service_can_be_stopped_while_a_reload_is_checked(tmp_path, number):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        daemon.service.write_text("import time\n\nopen('begun', 'w').close()\ntime.sleep(1000)\n")
        daemon.send(signal.SIGHUP)
        wait_until((tmp_path / "begun").exists)
        assert daemon.stop(number) == 0, daemon.log
        assert not daemon.all_processes()
        assert "Traceback" not in daemon.log
        assert list(daemon.run_dir.iterdir()) == []


def test_a_worker_that_starts_takes_the_signal_for_log_files(tmp_path):
    slow = "import os, time\n\nopen('begun', 'w').close()\nwhile os.path.exists('slow'):\n    time.sleep(0.01)\n\n"
    file = tmp_path / "the.log"
    with RunningDaemon(tmp_path, "-w", "2", "--log-file", str(file)) as daemon:
        daemon.service.write_text(
            f"import sys\n\nif '--plan-fd' not in sys.argv:\n    {slow.strip().replace(chr(10), chr(10) + '    ')}\n"
            + daemon.service.read_text()
        )
        (tmp_path / "slow").touch()
        daemon.send(signal.SIGHUP)
        wait_until((tmp_path / "begun").exists)
        file.rename(tmp_path / "the.log.1")
        daemon.send(signal.SIGUSR1)
        wait_until(file.exists)
        (tmp_path / "slow").unlink()
        wait_until(lambda: "reloaded\n" in file.read_text())


@BALANCE
def test_endpoints_come_and_go_with_a_reload(tmp_path, balance):
    uris = [f"ipc://{tmp_path}/{name}" for name in "ab"]
    with RunningDaemon(
        tmp_path, "-w", "2", "--balance", balance, configuration=configured({"request": {"uri": uris[0]}})
    ) as daemon:
        assert daemon.ask().endswith(" x")
        daemon.configure(configured({"request": {"uri": uris[1]}, "told": {}}))
        daemon.reload()
        wait_until(lambda: daemon.endpoint() == uris[1])
        assert daemon.ask().endswith(" x")
        assert daemon.ask("greet", "echo.told") == "hello"
        wait_until(lambda: not (tmp_path / "a").exists())
        assert "servers.echo.request.uri has changed: applied" in daemon.log


@BALANCE
def test_nobody_listens_at_an_endpoint_that_a_reload_has_removed_and_it_can_come_back(tmp_path, balance):
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance, configuration=configured({"told": {}})) as daemon:
        endpoint = daemon.endpoint("echo.told")
        daemon.configure(configured())
        daemon.reload()
        wait_until(lambda: refuses(endpoint))
        daemon.configure(configured({"told": {"uri": endpoint}}))
        daemon.reload()
        assert daemon.ask("wait 0", "echo.told").endswith(" wait")


def test_what_needs_a_restart_is_named_and_stays_as_it_was(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        daemon.configure(
            configured({"request": {"options": {"sndhwm": 5}, "timeout": 3}}, daemon={"umask": "0o077", "timeout": 20})
        )
        daemon.reload()
        for path, what in {
            "daemon.umask": "needs a restart",
            "servers.echo.request.options.sndhwm": "needs a restart",
            "servers.echo.request.timeout": "applied",
            "daemon.timeout": "applied",
        }.items():
            assert f"{path} has changed: {what}" in daemon.log
        assert daemon.ask().endswith(" x")


def test_a_service_begins_and_ceases_to_balance_messages_with_a_reload(tmp_path):
    with RunningDaemon(tmp_path, configuration=configured(daemon={"workers": 1})) as daemon:
        assert daemon.processes("front") == []
        daemon.configure(configured(daemon={"workers": 2}))
        daemon.reload()
        wait_until(lambda: len(daemon.processes("front")) == 1 and len(daemon.processes()) == 2)
        wait_until(lambda: {pid for _, pid in daemon.askers()} == set(daemon.processes()))
        daemon.configure(configured(daemon={"workers": 2, "balance": "connections"}))
        daemon.reload()
        wait_until(lambda: daemon.processes("front") == [] and len(daemon.processes()) == 2)
        assert daemon.ask().endswith(" x")


@BALANCE
def test_the_front_is_as_it_was_until_a_reload_that_changes_the_balance_succeeds(tmp_path, balance):
    other = {"messages": "connections", "connections": "messages"}[balance]
    file = {"servers": {"echo": {"request": {"uri": f"ipc://{tmp_path}/echo"}}}}
    before = file | {"daemon": {"workers": 2, "balance": balance}}
    with RunningDaemon(tmp_path, configuration=before) as daemon:
        text, fronts = daemon.service.read_text(), daemon.processes("front")
        daemon.configure(file | {"daemon": {"workers": 2, "balance": other}})
        waits = "while os.path.exists('slow'):\n        gevent.sleep(0.01)\n"
        daemon.service.write_text(
            f"{text}\ndef slowly(self):\n    open('begun', 'w').close()\n    {waits}    1 / 0\n\nEcho.setup = slowly\n"
        )
        (tmp_path / "slow").touch()
        daemon.send(signal.SIGHUP)
        wait_until((tmp_path / "begun").exists)
        wait_until(lambda: daemon.processes(state="starting"))
        if balance == "connections":  # else new workers accept connections already
            assert {version for version, _ in daemon.askers()} == {"1"}
        assert daemon.processes("front") == fronts
        (tmp_path / "slow").unlink()
        daemon.wait_logged("not reloaded, nothing has changed")
        wait_until(lambda: len(daemon.status()["workers"]) == 2 + len(fronts))
        assert {version for version, _ in daemon.askers()} == {"1"}
        assert daemon.processes("front") == fronts
        daemon.new_version("2")
        daemon.reload()
        roles = sorted(["worker", "worker", *(["front"] if other == "messages" else [])])
        wait_until(lambda: sorted(one["role"] for one in daemon.status()["workers"]) == roles)
        assert {version for version, _ in daemon.askers()} == {"2"}
        assert daemon.stop() == 0


def test_code_that_changes_is_reloaded_while_one_develops(tmp_path):
    with RunningDaemon(tmp_path, "--reload", "-w", "2") as daemon:
        ahead = time.time() + 5
        daemon.service.write_text("def (:")
        os.utime(daemon.service, (ahead, ahead))
        daemon.wait_logged("not reloaded")
        daemon.new_version("2")
        os.utime(daemon.service, (ahead + 5, ahead + 5))
        wait_until(lambda: daemon.ask().startswith("2 "))
        assert daemon.log.count("reloading: checking") == 2  # though each worker tells of it, again and again


# Signals ---------------------------------------------------------------------------------------------------------


def test_workers_are_added_and_removed_by_signals(tmp_path):
    with RunningDaemon(tmp_path, "-w", "1") as daemon:
        for number, workers in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
            daemon.send(number)
            wait_until(lambda n=workers: len(daemon.processes()) == n and not daemon.processes(state="leaving"))
        daemon.send(signal.SIGTTOU)
        daemon.wait_logged("Handling signal: ttou", 3)
        daemon.send(signal.SIGTTIN)
        wait_until(lambda: len(daemon.processes()) == 2)


@pytest.mark.parametrize("where", ["setup", "load"])
def test_of_too_many_workers_one_that_still_starts_goes_first_and_without_complaint(tmp_path, where):
    code = (
        "\ndef slowly(self, *arguments, **keywords):\n    while os.path.exists('slow'):\n"
        "        open('begun', 'w').close()\n        gevent.sleep(0.01)\n"
        "    return before(self, *arguments, **keywords)\n"
    )
    name = {"setup": "Echo.setup", "load": "Service.load"}[where]
    with RunningDaemon(tmp_path, "-w", "1", code=f"\nbefore = {name}\n{code}\n{name} = slowly\n") as daemon:
        [ready] = daemon.processes()
        (tmp_path / "slow").touch()
        daemon.send(signal.SIGTTIN)
        wait_until((tmp_path / "begun").exists)
        [new] = wait_until(lambda: daemon.processes(state="starting"))
        daemon.send(signal.SIGTTOU)
        wait_until(lambda: daemon.processes(state="leaving") == [new] or not running(new), daemon.log)
        (tmp_path / "slow").unlink()
        wait_until(lambda: not running(new))
        assert daemon.askers() == {("1", ready)}
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log
        assert "ERROR" not in daemon.log


def test_a_signal_that_comes_while_the_service_begins_is_heeded(tmp_path):
    (tmp_path / "operations.py").write_text(
        "import os, signal\n\n\ndef hup(arbiter):\n"
        "    os.kill(int(open('pid').read()), signal.SIGHUP)\n    arbiter.log.info('sent')\n"
    )
    configuration = configured(daemon={"hooks": {"on_starting": "operations:hup"}})
    with RunningDaemon(tmp_path, "-w", "2", configuration=configuration) as daemon:
        daemon.wait_logged("sent")
        daemon.wait_logged("reloaded\n")
        assert daemon.ask().endswith(" x")


def test_log_files_are_opened_again(tmp_path):
    file = tmp_path / "the.log"
    with RunningDaemon(tmp_path, "--log-file", str(file), "--log-format", "json") as daemon:
        assert all(json.loads(line)["process"] for line in file.read_text().splitlines())
        file.rename(tmp_path / "old.log")
        daemon.send(signal.SIGUSR1)
        wait_until(file.exists)
        daemon.send(signal.SIGTTIN)
        wait_until(lambda: "2 workers" in file.read_text() and "is at" in file.read_text())


@pytest.mark.parametrize("upgraded", [False, True], ids=["of this arbiter", "of the arbiter before"])
def test_the_front_opens_its_log_files_again_too(tmp_path, upgraded):
    file, moved = tmp_path / "the.log", tmp_path / "old.log"
    with RunningDaemon(tmp_path, "-w", "2", "--log-file", str(file)) as daemon:
        [front] = daemon.processes("front")
        if upgraded:
            daemon.send(signal.SIGUSR2)
            wait_until(lambda: file.read_text().count("ready: ") == 2)
            daemon.send(signal.SIGTERM)
            assert daemon.process.wait(30) == 0
            wait_until(lambda: daemon.pidfile.exists() and daemon.status()["pid"] == int(daemon.pidfile.read_text()))
        arbiter = daemon.status()["pid"]
        file.rename(moved)
        os.kill(arbiter, signal.SIGUSR1)
        for pid in (arbiter, front, *daemon.processes()):
            wait_until(lambda pid=pid: str(file) in open_files(pid) and str(moved) not in open_files(pid))
        os.kill(arbiter, signal.SIGTERM)
        wait_until(lambda: not running(arbiter) and not running(front))


@BALANCE
def test_a_second_arbiter_takes_the_place_of_the_first(tmp_path, balance):
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance) as daemon:
        first, front = daemon.process, daemon.processes("front")
        endpoint = daemon.endpoint()
        daemon.new_version("2")
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: daemon.status()["pid"] not in (0, first.pid) and daemon.status()["pid"])
        wait_until(lambda: daemon.status()["pid"] == second and len(daemon.processes()) == 2)
        versions = set()  # with connections, the kernel chooses who is asked
        wait_until(lambda: versions.update(version for version, _ in daemon.askers()) or versions == {"1", "2"})
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        wait_until(lambda: daemon.pidfile.exists() and int(daemon.pidfile.read_text() or 0) == second)
        assert {version for version, _ in daemon.askers()} == {"2"}
        assert daemon.endpoint() == endpoint
        assert all(map(running, front))
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: not any(map(running, [second, *front])))
        assert list(daemon.run_dir.iterdir()) == []
        assert not daemon.pidfile.exists()


def test_a_second_arbiter_listens_where_its_configuration_says_and_nowhere_else(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2", configuration=configured({"told": {}})) as daemon:
        endpoint = daemon.endpoint("echo.told")
        daemon.configure(configured())
        daemon.send(signal.SIGUSR2)
        second = wait_until(
            lambda: next((one["pid"] for one in daemon.statuses()[1:] if one["state"] == "ready"), None), daemon.log
        )
        assert daemon.stop() == 0
        wait_until(lambda: daemon.status()["predecessor"] is None)
        wait_until(lambda: refuses(endpoint))
        assert daemon.ask().endswith(" x")
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: not daemon.all_processes(), daemon.log)


def test_two_arbiters_that_are_told_to_stop_at_once_leave_nothing(tmp_path):
    configuration = {"servers": {"echo": {"request": {"uri": f"ipc://{tmp_path}/echo"}}}}
    with RunningDaemon(tmp_path, "-w", "2", configuration=configuration) as daemon:
        daemon.send(signal.SIGUSR2)
        second = wait_until(
            lambda: next((one["pid"] for one in daemon.statuses()[1:] if one["state"] == "ready"), None), daemon.log
        )
        os.kill(second, signal.SIGTERM)
        assert daemon.stop() == 0, daemon.log
        wait_until(lambda: not daemon.all_processes(), daemon.log)
        left = {one.name for one in tmp_path.iterdir()} - {"__pycache__"}
        assert left == {"target_service.py", "config.yaml", "log", "run"}
        assert not [*daemon.run_dir.iterdir()]


def test_of_a_second_arbiter_that_is_killed_nothing_is_left(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: next((one["pid"] for one in daemon.statuses()[1:]), None), daemon.log)
        wait_until((tmp_path / "pid.2").exists)
        os.kill(second, signal.SIGKILL)
        daemon.wait_logged(f"the new arbiter {second} has ended")
        assert not (tmp_path / "pid.2").exists()
        assert not (daemon.run_dir / f"status.{second}.json").exists()
        assert daemon.ask().endswith(" x")
        assert daemon.stop() == 0
        wait_until(lambda: not daemon.all_processes(), daemon.log)


def test_a_second_arbiter_that_cannot_start_changes_nothing(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon:
        daemon.service.write_text("def (:")
        daemon.send(signal.SIGUSR2)
        daemon.wait_logged("the new arbiter")
        wait_until(lambda: daemon.status()["pid"] == daemon.process.pid and daemon.status()["state"] == "ready")
        assert {version for version, _ in daemon.askers()} == {"1"}
        assert daemon.stop() == 0


# Where servers run -----------------------------------------------------------------------------------------------

NEWS = "\nservice.add_server('news', News)\n"
NEWS_SOCKETS = {"news": {"out": {"uri": "tcp://127.0.0.1:*"}, "announce": {"uri": "tcp://127.0.0.1:*"}}}


def test_what_workers_cannot_share_is_refused_with_the_way_out(tmp_path):
    done = serve(tmp_path, "-w", "2", code=NEWS, configuration=configured(servers=NEWS_SOCKETS))
    assert done.returncode == 3
    assert "servers.news.out: news.out is a bound pub socket, and 2 workers cannot share it" in done.stderr
    assert "daemon: {servers: {news: {workers: 1}}}" in done.stderr
    assert "ForwarderServer" in done.stderr


def test_with_one_worker_nothing_has_to_be_said_of_it_and_workers_can_be_added(tmp_path):
    with RunningDaemon(tmp_path, code=NEWS, configuration=configured(servers=NEWS_SOCKETS)) as daemon:
        assert len(daemon.processes("single")) == len(daemon.processes()) == 1
        daemon.send(signal.SIGTTIN)
        wait_until(lambda: len(daemon.processes()) == 2)
        assert len(daemon.processes("single")) == 1


def test_a_server_of_which_there_is_one_is_never_in_two_processes_and_is_started_again(tmp_path):
    configuration = configured(servers=NEWS_SOCKETS, daemon={"servers": {"news": {"workers": 1}}})
    with RunningDaemon(tmp_path, "-w", "2", code=NEWS, configuration=configuration) as daemon:  # noqa: SIM117 - one is in the other
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.linger = 0
            sub.subscribe(b"")
            sub.connect(daemon.endpoint("news.out"))

            def heard() -> bool:
                daemon.ask("hear, hear", "news.announce")
                return bool(sub.poll(100))

            wait_until(heard)
            [first] = daemon.processes("single")
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: daemon.processes("single") not in ([], [first]))
            while sub.poll(0):
                sub.recv_multipart()
            wait_until(heard)
            [second] = daemon.processes("single")
            daemon.reload()
            wait_until(lambda: daemon.processes("single") not in ([], [second]))
            assert daemon.log.index(f"single {second} ends") < daemon.log.index(
                f"single {daemon.processes('single')[0]} starts"
            )


def test_a_reload_is_taken_back_when_the_server_of_which_there_is_one_cannot_start(tmp_path):
    configuration = configured(servers=NEWS_SOCKETS, daemon={"servers": {"news": {"workers": 1}}})
    with RunningDaemon(tmp_path, "-w", "2", code=NEWS, configuration=configuration) as daemon:
        before, [single] = daemon.processes(), daemon.processes("single")
        text = daemon.service.read_text()
        daemon.service.write_text(f"{text}\nNews.setup = lambda self: 1 / 0\n")
        daemon.send(signal.SIGHUP)
        daemon.wait_logged("not reloaded, nothing has changed: single")
        daemon.service.write_text(text)  # or the one that takes its place could not start either
        wait_until(lambda: daemon.processes() == before and daemon.processes("single") not in ([], [single]))
        assert "reloaded\n" not in daemon.log.replace("not reloaded", "")
        assert daemon.ask("x", "news.announce").endswith(" x")
        daemon.reload()
        wait_until(lambda: len(daemon.processes()) == 2 and not set(before) & set(daemon.processes()))


def test_a_single_process_that_is_killed_while_a_reload_is_checked_is_started_again(tmp_path):
    configuration = configured(servers=NEWS_SOCKETS, daemon={"servers": {"news": {"workers": 1}}})
    go_on = tmp_path / "go_on"
    with RunningDaemon(tmp_path, "-w", "2", code=NEWS, configuration=configuration) as daemon:
        before, [single] = daemon.processes(), daemon.processes("single")
        text = daemon.service.read_text()
        daemon.service.write_text(
            f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.02)\n{text}"
        )
        daemon.send(signal.SIGHUP)
        daemon.wait_logged("reloading: checking the configuration and the code")
        os.kill(single, signal.SIGKILL)
        os.kill(before[0], signal.SIGKILL)
        daemon.wait_logged("was ended by SIGKILL", 2)
        assert daemon.ask("x")
        go_on.touch()
        daemon.wait_logged("reloaded\n")
        assert "not reloaded" not in daemon.log
        assert daemon.ask("x", "news.announce").endswith(" x")


def test_inproc_endpoints_work_when_both_servers_are_in_every_worker(tmp_path):
    code = "\nservice.add_server('inner', Inner)\n"
    inner = {"inner": {"inner": {"uri": "inproc://inner"}}}
    done = serve(tmp_path, "-w", "2", "--check-config", code=code, configuration=configured(servers=inner))
    assert done.stdout == "OK: 2 x echo, inner; a front for echo.request\n"


def test_inproc_endpoints_of_servers_in_different_processes_are_refused(tmp_path):
    code = "\nservice.add_server('inner', Inner)\nservice.add_server('reader', Reader)\n"
    servers = {"inner": {"inner": {"uri": "inproc://inner"}}, "reader": {"feed": {"uri": "inproc://inner"}}}
    configuration = configured(servers=servers, daemon={"servers": {"inner": {"workers": 1}}})
    done = serve(tmp_path, "-w", "2", code=code, configuration=configuration)
    assert done.returncode == 3
    assert "servers.inner.inner.uri: inproc://inner is known within one process only" in done.stderr
    assert "'reader'" in done.stderr


# Workers that are not well ---------------------------------------------------------------------------------------


@BALANCE
def test_a_worker_that_is_blocked_is_replaced(tmp_path, balance):
    configuration = configured({"told": {}})
    with RunningDaemon(
        tmp_path, "-w", "2", "--balance", balance, "--timeout", "3", configuration=configuration
    ) as daemon:
        before = daemon.processes()
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.connect(daemon.endpoint("echo.told"))
            req.send_multipart([b"", b"text/plain", b"block 60"])
            daemon.wait_logged("WORKER TIMEOUT")
            daemon.wait_logged("nothing else ran for more than 3 s")
            wait_until(lambda: len(daemon.processes()) == 2 and daemon.processes() != before)
            if balance == "messages":
                assert req.poll(10_000)
                assert b"urn:dploylib:worker-lost" in req.recv_multipart()[-1]
        assert "told" in daemon.log  # the stack says who it was


def test_a_worker_is_replaced_when_one_of_its_servers_is_blocked_in_a_thread_of_its_own(tmp_path):
    code = """
from dploylib.services import ThreadedServerCoordinator

service = Service(coordinator=ThreadedServerCoordinator())
service.add_server("echo", Echo)
service.add_server("inner", Inner)
"""
    configuration = configured({"told": {}}, {"inner": {"inner": {"uri": "tcp://127.0.0.1:*"}}})
    with RunningDaemon(tmp_path, "-w", "2", "--timeout", "3", configuration=configuration, code=code) as daemon:
        before = daemon.processes()
        assert daemon.ask("wait 5", "echo.told").endswith(" wait")
        assert "TIMEOUT" not in daemon.log
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.connect(daemon.endpoint("echo.told"))
            req.send_multipart([b"", b"text/plain", b"block 60"])
            daemon.wait_logged("WORKER TIMEOUT")
            wait_until(lambda: len(daemon.processes()) == 2 and daemon.processes() != before)
            assert req.poll(10_000)
            assert b"urn:dploylib:worker-lost" in req.recv_multipart()[-1]
        assert daemon.ask("y", "inner.inner").endswith(" y")


def test_a_worker_that_waits_is_not_blocked(tmp_path):
    with RunningDaemon(tmp_path, "--timeout", "3", configuration=configured({"told": {}})) as daemon:
        assert daemon.ask("wait 5", "echo.told").endswith(" wait")
        assert "TIMEOUT" not in daemon.log


@BALANCE
def test_a_worker_is_replaced_after_so_many_messages(tmp_path, balance):
    with RunningDaemon(tmp_path, "-w", "2", "--balance", balance, "--max-requests", "20") as daemon:
        before = set(daemon.processes())

        def replaced() -> bool:
            # With connections, one that comes to a worker that stops is told that it does; or lost, as it closes.
            with contextlib.suppress(*([zmq.Again] if balance == "connections" else [])):
                daemon.ask()
            return not before & set(daemon.processes()) and len(daemon.processes()) == 2

        wait_until(replaced)
        assert daemon.log.count("is replaced: it has received") >= 2


def test_a_worker_is_replaced_when_it_uses_too_much_memory(tmp_path):
    with RunningDaemon(
        tmp_path, "-w", "1", "--balance", "messages", "--max-memory", "150M", configuration=configured({"told": {}})
    ) as daemon:
        [before] = daemon.processes()
        daemon.ask("grow 200", "echo.told")
        wait_until(lambda: daemon.processes() not in ([], [before]) and not daemon.processes(state="leaving"))
        assert "is replaced: it uses" in daemon.log


def test_workers_that_keep_ending_are_started_again_more_and_more_slowly(tmp_path):
    with RunningDaemon(tmp_path, configuration=configured({"told": {}})) as daemon:
        for number in range(3):
            wait_until(lambda: any(killed(pid) for pid in daemon.processes()))
            daemon.wait_logged("was ended by SIGKILL", number + 1)
        daemon.wait_logged("processes end soon after their start: the next one is started in 0.")
        wait_until(daemon.processes)
        assert daemon.ask().endswith(" x")


def test_a_front_that_is_killed_is_replaced_and_clients_only_connect_again(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2") as daemon, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(daemon.endpoint())
        [front] = daemon.processes("front")

        def answered() -> bool:
            dealer.send_multipart([b"", b"", b"text/plain", b"x"])
            return bool(dealer.poll(200))

        wait_until(answered)
        os.kill(front, signal.SIGKILL)
        wait_until(lambda: daemon.processes("front") not in ([], [front]))
        while dealer.poll(0):
            dealer.recv_multipart()
        wait_until(answered)


# What else there is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgraded", [False, True], ids=["of this arbiter", "of the arbiter before"])
def test_a_front_that_hangs_is_replaced(tmp_path, upgraded):
    # With a watchdog that has to be fed the arbiter waits for no more than a second.
    with RunningDaemon(tmp_path, "-w", "2", environment={"WATCHDOG_USEC": "4000000"}) as daemon:
        [front] = daemon.processes("front")
        if upgraded:
            daemon.send(signal.SIGUSR2)
            daemon.wait_logged("ready: ", 2)
            daemon.send(signal.SIGTERM)
            assert daemon.process.wait(30) == 0
            wait_until(lambda: daemon.pidfile.exists() and daemon.status()["pid"] == int(daemon.pidfile.read_text()))
        os.kill(front, signal.SIGSTOP)
        wait_until(lambda: not running(front))
        wait_until(lambda: daemon.processes("front") not in ([], [front]))
        assert daemon.ask()


def test_a_service_whose_arbiter_was_killed_starts_again_when_its_front_has_answered_what_it_had(tmp_path):
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        configuration = configured({"told": {"uri": f"ipc://{tmp_path}/told"}})
        with RunningDaemon(tmp_path, "-w", "2", configuration=configuration) as daemon:
            req.connect(daemon.endpoint("echo.told"))
            req.send_multipart([b"", b"text/plain", b"wait 3"])
            wait_until(lambda: daemon.status()["front"]["lanes"]["echo.told"]["in_flight"])
            daemon.send(signal.SIGKILL)
            daemon.process.wait(30)
            configuration = configured({"told": {}})
            with RunningDaemon(tmp_path, "-w", "2", configuration=configuration, ready=False) as again:
                assert req.poll(30_000)
                assert req.recv_multipart()[-1].endswith(b" wait")
                again.wait_ready()
                assert again.ask()
                assert "Traceback" not in again.log


def test_the_command_line_counts_more_than_the_configuration_and_this_more_than_the_environment(tmp_path):
    for options, section, workers in ((["-w", "3"], {"workers": 2}, 3), ([], {"workers": 2}, 2), ([], {}, 4)):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "dploylib", "serve", "examples/echo/service.py", "--check-config"),
                *("-c", "examples/echo/config.yaml", *options, "--set", f"daemon={json.dumps(section)}"),
            ],
            cwd=ROOT,
            env={**os.environ, "WEB_CONCURRENCY": "4"},
            capture_output=True,
            text=True,
        )
        assert f"OK: {workers} x echo" in done.stdout, done.stderr


TWO = ("pre_fork", "post_fork", "worker_exit", "child_exit")  # arguments that they take


def test_hooks_are_called_as_by_gunicorn(tmp_path):
    hooks = ("on_starting", "when_ready", "pre_fork", "post_fork", "post_worker_init", "worker_exit", "child_exit")
    called = tmp_path / "called"
    everything = (*hooks, "on_exit", "on_reload")
    (tmp_path / "hooks_of_mine.py").write_text(
        f"def note(hook):\n    open({str(called)!r}, 'a').write(hook + '\\n')\n"
        + "".join(f"def {hook}({'a, b' if hook in TWO else 'a'}):\n    note('{hook}')\n" for hook in everything)
    )
    section = {"hooks": {hook: f"hooks_of_mine:{hook}" for hook in everything}}
    with RunningDaemon(
        tmp_path, configuration=configured(daemon=section), environment={"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    ) as daemon:
        daemon.reload()
        assert daemon.stop() == 0
    were_called = called.read_text().split()
    assert set(were_called) == set(everything)
    assert were_called[0] == "on_starting"
    assert were_called[-1] == "on_exit"


def test_the_module_can_be_imported_before_the_workers_fork(tmp_path):
    code = f"\nopen({str(tmp_path / 'imported')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
    with RunningDaemon(tmp_path, "-w", "2", "--preload", code=code) as daemon:
        assert daemon.ask().endswith(" x")
        checking, *others = map(int, (tmp_path / "imported").read_text().split())
        assert others == [daemon.process.pid]
        assert checking != daemon.process.pid
        daemon.reload()
        assert "the code is as it was, since it is preloaded" in daemon.log


def test_status_sees_one_service_and_says_whether_it_is_ready(tmp_path):
    command = [sys.executable, "-m", "dploylib", "status", "--run-dir", str(tmp_path / "run")]
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        daemon.askers()
        wait_until(
            lambda: (
                sum(
                    one.get("counts", {}).get("echo.request", {}).get("received", 0)
                    for one in daemon.status()["workers"]
                )
                == 10
            )
        )
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith(f"parrot ({daemon.process.pid}): ready")
        found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True).stdout)
        assert found["front"]["lanes"]["echo.request"]["answered"] == 10
        daemon.stop()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1

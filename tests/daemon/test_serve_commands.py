"""The commands about services that run, for those of `dploylib serve`."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.daemon.running import PATIENCE, ROOT, RunningDaemon, wait_until

pytestmark = pytest.mark.once("daemons and commands run in interpreters of their own")


def do(daemon, *command):
    """Run a command about this service."""
    return subprocess.run(
        [sys.executable, "-m", "dploylib", *command, "--run-dir", str(daemon.run_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )


def test_ps_lists_it_with_its_workers(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        told = json.loads(do(daemon, "ps", "--json").stdout)
        assert (told["name"], told["pid"], told["mode"], told["state"]) == (
            *("parrot", daemon.process.pid, "serve", "ready"),
        )
        assert (told["workers"], told["ready"]) == (2, 2)
        assert told["endpoints"] == {"echo.request": daemon.endpoint()}
        assert "2 of 2" in do(daemon, "ps").stdout


@pytest.mark.parametrize("options", [(), ("--now",)])
def test_stop_waits_until_it_has_gone(tmp_path, options):
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        done = do(daemon, "stop", *options)
        assert (done.returncode, done.stdout) == (0, f"parrot ({daemon.process.pid}): stopped\n")
        assert list(daemon.run_dir.iterdir()) == []
        assert daemon.process.wait(PATIENCE) == 0


def test_reload_says_that_it_has_or_has_not(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        pid = daemon.process.pid
        done = do(daemon, "reload")
        assert (done.returncode, done.stdout) == (0, f"parrot ({pid}): reloaded, generation 2\n")
        daemon.file.write_text("servers: [no mapping]")
        done = do(daemon, "reload")
        assert (done.returncode, done.stderr) == (
            *(1, f"parrot ({pid}): not reloaded, nothing has changed; its log says why\n"),
        )
        daemon.configure(daemon.configuration)
        assert do(daemon, "reload").stdout == f"parrot ({pid}): reloaded, generation 3\n"


def test_of_an_upgrade_one_arbiter_can_be_stopped_by_its_pid_file(tmp_path):
    with RunningDaemon(tmp_path, "-w", "1", "-n", "parrot") as daemon:
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: len(daemon.statuses()) == 2 and daemon.statuses()[1]["pid"])
        wait_until(lambda: all(one["state"] == "ready" for one in daemon.statuses()))
        done = do(daemon, "stop", "-p", f"{daemon.pidfile}.2")
        assert done.stdout == f"parrot ({second}): stopped\n"
        assert [one["pid"] for one in daemon.statuses()] == [daemon.process.pid]
        assert daemon.ask().endswith(" x")


def test_what_it_tells_is_that_of_all_its_processes(tmp_path):
    with RunningDaemon(tmp_path, "-w", "2", "-n", "parrot") as daemon:
        daemon.askers()
        assert do(daemon, "health").stdout.splitlines()[0] == f"parrot ({daemon.process.pid}): ready"
        told = json.loads(do(daemon, "stats", "--json").stdout)
        assert told["servers"]["echo"]["sockets"]["request"]["received"] == 10
        workers = daemon.processes()
        assert {one["pid"] for one in told["processes"] if one["role"] == "worker"} == set(workers)
        stacks = do(daemon, "stacks").stdout
        levels = do(daemon, "loglevel", "parrot", "warning").stdout
        for pid in workers:
            assert f"process {pid} of parrot:\n" in stacks
            assert f"process {pid}: warning, was info\n" in levels
        shown = do(daemon, "top", "--once", "--interval", "0.1").stdout
        assert "echo.request" in shown
        assert all(f"worker {pid}" in shown for pid in workers)

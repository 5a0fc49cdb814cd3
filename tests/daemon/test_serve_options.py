"""What `dploylib serve` makes of its options and surroundings: whose they are, what is refused, and what is left."""

import os
import signal

import pytest

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
        arguments = "arbiter" if hook == "pre_exec" else "arbiter, worker"
        (tmp_path / "hooks_of_mine.py").write_text(
            FAILING.format(path=str(failing), error=error, arguments=arguments)
        )
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

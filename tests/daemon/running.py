"""`dploylib serve` in a process of its own, and what can be seen of it from outside."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
import zmq

from dploylib.control.finding import statuses

ROOT = Path(__file__).parent.parent.parent
TARGET = Path(__file__).with_name("daemon_target.py")
PATIENCE = 30.0  # seconds; an upper bound for what takes some, on a loaded machine too


def wait_until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for what a condition becomes."""
    ends = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited in vain: {what or condition}"
        time.sleep(0.02)
    return found


class RunningDaemon:
    """`dploylib serve` of `target`, of which `directory` has a copy, with this configuration.

    `options` are of the command line. It is ready when it is there, unless it is not to be waited for. `launcher` is a
    command that runs it, and gets `descriptors`. With `chdir`, all of it but what it prints is below the directory,
    there, and the command has relative paths only.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        configuration: Mapping[str, Any] | None = None,
        code: str = "",
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        chdir: str = "",
        target: Path = TARGET,
    ) -> None:
        self.directory = directory
        home = directory / chdir
        home.mkdir(exist_ok=True)
        self.service = home / "target_service.py"
        self.file = home / "config.yaml"
        self.run_dir = home / "run"
        self.pidfile = home / "pid"
        self.log_file = directory / "log"
        self.service.write_text(target.read_text() + code)
        self.configure(configuration or {"servers": {"echo": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
        paths = [self.service, self.file, self.run_dir, self.pidfile]
        service, file, run_dir, pidfile = (str(path.relative_to(home) if chdir else path) for path in paths)
        self.command = [*launcher, sys.executable, "-m", "dploylib", "serve", service, "-c", file, "-p", pidfile]
        self.command += ["--run-dir", run_dir, *(["--chdir", chdir] if chdir else []), *options]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
                cwd=directory,
                pass_fds=descriptors,
            )
        self._context = zmq.Context()
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Write this configuration."""
        self.configuration = configuration
        self.file.write_text(yaml.safe_dump(dict(configuration)))

    def __enter__(self) -> "RunningDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # What can be seen of it --------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text()

    def statuses(self) -> list[dict[str, Any]]:
        """What its arbiters say of themselves that run, the first one first."""
        return list(statuses(str(self.run_dir)))

    def status(self) -> dict[str, Any]:
        """What it says of itself, and if there is a second arbiter, what that does; {} when it says nothing."""
        return next(reversed(self.statuses()), {})

    def processes(self, role: str = "worker", state: str = "ready", generation: int | None = None) -> list[int]:
        """The process ids of a role that are in this state."""
        return [
            one["pid"]
            for one in self.status().get("workers", ())
            if one["role"] == role and one["state"] == state and generation in (None, one["generation"])
        ]

    def endpoint(self, owner: str = "echo.request") -> str:
        """Where a socket is."""
        return str(self.status()["endpoints"][owner])

    def wait_logged(self, text: str, times: int = 1) -> None:
        """Wait until it has logged this so many times."""
        wait_until(lambda: self.log.count(text) >= times or self.process.poll() is not None, f"{text} in\n{self.log}")
        assert self.log.count(text) >= times, self.log

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        wait_until(
            lambda: self.process.poll() is not None or self.status().get("state") == "ready", f"ready: {self.log}"
        )
        assert self.process.poll() is None, self.log

    def ask(self, text: str = "x", owner: str = "echo.request", timeout: float = PATIENCE) -> str:
        """Ask by a REQ of pyzmq, and return the text of the answer."""
        with self._context.socket(zmq.REQ) as req:
            req.linger = 0
            req.rcvtimeo = int(timeout * 1000)
            req.connect(self.endpoint(owner))
            req.send_multipart([b"", b"text/plain", text.encode()])
            return req.recv_multipart()[-1].decode()

    def askers(self, times: int = 10) -> set[tuple[str, int]]:
        """The version and the process id of those who answer so many requests, each of a client of its own."""
        answers = [self.ask().split() for _ in range(times)]
        return {(version, int(pid)) for version, pid, _ in answers}

    # What can be done with it ------------------------------------------------------------------------------------

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the arbiter."""
        os.kill(self.process.pid, number)

    def new_version(self, version: str) -> None:
        """Let the code be of this version.

        It is dated a second later than before: by that and its size Python knows whether it has it compiled already.
        """
        later = max(time.time(), self.service.stat().st_mtime + 1)
        self.service.write_text(TARGET.read_text().replace('VERSION = "1"', f'VERSION = "{version}"'))
        os.utime(self.service, (later, later))

    def reload(self) -> None:
        """Reload, and wait until that is over."""
        times = self.log.count("reloaded\n")
        self.send(signal.SIGHUP)
        self.wait_logged("reloaded\n", times + 1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, and return its exit status."""
        self.send(number)
        return self.process.wait(PATIENCE)

    def all_processes(self) -> set[int]:
        """Every process that is in its directory: also those of a second arbiter that nobody has waited for."""
        found = set()
        for one in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if (one / "cwd").readlink().is_relative_to(self.directory.resolve()):
                    found.add(int(one.name))
        return found

    def kill(self) -> None:
        """Let nothing of it be left."""
        said = {one["pid"] for status in self.statuses() for one in (status, *status["workers"])}
        mine = {self.process.pid} if self.process.poll() is None else set()
        while pids := said | mine | self.all_processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            said, mine = set(), set()
        self.process.wait(PATIENCE)
        self._context.destroy(linger=0)

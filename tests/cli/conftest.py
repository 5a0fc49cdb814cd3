"""Runs the command line as a user does: in processes of its own, which all end with the test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
COMMAND = [sys.executable, "-m", "dploylib"]

# A service with a socket for everything that a client can meet. Where they bind is up to the test.
SERVICE = '''
import logging, os
import gevent
from gevent import monkey
from dploylib import Server, Service, bind, bind_in, every

PATCHED = monkey.is_module_patched("socket")
log = logging.getLogger("sample")


class Sample(Server):
    news = bind("news", "pub")

    @bind_in("echo", "rep")
    def echo(self, socket, received):
        return received.envelope

    @bind_in("describe", "rep")
    def describe(self, socket, received):
        envelope = received.envelope
        return {"id": envelope.id, "mimetype": envelope.mimetype, "body": list(envelope.data), "patched": PATCHED}

    @bind_in("fail", "rep")
    def fail(self, socket, received):
        raise ValueError("the secret of the handler")

    @bind_in("mute", "router")
    def mute(self, socket, received):
        pass

    @bind_in("slow", "rep")
    def slow(self, socket, received):
        """Take until the file that the caller names is there."""
        log.info("handling")
        while not os.path.exists(received.text):
            gevent.sleep(0.01)
        return "finished"

    @bind_in("block", "rep")
    def block(self, socket, received):
        """Compute for ever, without ever letting another greenlet run."""
        log.info("blocking")
        while True:
            pass

    @bind_in("spawn", "rep")
    def spawn_failing(self, socket, received):
        (gevent if received.text == "alone" else self).spawn(self.die)
        return "spawned"

    def die(self):
        raise ZeroDivisionError("a greenlet died")

    @every(0.02)
    def publish(self):
        self.sockets.news.send_text("sunny", id="weather.today")
        self.sockets.news.send_json({"goals": [1, 2]}, id="sport")


service = Service()
service.add_server("sample", Sample)
'''
SOCKETS = ("news", "echo", "describe", "fail", "mute", "slow", "block", "spawn")
CONFIGURATION = "servers:\n  sample:\n" + "".join(f"    {name}: {{uri: 'tcp://127.0.0.1:*'}}\n" for name in SOCKETS)


class RunningService:
    """A `dploylib run` whose log is JSON. `records` is what was read of its log so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.records: list[dict[str, Any]] = []

    def wait_for(self, message: str) -> dict[str, Any]:
        """Read the log up to the record whose message has this in it."""
        for line in self.process.stderr:
            self.records.append(json.loads(line))
            if message in self.records[-1]["message"]:
                return self.records[-1]
        raise AssertionError(f"the log ended without {message!r}: {self.records}")

    def endpoint(self, socket: str) -> str:
        """The endpoint of a socket, from the log."""
        beginning = f"sample.{socket} is at "
        messages = [record["message"] for record in self.records]
        found = [message for message in messages if message.startswith(beginning)]
        return (found or [self.wait_for(beginning)["message"]])[0].removeprefix(beginning)

    def ended(self) -> int:
        """Wait for the end of the process, with the rest of its log in `records`. Returns the exit status."""
        _, rest = self.process.communicate(timeout=30)
        self.records += map(json.loads, rest.splitlines())
        return self.process.returncode


def popen(arguments: tuple[str, ...], directory: Path, **options: Any) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *arguments], text=True, cwd=directory, env=ENVIRONMENT, **pipes)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with service.py and config.yaml, in which the commands run."""
    return with_sample(tmp_path)


def with_sample(path: Path) -> Path:
    (path / "sample.py").write_text(SERVICE)
    (path / "config.yaml").write_text(CONFIGURATION)
    return path


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command, which is killed at the end of the test."""
    processes = []

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        processes.append(popen(arguments, directory, **options))
        return processes[-1]

    yield start
    for process in processes:
        end(process)


@pytest.fixture
def start_service(start: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., RunningService]:
    """Start the sample service, with the options given."""

    def start_service(*options: str) -> RunningService:
        return RunningService(start("run", "sample:service", "-c", "config.yaml", "--log-format", "json", *options))

    return start_service


@pytest.fixture
def dploylib(directory: Path) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """Run a command to its end."""

    def run(*arguments: str, input: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        source = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            [*COMMAND, *arguments], cwd=directory, env=ENVIRONMENT, capture_output=True, timeout=30, **source
        )

    return run


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The sample service, running for all tests that only talk to it."""
    directory = with_sample(tmp_path_factory.mktemp("sample"))
    process = popen(("run", "sample", "-c", "config.yaml", "--log-format", "json"), directory)
    running = RunningService(process)
    for socket in SOCKETS:
        running.endpoint(socket)
    yield running
    end(process)

"""How soon a service answers who asks how it is, while 10,000 of its handlers wait: `make figures ARGS=--answers`.

It is asked from another process, with nothing else to do, beside a load of echoes that takes all that a hub has, and
while it stops. Prints the median, the 99th percentile and the longest time in milliseconds, and apart from these how
long the commands take, most of which is the start of an interpreter.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq

from benchmarks.load import Load
from dploylib.control.asking import ask
from dploylib.control.finding import statuses
from dploylib.control.remote import Remote
from dploylib.statistics import ProcessStatistics
from tests.daemon.running import ROOT, wait_until

TARGET = Path(__file__).with_name("answers_target.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HANDLERS = 10_000
TIMES = 50
COMMAND_TIMES = 5
PATIENCE = 30.0  # seconds
LIMIT = 0.1  # seconds for an answer, on a machine that has a processor for it
VERBS = ("PING", "HEALTH", "STATS", "STACKS")
LIMITED = ("PING", "HEALTH", "STATS")


class WaitingService:
    """`dploylib run` of `answers_target.py`, whose handlers all wait."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = str(directory / "run")
        configuration = directory / "config.yaml"
        uris = {name: {"uri": "tcp://127.0.0.1:*"} for name in ("wait", "echo")}
        configuration.write_text(json.dumps({"servers": {"waiting": uris}}))
        command = [
            "run",
            str(TARGET),
            "-c",
            str(configuration),
            "--run-dir",
            self.run_dir,
            "--graceful-timeout",
            "3600",
        ]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dploylib", *command], env=ENVIRONMENT, stdout=log, stderr=log
            )
        self._context = zmq.Context()
        wait_until(lambda: self.state == "ready", "it is ready")
        [status] = statuses(self.run_dir)
        self.endpoints: dict[str, str] = status["endpoints"]

    @property
    def state(self) -> str:
        """What it says of itself."""
        return next((str(one["state"]) for one in statuses(self.run_dir)), "")

    def fill(self) -> None:
        """Let all handlers wait."""
        client = self._context.socket(zmq.DEALER)
        client.sndhwm = 0
        client.connect(self.endpoints["waiting.wait"])
        for _ in range(HANDLERS):
            client.send_multipart([b"", b"", b"text/plain", b"x"])
        wait_until(lambda: self.waiting == HANDLERS, "all handlers wait")

    @property
    def waiting(self) -> int:
        """How many handlers wait."""
        [answer] = ask(self.run_dir, "STATS", kind=ProcessStatistics, timeout=PATIENCE)
        return int(answer.value.servers["waiting"].sockets["wait"].in_flight)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let there be echoes, as many as it can answer."""
        load = Load("echo", self.process.pid, [self.endpoints["waiting.echo"]], outstanding=100, seconds=3600)
        command = [sys.executable, "-m", "benchmarks.generator", json.dumps(asdict(load))]
        generator = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
        try:
            before = self.echoes
            wait_until(lambda: self.echoes > before + 1000, "there are echoes")
            yield
            assert generator.poll() is None
        finally:
            generator.kill()
            generator.wait()

    @property
    def echoes(self) -> int:
        """How many there were."""
        [answer] = ask(self.run_dir, "STATS", kind=ProcessStatistics, timeout=PATIENCE)
        return int(answer.value.servers["waiting"].sockets["echo"].handled)

    def stop(self) -> None:
        """Let it begin to stop, for which its handlers take too long."""
        self.process.send_signal(signal.SIGTERM)
        wait_until(lambda: Remote(self.run_dir, "").health().state == "stopping", "it stops")

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        self._context.destroy(linger=0)


def answer_times(run_dir: str, verb: str) -> list[float]:
    """How long it takes to be answered, in seconds."""

    def once() -> None:
        [answer] = ask(run_dir, verb, timeout=PATIENCE)
        assert not answer.error, answer

    return timed(once, TIMES)


def command_times(*arguments: str) -> list[float]:
    """How long a command takes, in seconds."""
    command = [sys.executable, "-m", "dploylib", *arguments]
    return timed(
        lambda: subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False), COMMAND_TIMES
    )


def timed(call: Callable[[], Any], times: int) -> list[float]:
    """How long each of so many calls takes, in seconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return sorted(took)


def show(title: str, took: Sequence[float], limited: bool = False) -> bool:
    """Print what was measured. Whether that is good."""
    p99 = took[min(len(took) - 1, round(len(took) * 0.99))]
    right = not limited or p99 <= LIMIT
    times = "".join(f"{1000 * seconds:10.1f}" for seconds in (took[len(took) // 2], p99, took[-1]))
    print(f"  {title:40}{times}{'' if right else '  TOO LONG'}", flush=True)
    return right


def main() -> int:
    """Measure. The exit status: 1 if something takes too long."""
    with tempfile.TemporaryDirectory() as directory:
        service = WaitingService(Path(directory))
        run_dir = service.run_dir
        right = []

        def look(situation: str) -> None:
            for verb in VERBS:
                right.append(show(f"{verb}, {situation}", answer_times(run_dir, verb), verb in LIMITED))
            remote = Remote(run_dir, "waiting")
            right.append(show(f"health, {situation}", timed(remote.health, TIMES), limited=True))
            right.append(show(f"statistics, {situation}", timed(remote.statistics, TIMES), limited=True))

        try:
            print(f"{'ms, median, p99 and longest':42}{'median':>10}{'p99':>10}{'max':>10}")
            look("nobody waits")
            service.fill()
            look("10,000 wait")
            with service.busy():
                look("and echoes")
            show("dploylib --version", command_times("--version"))
            for command in ("health", "status"):
                show(f"dploylib {command}", command_times(command, "--run-dir", run_dir))
            service.stop()
            look("it stops")
            for command in ("health", "status"):
                show(f"dploylib {command}, it stops", command_times(command, "--run-dir", run_dir))
        finally:
            service.end()
    return 0 if all(right) else 1

"""Clients that ask without pause while a daemon is reloaded, grows, shrinks, is killed and replaced: `make rolling`.

Prints what came of their requests, and how long the longest took. `test_serving.py` lets the same go on for a shorter
time, and looks at the numbers.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.daemon.running import RunningDaemon, wait_until

CLIENTS = {"messages": "req_clients.py", "connections": "retrying_clients.py"}
NUMBER = 50
WORKERS = 4
EVENTS = [*["hup"] * 5, *["ttin", "ttou"] * 3, *["kill"] * 2, "usr2"]


def roll(directory: Path, balance: str, seconds: float, events: list[str] = EVENTS, seed: int = 0) -> dict[str, Any]:
    """Let all of it happen, in an order of chance, and return what the clients say."""
    order = list(events)
    random.Random(seed).shuffle(order)
    with RunningDaemon(directory, "-w", str(WORKERS), "--balance", balance, "--graceful-timeout", "10") as daemon:
        wait_until(lambda: len(daemon.processes()) == WORKERS)
        clients = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(CLIENTS[balance])), daemon.endpoint(), str(NUMBER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=daemon.environment,
        )
        try:
            for what, _ in zip(order, _paced(len(order), seconds), strict=True):
                _do(daemon, what)
            _settled(daemon)
            said, _ = clients.communicate(timeout=60)
        finally:
            clients.kill()
        assert daemon.process.poll() is None, daemon.log
        assert daemon.stop() == 0, daemon.log
        return {**json.loads(said), "log": daemon.log}


def _paced(count: int, seconds: float) -> Iterator[None]:
    began = time.monotonic()
    for number in range(count):
        yield
        time.sleep(max(0.0, began + seconds * (number + 1) / count - time.monotonic()))


def _settled(daemon: RunningDaemon) -> None:
    wait_until(lambda: daemon.status().get("state") == "ready", daemon.log)


def _do(daemon: RunningDaemon, what: str) -> None:
    _settled(daemon)
    if what == "kill":
        os.kill(daemon.processes()[0], signal.SIGKILL)
    elif what == "usr2":
        old = daemon.process
        daemon.send(signal.SIGUSR2)
        new = wait_until(lambda: _second(daemon, old.pid), "the second arbiter is ready")
        old.send_signal(signal.SIGTERM)
        assert old.wait(60) == 0, daemon.log
        daemon.process = _Adopted(new)
        wait_until(lambda: daemon.pidfile.exists() and int(daemon.pidfile.read_text() or 0) == new)
    else:
        daemon.send(getattr(signal, f"SIG{what.upper()}"))
        time.sleep(0.05)


def _second(daemon: RunningDaemon, first: int) -> int | None:
    status = daemon.status()
    return status["pid"] if status.get("pid") != first and status.get("state") == "ready" else None


class _Adopted:
    """A process that is not our child, with what is wanted of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return None if Path(f"/proc/{self.pid}").exists() else 0

    def wait(self, timeout: float) -> int:
        wait_until(lambda: self.poll() is not None, f"the end of {self.pid}")
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--balance", choices=[*CLIENTS], action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", action="store_true", help="print the log, too")
    arguments = parser.parse_args()
    for balance in arguments.balance or CLIENTS:
        with tempfile.TemporaryDirectory() as directory:
            said = roll(Path(directory), balance, arguments.seconds, seed=arguments.seed)
        log = said.pop("log")
        print(balance, json.dumps(said), flush=True)
        if arguments.log:
            print(log)


if __name__ == "__main__":
    main()

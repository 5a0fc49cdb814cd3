"""Processes that run a script, mostly a peer that knows nothing but pyzmq, and talk to the test by lines."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.subprocess

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too


class Process:
    """A process that runs a script."""

    def __init__(self, script: Path, *arguments: Any) -> None:
        pipe = gevent.subprocess.PIPE
        self._popen = gevent.subprocess.Popen([sys.executable, script, *map(str, arguments)], stdin=pipe, stdout=pipe)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def line(self) -> str:
        """The next line that it prints."""
        with gevent.Timeout(PATIENCE, AssertionError("the peer prints nothing")):
            return str(self._popen.stdout.readline().decode().strip())

    def frames(self) -> list[bytes]:
        """The next message that it prints: its frames in hexadecimal, separated by commas."""
        return [bytes.fromhex(frame) for frame in self.line().split(",")]

    def say(self, line: str) -> None:
        """Give it a line to read."""
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self) -> int:
        """Wait until it has ended; its exit status."""
        with gevent.Timeout(PATIENCE, AssertionError("the peer does not end")):
            return int(self._popen.wait())

    def kill(self) -> None:
        """End it now, with SIGKILL."""
        self._popen.kill()
        self._popen.wait()
        self._popen.stdin.close()
        self._popen.stdout.close()


def starter(directory: Path) -> Iterator[Callable[..., Process]]:
    """What a fixture yields that starts scripts of this directory: they are killed when the test is over."""
    processes: list[Process] = []

    def start(script: str, *arguments: Any) -> Process:
        processes.append(Process(directory / script, *arguments))
        return processes[-1]

    yield start
    for one in processes:
        one.kill()

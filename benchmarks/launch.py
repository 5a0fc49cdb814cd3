"""Starts the servers: each a process of its own, ready once it has said where it is."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.cases import C_ECHO, Case, Contender

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 30.0  # until a server that has not said where it is is given up
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class LaunchError(Exception):
    """A server did not start."""


class Unavailable(Exception):
    """A contender is not installed here."""


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    endpoints: Sequence[str]
    log: IO[bytes]  # what it wrote to stderr

    @property
    def pid(self) -> int:
        return self.process.pid


class Launcher:
    """Knows how to start each contender, and what of them is there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._compiled: Path | Unavailable | None = None

    def command(self, contender: Contender, case: Case, **more: int) -> list[str]:
        """Return what starts a contender, or raise `Unavailable`."""
        if contender.needs and importlib.util.find_spec(contender.needs) is None:
            raise Unavailable(f"{contender.needs} is not installed: pip install -r benchmarks/requirements.txt")
        if contender.script == C_ECHO:
            return [str(self._c_echo()), case.role]
        settings = {"count": case.count, "sockets": case.sockets, "rcvhwm": case.rcvhwm, **more}
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-m", f"benchmarks.servers.{contender.script}", case.role, *options, *contender.options]

    def _c_echo(self) -> Path:
        if self._compiled is None:
            try:
                self._compiled = compile_c(self._directory)
            except Unavailable as error:
                self._compiled = error
        if isinstance(self._compiled, Unavailable):
            raise self._compiled
        return self._compiled


def compile_c(directory: Path) -> Path:
    """Compile the echo server in C, and return where the program is."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler: on Debian, apt-get install gcc libzmq3-dev")
    program = directory / "echo"
    source = Path(__file__).parent / "servers" / C_ECHO
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(source), "-lzmq"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise Unavailable(f"it does not compile ({why}): on Debian, apt-get install libzmq3-dev")
    return program


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[RunningServer]:
    """Run a server, and kill it in the end."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdin=pipe, stdout=pipe, stderr=log, bufsize=0)
        try:
            yield RunningServer(process, first_line(process, log).split(), log)
        finally:
            process.kill()
            process.communicate()


def first_line(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Read the first line of stdout, and not a byte more: the rest is for the load generator."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], PATIENCE_SECONDS)[0]:
            raise LaunchError(
                f"{process.args!r} has not said where it is within {PATIENCE_SECONDS:.0f} s{last_line(log)}"
            )
        byte = process.stdout.read(1)
        if not byte:
            raise LaunchError(f"{process.args!r} ended with status {process.wait()}{last_line(log)}")
        line += byte
    return line.decode()


def last_line(log: IO[bytes]) -> str:
    """Return the last line of what a server wrote to stderr, as the end of a sentence."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"; the last that it wrote is {lines[-1]!r}" if lines else ""

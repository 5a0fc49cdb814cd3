"""How long it takes to get going: imports, and a whole service until its first reply."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from benchmarks.cases import Contender
from benchmarks.connection import Connection
from benchmarks.generator import echo_wire
from benchmarks.launch import ENVIRONMENT, ROOT, LaunchError, running
from benchmarks.load import Load

READY = re.compile(rb" is at (tcp://\S+)")


def import_time(module: str) -> dict[str, float]:
    """Return how much longer an interpreter takes that imports the module than one that imports nothing, in ms."""
    nothing, importing = interpreter("pass"), interpreter(f"import {module}")
    return {"import_ms": (importing - nothing) * 1e3}


def interpreter(statement: str) -> float:
    """Return how many seconds an interpreter takes for a statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, env=ENVIRONMENT, check=True)
    return time.perf_counter() - began


def first_reply(contender: Contender, command: Sequence[str]) -> dict[str, float]:
    """Return how long it takes from exec to the first reply, in ms."""
    began = time.perf_counter()
    if contender.script == "service":
        return as_command_line(began, contender)
    with running(command) as server:
        return ask(began, server.endpoints[0], contender)


def as_command_line(began: float, contender: Contender) -> dict[str, float]:
    """Start `dploylib run`, which says in its log where its sockets are, and ask."""
    configuration = "servers.echo.request.uri=tcp://127.0.0.1:*"
    service = ROOT / "benchmarks" / "servers" / "service.py"
    process = subprocess.Popen(
        [sys.executable, "-m", "dploylib", "run", str(service), "--set", configuration],
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        return ask(began, logged_endpoint(process), contender)
    finally:
        process.kill()
        process.communicate()


def logged_endpoint(process: subprocess.Popen[bytes]) -> str:
    """Read the log until it says where the socket is."""
    assert process.stderr is not None
    said = b""
    while not (found := READY.search(said)) or not said.endswith(b"\n"):
        some = os.read(process.stderr.fileno(), 4096)
        if not some:
            raise LaunchError(f"the service ended with status {process.wait()}: {said.decode(errors='replace')}")
        said += some
    return found[1].decode()


def ask(began: float, endpoint: str, contender: Contender) -> dict[str, float]:
    """Make one request, and return the time since it all began."""
    load = Load(kind="echo", pid=0, endpoints=[endpoint], protocol=contender.protocol)
    with closing(Connection(endpoint, echo_wire(load))) as connection:
        connection.shake_hands()
        connection.request(1, time.perf_counter_ns())
        connection.answered()
        return {"first_reply_ms": (time.perf_counter() - began) * 1e3}

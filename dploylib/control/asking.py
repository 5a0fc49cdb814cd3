"""Asks the processes of a service how they are, and tells them what to do. STUB: to be replaced by the real one."""

from __future__ import annotations

import glob
import os
import time
from typing import Any, NamedTuple

import msgspec
import zmq

from ..statistics import ProcessStatistics
from .source import Health

__all__ = ["Answer", "Remote", "ask"]


class Answer(NamedTuple):
    """What a process has answered; `error` is empty when it did."""

    pid: int
    value: Any
    error: str


def ask(run_dir: str, verb: str, argument: Any = None, kind: Any = Any, timeout: float = 1.0) -> list[Answer]:
    """Ask all processes of a run directory at once."""
    context = zmq.Context()
    answers = []
    asked = []
    try:
        for path in sorted(glob.glob(os.path.join(run_dir, "control.*[0-9]"))):
            socket = context.socket(zmq.REQ)
            socket.linger = 0
            socket.connect(f"ipc://{path}")
            body = b"" if argument is None else msgspec.json.encode(argument)
            socket.send_multipart([verb.encode(), b"application/json", body])
            asked.append((int(path.rpartition(".")[2]), socket))
        until = time.monotonic() + timeout
        for pid, socket in asked:
            if not socket.poll(max(0, int((until - time.monotonic()) * 1000))):
                answers.append(Answer(pid, None, "it does not answer"))
                continue
            _, mimetype, data = socket.recv_multipart()
            if b"problem" in mimetype:
                answers.append(Answer(pid, None, msgspec.json.decode(data).get("detail", "a problem")))
            else:
                answers.append(Answer(pid, msgspec.json.decode(data, type=kind), ""))
    finally:
        context.destroy(linger=0)
    return answers


class Remote:
    """A source: a service that runs elsewhere."""

    def __init__(self, run_dir: str, name: str) -> None:
        self.run_dir, self.name = run_dir, name

    def statistics(self) -> list[ProcessStatistics]:
        """What each process tells."""
        return [one.value for one in ask(self.run_dir, "STATS", kind=ProcessStatistics) if not one.error]

    def health(self) -> Health:
        """How it is."""
        answers = ask(self.run_dir, "HEALTH", kind=Health)
        why = [f"{one.pid}: {one.error}" for one in answers if one.error]
        why += [f"{one.pid}: {reason}" for one in answers if not one.error for reason in one.value.why]
        values = [one.value for one in answers if not one.error]
        ready = bool(values) and not why and all(one.ready for one in values)
        return Health(alive=bool(values), ready=ready, state="running" if ready else "stopping", why=why)

"""What processes have counted that have ended since: the counts of a service do not go back when a worker is replaced.

A process that ends adds what it has counted to a file in the run directory. One that was killed cannot: what it has
told last is added by the monitor of a daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import msgspec

from ..statistics import ProcessStatistics, ServerStatistics, at_rest

__all__ = ["Remains", "add_remains", "read_remains"]

_FILE, _LOCK = "ended.json", "ended.lock"
_MOST = 1000  # instances that are known by name; whoever asked before the first of them ended asks too rarely


class Remains(msgspec.Struct, kw_only=True):
    """What processes have counted that have ended, and their `instances`, the latest last.

    `started` is when the first of them began, in seconds since 1970.
    """

    instances: list[str] = []
    started: float = 0.0
    servers: dict[str, ServerStatistics] = {}


def add_remains(run_dir: str, ended: ProcessStatistics) -> None:
    """Add what a process has counted that is about to end, or was killed, unless that of this process was added before.

    Raises `OSError` where that cannot be written.
    """
    with _locked(run_dir):
        remains = read_remains(run_dir)
        if ended.instance in remains.instances:
            return
        remains.instances = [*remains.instances, ended.instance][-_MOST:]
        remains.servers = at_rest([remains.servers, ended.servers])
        remains.started = min(remains.started or ended.started, ended.started)
        path = os.path.join(run_dir, _FILE)
        with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(msgspec.json.encode(remains))
        os.replace(f"{path}.new", path)


def read_remains(run_dir: str) -> Remains:
    """What was added until now."""
    with contextlib.suppress(OSError, msgspec.MsgspecError), open(os.path.join(run_dir, _FILE), "rb") as file:
        return msgspec.json.decode(file.read(), type=Remains)
    return Remains()


@contextlib.contextmanager
def _locked(run_dir: str) -> Iterator[None]:
    with open(
        os.open(os.path.join(run_dir, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    ) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

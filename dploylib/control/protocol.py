"""What is said to a control server, and what it answers.

It is a `rep` socket: the id of an envelope is the verb, its body the argument in JSON, or nothing. What cannot be done
is answered by a problem, as everywhere.

    PING      -> Ping       is anybody there?
    INFO      -> Info       what runs there
    STATS     -> ProcessStatistics
    HEALTH    -> Health
    STOP      Stop -> Done, before it stops
    RELOAD    -> Done, before it reloads
    LOGLEVEL  LogLevel -> LogLevel, that of a logger; with a level, it has that from now on
    STACKS    -> Text       where all greenlets and threads are
    PROFILE   Profile -> a session of pyinstrument, after so many seconds
"""

from __future__ import annotations

import os
import re
from typing import Any

import msgspec

__all__ = [
    "Done",
    "Info",
    "LogLevel",
    "Ping",
    "Profile",
    "ServerInfo",
    "SocketInfo",
    "Stop",
    "Text",
    "control_endpoint",
    "control_pids",
    "decoded",
]

_FILE = re.compile(r"control\.([1-9]\d{0,8})")


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """Who is there."""

    service: str
    role: str
    pid: int
    version: str


class SocketInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket is: its type as declared, and which `handler` has its messages, '' where there is none."""

    type: str
    endpoints: list[str]
    handler: str = ""
    concurrency: int = 1


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is: its class, and its sockets by their configured names."""

    type: str
    sockets: dict[str, SocketInfo]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What runs in a process. `versions` are those of what it runs with; `settings` is YAML, without secrets."""

    service: str
    role: str
    pid: int
    instance: str
    started: float
    state: str
    target: str
    config: str
    versions: dict[str, str]
    servers: dict[str, ServerInfo]
    settings: str


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long running handlers may go on, in seconds; None is what the service says."""

    graceful_timeout: float | None = None


class LogLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `level` of a `logger`, '' for all that have none of their own; and which it was `before`."""

    logger: str = ""
    level: str | None = None
    before: str | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how many seconds to look where the time goes."""

    seconds: float = 10.0


class Done(msgspec.Struct, frozen=True):
    """What is being done now, in words."""

    text: str


class Text(msgspec.Struct, frozen=True):
    """Text to read."""

    text: str


def control_endpoint(run_dir: str, pid: int) -> str:
    """Where the control server of a process is, in the run directory of its service."""
    return f"ipc://{os.path.join(run_dir, f'control.{pid}')}"


def control_pids(run_dir: str) -> list[int]:
    """The processes that have a control server in this run directory. Raises `OSError` if that cannot be read."""
    return sorted(int(found[1]) for name in os.listdir(run_dir) if (found := _FILE.fullmatch(name)))


def decoded(data: bytes, kind: type[Any]) -> Any:
    """An argument or an answer. Raises `msgspec.MsgspecError` for what is none of this kind."""
    return msgspec.json.decode(data or b"{}", type=kind)

"""The section `daemon` of a configuration: how `dploylib serve` runs the service.

Settings have the names and the meanings that they have in gunicorn, where it has them.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from .meta import Name, ServiceName, one_of

__all__ = ["HOOKS", "Alone", "DaemonSettings", "size_of"]

HOOKS = (
    "on_starting",
    "on_reload",
    "when_ready",
    "pre_fork",
    "post_fork",
    "post_worker_init",
    "worker_int",
    "worker_abort",
    "pre_exec",
    "child_exit",
    "worker_exit",
    "nworkers_changed",
    "on_exit",
)
"""The server hooks of gunicorn that there are here, too."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def size_of(text: str) -> int | None:
    """The bytes that a size has, `512M` say; None for what is none."""
    found = _SIZE.fullmatch(text.strip())
    return int(found[1]) * _UNITS[found[2].upper()] if found else None


def _size_flaw(size: object) -> str | None:
    if not isinstance(size, str) or size_of(size) is not None:
        return None
    return "expected a number of bytes, or one with a unit, such as 512M"


def _function_flaw(function: object) -> str | None:
    if not isinstance(function, str) or _FUNCTION.fullmatch(function):
        return None
    return "expected MODULE:FUNCTION, as in package.module:function"


def _hook_flaw(hook: object) -> str | None:
    if not isinstance(hook, str) or hook in HOOKS:
        return None
    return f"there is no such hook; the hooks are {', '.join(HOOKS)}"


_Count: TypeAlias = Annotated[int, Meta(ge=0)]
_Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
_Size: TypeAlias = Annotated[str, Meta(extra={"flaw": _size_flaw})]
_Hook: TypeAlias = Annotated[str, Meta(extra={"flaw": _hook_flaw}, extra_json_schema={"enum": list(HOOKS)})]
_Function: TypeAlias = Annotated[str, Meta(extra={"flaw": _function_flaw})]


class Alone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one server runs."""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1)],
        Meta(description="1: the server runs in one process only, whatever number of workers there is."),
    ]


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How `dploylib serve` runs the service. What the command line says counts more."""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None,
        Meta(description="How many worker processes run the servers; WEB_CONCURRENCY, or 1, unless set."),
    ] = None
    balance: Annotated[
        Annotated[str, one_of("messages", "connections")] | None,
        Meta(
            description="What is spread over the workers: messages, by a front that has the connections, which is what "
            "several workers do unless it is set; or connections, by the kernel."
        ),
    ] = None
    servers: Annotated[dict[Name, Alone], Meta(description="The servers that run in one process only, by name.")] = {}
    timeout: Annotated[
        _Seconds | None,
        Meta(
            description="Seconds for which a worker may be blocked before it is replaced, 30 unless set; 0: for ever."
        ),
    ] = None
    graceful_timeout: Annotated[
        _Seconds | None, Meta(description="Seconds that running handlers have at a stop or reload, 30 unless set.")
    ] = None
    max_requests: Annotated[
        _Count | None, Meta(description="Messages after which a worker is replaced; 0, as unless set: never.")
    ] = None
    max_requests_jitter: Annotated[
        _Count | None, Meta(description="The most that is added to that, by chance, for each worker.")
    ] = None
    max_memory: Annotated[
        _Count | _Size | None,
        Meta(description="Resident memory from which on a worker is replaced, in bytes or such as 512M."),
    ] = None
    pidfile: Annotated[str | None, Meta(description="The file that the process id is written to.")] = None
    run_dir: Annotated[
        str | None, Meta(description="The directory for the sockets between the processes, a private one unless set.")
    ] = None
    daemon: Annotated[bool | None, Meta(description="Whether to detach from the terminal.")] = None
    user: Annotated[int | str | None, Meta(description="The user that workers run as.")] = None
    group: Annotated[int | str | None, Meta(description="The group that workers run as.")] = None
    initgroups: Annotated[bool | None, Meta(description="Whether they have the other groups of the user, too.")] = None
    umask: Annotated[int | str | None, Meta(description="The umask of all processes, '0o027' say.")] = None
    name: Annotated[ServiceName | None, Meta(description="The name of the service, and of its processes for ps.")] = (
        None
    )
    preload_app: Annotated[bool | None, Meta(description="Whether the module is imported before workers fork.")] = None
    reload: Annotated[bool | None, Meta(description="Whether to reload when code changes, for development.")] = None
    reload_extra_files: Annotated[list[str] | None, Meta(description="Other files that are watched with reload.")] = (
        None
    )
    backlog: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How many connections may wait to be accepted at each endpoint, 2048 unless set."),
    ] = None
    worker_tmp_dir: Annotated[str | None, Meta(description="A directory in memory for the files of heartbeats.")] = None
    errorlog: Annotated[str | None, Meta(description="The file of the log, - for stderr.")] = None
    loglevel: Annotated[
        Annotated[str, one_of("debug", "info", "warning", "error", "critical")] | None,
        Meta(description="The least important level that is logged, info unless set."),
    ] = None
    log_format: Annotated[
        Annotated[str, one_of("text", "json")] | None,
        Meta(description="Lines of text, or an object of JSON a line."),
    ] = None
    capture_output: Annotated[bool | None, Meta(description="Whether stdout and stderr go to the log file.")] = None
    syslog: Annotated[bool | None, Meta(description="Whether the log goes to syslog.")] = None
    syslog_addr: Annotated[str | None, Meta(description="Where syslog is, as in udp://localhost:514.")] = None
    syslog_prefix: Annotated[str | None, Meta(description="What its lines begin with.")] = None
    syslog_facility: Annotated[str | None, Meta(description="The facility of syslog.")] = None
    hooks: Annotated[
        dict[_Hook, _Function], Meta(description="Functions that are called as gunicorn calls its server hooks.")
    ] = {}

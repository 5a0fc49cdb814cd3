"""Where services are found: a file in the run directory of each, and a directory with all run directories.

The file is of the process that leads the service: that of `dploylib run`, or the arbiter of `dploylib serve`, of which
there are two during an upgrade. The directory has those which were made there, and symbolic links to others.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import EndpointError

__all__ = [
    "READY",
    "SILENT",
    "base_directory",
    "leaders_in",
    "lock_path",
    "make_base",
    "pointer_to",
    "running_in",
    "runs",
    "silence_of",
    "status_file",
    "statuses",
    "write_status",
]

SILENT = 10.0
"""Seconds. An arbiter writes its status every second, and rarely waits for longer than a few."""

READY = ("ready", "reloading")
"""The states of a leader whose service takes work."""

_LOCK = "lock"
_MADE = re.compile(r".+-[a-z0-9_]{8}")  # as tempfile.mkdtemp calls it
_BEGINNING = 60.0  # seconds after which a leader has said something, if it lives
_STATUS = re.compile(r"status\.([1-9]\d{0,8})\.json")


def base_directory() -> str:
    """Where the run directories of this user are: as systemd or the session says, else among the temporary files."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    session = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(session, "dploylib") if session else f"{tempfile.gettempdir()}/dploylib-{os.geteuid()}"


def make_base() -> str:
    """Make `base_directory`, and remove from it what is left of services that were killed.

    Raises `EndpointError` where it cannot be made or trusted.
    """
    base = base_directory()
    try:
        os.makedirs(base, mode=0o755, exist_ok=True)
        found = os.lstat(base)
    except OSError as error:
        raise EndpointError(f"cannot make {base}: {error.strerror}; use --run-dir") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EndpointError(f"{base} is not a directory of ours alone: others could listen in; use --run-dir")
    for name in os.listdir(base):
        _remove_if_stale(os.path.join(base, name))
    return base


def pointer_to(directory: str) -> str:
    """The symbolic link by which a run directory is found that is elsewhere."""
    return os.path.join(base_directory(), hashlib.sha256(os.fsencode(directory)).hexdigest()[:16])


def _remove_if_stale(path: str) -> None:
    with contextlib.suppress(OSError):
        named = _named_in(path) if os.path.isdir(path) else []
        if os.path.islink(path):
            if not os.path.exists(path) or (named and not any(map(runs, named))):
                os.unlink(path)
        elif not any(map(runs, named)) and (named or _was_never_begun(path)) and not _is_locked(path):
            shutil.rmtree(path, ignore_errors=True)


def _was_never_begun(path: str) -> bool:
    """Whether it is the directory of a leader that was killed before it said anything: others may be here, too."""
    return (
        _MADE.fullmatch(os.path.basename(path)) is not None
        and set(os.listdir(path)) <= {_LOCK}
        and time.time() - os.lstat(path).st_mtime > _BEGINNING
    )


def _is_locked(path: str) -> bool:
    try:
        with open(lock_path(path), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):  # or nobody but its owner knows: root's, of a service of ours
        return True
    return False


def lock_path(directory: str) -> str:
    """The file that who leads a service has locked, for as long as it has this run directory."""
    return os.path.join(directory, _LOCK)


def status_file(directory: str, pid: int) -> str:
    """The file in which a leader says what there is to be known of its processes."""
    return os.path.join(directory, f"status.{pid}.json")


def write_status(directory: str, status: Mapping[str, Any]) -> None:
    """Write that of this process, as a whole, for whoever may enter the directory."""
    path = status_file(directory, os.getpid())
    new = f"{path}.new"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        # Not where a link leads to: the directory may be another user's, while we are root.
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC), "w") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump(status, file)
        os.replace(new, path)


def running_in(directory: str) -> list[dict[str, Any]]:
    """What those who lead the service of this run directory say, the first one first: one, or two during an upgrade.

    Raises `OSError` for a directory that is not there, or may not be read.
    """
    found = []
    for pid in leaders_in(directory):
        with contextlib.suppress(FileNotFoundError, ValueError), open(status_file(directory, pid)) as file:
            found.append(json.load(file) | {"run_dir": os.path.realpath(directory)})
    return sorted(found, key=lambda status: float(status["started"]))


def leaders_in(directory: str) -> list[int]:
    """The process ids of those who lead the service of this run directory, be it that they have said nothing yet.

    Raises `OSError` as above.
    """
    running = [pid for pid in _named_in(directory) if runs(pid)]
    # A process may have the id of one that was killed. The lock is looked at only then: who looks, holds up who starts.
    return running if running and _is_locked(directory) else []


def silence_of(status: Mapping[str, Any]) -> float:
    """For how many seconds a leader has said nothing, though it should have: that of `run` says only what changes."""
    return max(0.0, round(time.time() - status["written"], 1)) if status.get("mode") != "run" else 0.0


def statuses(path: str | None = None) -> Iterator[dict[str, Any]]:
    """What the services say of themselves that are found here, or that with this run directory."""
    base = base_directory()
    directories = [path] if path else []
    with contextlib.suppress(OSError):
        directories = directories or sorted(os.path.join(base, name) for name in os.listdir(base))
    for directory in directories:
        with contextlib.suppress(OSError):
            yield from running_in(directory)


def _named_in(directory: str) -> list[int]:
    return [int(found[1]) for name in os.listdir(directory) if (found := _STATUS.fullmatch(name))]


def runs(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is of another user
        return True
    return True

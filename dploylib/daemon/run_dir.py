"""The run directory of a daemon: what goes on between its processes, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import EndpointError

__all__ = ["RunDir", "base_directory", "statuses"]

_STATUS = "status.json"
_LONGEST_NAME = 24  # the path of a socket has 107 characters


class RunDir:
    """A run directory. `given` is one that somebody else cares for, or that was there before: it is not removed."""

    def __init__(self, path: str, given: bool = False) -> None:
        self.path = path
        self._given = given

    @classmethod
    def make(cls, name: str, owner: tuple[int, int], path: str | None = None) -> RunDir:
        """Make the one of a service of this name, for a user and a group: at `path`, or in `base_directory`.

        Raises `EndpointError` where that cannot be trusted.
        """
        if path is None:
            base = base_directory()
            os.makedirs(base, mode=0o755, exist_ok=True)
            found = os.lstat(base)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise EndpointError(f"{base} is not a directory of ours alone: others could listen in; use --run-dir")
            _remove_stale(base)
            made = tempfile.mkdtemp(prefix=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:_LONGEST_NAME]}-", dir=base)
        else:
            made = os.path.abspath(path)
            os.makedirs(made, mode=0o700, exist_ok=True)
        if owner != (os.geteuid(), os.getegid()):
            os.chown(made, *owner)
        return cls(made, path is not None)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Say what there is to be known of the service."""
        path = os.path.join(self.path, _STATUS)
        with contextlib.suppress(OSError):
            with open(f"{path}.{os.getpid()}", "w") as file:
                json.dump(status, file)
            os.replace(file.name, path)

    def remove(self) -> None:
        """Remove it; of one that is given, what was written to it."""
        if self._given:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.path, _STATUS))
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def base_directory() -> str:
    """Where the run directories of this user are: as systemd or the session says, else among the temporary files."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    session = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(session, "dploylib") if session else f"{tempfile.gettempdir()}/dploylib-{os.geteuid()}"


def _remove_stale(base: str) -> None:
    """Remove the directories of services that were killed, and could not do it themselves."""
    for name in os.listdir(base):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(_status(os.path.join(base, name))["pid"], 0)
            except ProcessLookupError:
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def _status(directory: str) -> dict[str, Any]:
    with open(os.path.join(directory, _STATUS)) as file:
        status: dict[str, Any] = json.load(file)
    return status


def statuses(path: str | None = None) -> Iterator[dict[str, Any]]:
    """What the services say of themselves whose run directories are here, or the one with this run directory."""
    base = base_directory()
    with contextlib.suppress(OSError):
        for directory in [path] if path else sorted(os.path.join(base, name) for name in os.listdir(base)):
            with contextlib.suppress(OSError, ValueError):
                status = _status(directory)
                os.kill(status["pid"], 0)
                yield status | {"run_dir": directory}

"""Pid files: gunicorn makes them, and this says before anything is opened whether it will."""

from __future__ import annotations

import os

from gunicorn.pidfile import Pidfile

from ..errors import ConfigurationError, ConfigurationProblem

__all__ = ["check_pid_file", "remove_pid_file"]


def check_pid_file(path: str) -> None:
    """Raise `ConfigurationError` for a file that cannot be made, or that a running process has."""
    directory = os.path.dirname(path) or "."
    try:
        pid = Pidfile(path).validate()
    except OSError as error:
        raise _refused(f"{path} cannot be read: {error.strerror}") from error
    if pid and pid != os.getpid():
        raise _refused(
            f"{path} is of process {pid}, which runs: stop that first, or let this service have a file of its own "
            f"(--pid); if that process is no service (ps -p {pid}), remove the file"
        )
    if not os.path.isdir(directory):
        raise _refused(f"there is no directory {directory}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _refused(f"{directory} cannot be written to")


def remove_pid_file(path: str, pid: int) -> None:
    """Remove the file of a process that has ended and could not do it, be it that its end was not taken note of."""
    file = Pidfile(path)
    file.pid = pid
    file.unlink()


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError([ConfigurationProblem("daemon.pidfile", why)])

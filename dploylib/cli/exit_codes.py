"""What the exit status of a command says."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["EXIT_CODES", "ExitCode", "table"]


class ExitCode(IntEnum):
    """The exit status of every command. Scripts rely on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2  # click's own
    CONFIGURATION = 3
    MODULE = 4
    TIMEOUT = 5
    PEER = 6
    TRANSPORT = 7
    NOT_RUNNING = 8
    SIGINT = 130  # 128 and the number of the signal, as a shell reports a process that a signal ended
    SIGTERM = 143


EXIT_CODES: dict[ExitCode, str] = {
    ExitCode.OK: "done; a service was stopped and finished its work",
    ExitCode.FAILED: "the service failed, or something unexpected happened",
    ExitCode.USAGE: "wrong usage of the command line",
    ExitCode.CONFIGURATION: "the configuration cannot be used",
    ExitCode.MODULE: "MODULE:ATTRIBUTE cannot be loaded, or is not a service",
    ExitCode.TIMEOUT: "the time was up",
    ExitCode.PEER: "the peer answered with a problem, or not with an envelope",
    ExitCode.TRANSPORT: "an endpoint cannot be used (address in use, say), or its connection was lost",
    ExitCode.NOT_RUNNING: "there is no such service",
    ExitCode.SIGINT: "interrupted: a client by SIGINT, a service by a second signal",
    ExitCode.SIGTERM: "the same by SIGTERM",
}
"""What each of them means, in the words of `dploylib --help`."""


def table() -> str:
    """The exit codes as lines of text."""
    return "\n".join(f"{code:5}  {meaning}" for code, meaning in EXIT_CODES.items())

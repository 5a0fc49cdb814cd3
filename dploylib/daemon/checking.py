"""A child that looks at the configuration and the code, as they are now, and makes a plan of them, or says what fails.

It imports them into an interpreter of its own, so that what they do there, and what they break, is gone with it.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple

import msgspec

from .planning import Plan

__all__ = ["Checking", "Command"]

_LONGEST = 120.0  # seconds
_SOME = 65536


class Command(NamedTuple):
    """What such a child runs, and the directory in which it starts, unless it is the current one, or gone."""

    arguments: list[str]
    directory: str | None = None


class Checking:
    """One such child. It gets `--plan-fd N` behind the command, and writes the plan there as JSON."""

    def __init__(self, command: Command) -> None:
        self._reads, writes = os.pipe()
        self._errors, error_writes = os.pipe()
        for end in (self._reads, self._errors):
            os.set_blocking(end, False)
        self._said: dict[int, bytes] = {self._reads: b"", self._errors: b""}
        self._due = time.monotonic() + _LONGEST
        directory = command.directory
        try:
            self._child = subprocess.Popen(
                [*command.arguments, "--plan-fd", str(writes)],
                cwd=directory if directory is not None and os.path.isdir(directory) else None,
                pass_fds=[writes],
                stdin=subprocess.DEVNULL,
                stdout=error_writes,
                stderr=error_writes,
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(writes)
            os.close(error_writes)

    def fileno(self) -> int:
        """What becomes readable when there is an outcome."""
        return self._reads

    def reaped(self, pid: int, status: int) -> bool:
        """Take note that this child has ended, if it is ours."""
        if pid != self._child.pid:
            return False
        self._child.returncode = os.waitstatus_to_exitcode(status)
        return True

    def outcome(self) -> Plan | str | None:
        """The plan, or why there is none; None as long as it is not known."""
        for end in self._said:
            self._read(end)
        status = self._child.poll()
        if status is None:
            if time.monotonic() < self._due:
                return None
            self._child.kill()
            self._child.wait()
            self.close()
            return f"the check took longer than {_LONGEST:g} s"
        for end in self._said:
            self._read(end)
        plan, errors = self._said[self._reads], self._said[self._errors].decode(errors="replace").strip()
        self.close()
        if status == 0:
            return msgspec.json.decode(plan, type=Plan)
        return errors or f"the check exited with status {status}"

    def wait(self) -> tuple[int, str, Plan | None]:
        """Wait for the outcome. Returns the exit status, what was said, and the plan if there is one."""
        while (outcome := self.outcome()) is None:
            time.sleep(0.01)
        plan = None if isinstance(outcome, str) else outcome
        return self._child.returncode, self._said[self._errors].decode(errors="replace"), plan

    def close(self) -> None:
        """Let go of it."""
        for end in self._said:
            if end >= 0:
                os.close(end)
        child = getattr(self, "_child", None)
        if child is not None and child.returncode is None:
            child.kill()
            child.wait()

    def _read(self, end: int) -> None:
        try:
            while some := os.read(end, _SOME):
                self._said[end] += some
        except BlockingIOError:
            pass

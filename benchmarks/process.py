"""What Linux knows about a process: CPU, memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CPU:
    """CPU time that a process has used, in ns: all of its threads that live, and its main thread alone."""

    process: int
    main_thread: int

    def __add__(self, other: CPU) -> CPU:
        return CPU(self.process + other.process, self.main_thread + other.main_thread)

    def __sub__(self, earlier: CPU) -> CPU:
        return CPU(self.process - earlier.process, self.main_thread - earlier.main_thread)


def family(pid: int) -> list[int]:
    """Return the process id, and those of all processes that this one has started, or these have."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def cpu(pid: int) -> CPU:
    """Return the CPU time that the process has used, from the scheduler's own account (proc(5), schedstat)."""
    threads = {thread.name: _schedstat(thread) for thread in Path(f"/proc/{pid}/task").iterdir()}
    return CPU(sum(threads.values()), threads[str(pid)])


def _schedstat(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return 0


def all_cpu() -> float:
    """Return the CPU time that everything on this machine has used, in s, including what a hypervisor took (steal)."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _iowait, *more = map(int, first.split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return the memory of a process that is in RAM now (RSS), in bytes."""
    return _status(pid, "VmRSS")


def peak_resident(pid: int) -> int:
    """Return the most memory of a process that ever was in RAM, in bytes."""
    return _status(pid, "VmHWM")


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/status has no {key}")

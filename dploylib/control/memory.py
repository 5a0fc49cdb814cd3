"""The memory of this process."""

from __future__ import annotations

import resource
import sys

__all__ = ["resident_memory"]


def resident_memory() -> int:
    """The bytes of memory that this process has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the most that it ever had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

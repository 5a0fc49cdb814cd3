"""What one more socket or server takes, from the memory of two processes of which one has many more."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import process
from benchmarks.launch import running

MORE = 200


def each(one: Sequence[str], more: Sequence[str]) -> dict[str, float]:
    """Return the KiB that each of `MORE` takes."""
    with running(one) as small, running(more) as large:
        grown = process.resident(large.pid) - process.resident(small.pid)
        return {"each_kib": grown / 1024 / MORE, "rss_kib": process.resident(small.pid) / 1024}

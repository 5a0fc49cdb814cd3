"""Measures a time: messages, CPU, latencies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks import process


class Meter:
    """Time and CPU from now until `stop`: the server's, this process's, and that of everything else.

    A server may be several processes, the first of which counts for its memory.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._all = process.all_cpu()
        self._server = self._cpu()
        self._mine = time.process_time()
        self._began = time.perf_counter()

    def stop(self, messages: int) -> dict[str, Any]:
        """Return the figures for so many messages."""
        seconds = time.perf_counter() - self._began
        mine = time.process_time() - self._mine
        server = self._cpu() - self._server
        others = process.all_cpu() - self._all - mine - server.process / 1e9
        each = max(messages, 1)
        return {
            "messages": messages,
            "seconds": seconds,
            "throughput": messages / seconds,
            "cpu_us": server.process / 1e3 / each,
            "main_cpu_us": server.main_thread / 1e3 / each,
            "generator_cpu_us": mine * 1e6 / each,
            "server_busy": server.process / 1e9 / seconds,
            "generator_busy": mine / seconds,
            "others_busy": max(0.0, others / seconds),
            "rss_kib": process.resident(self._pids[0]) / 1024,
        }

    def _cpu(self) -> process.CPU:
        return sum(map(process.cpu, self._pids), process.CPU(0, 0))


def percentiles(latencies: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Return p50, p99 and p99.9 in µs of runs of (latency in ns, how many)."""
    ordered = sorted(latencies)
    total = sum(count for _, count in ordered)
    found: dict[str, float] = {}
    for name, part in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)):
        seen = 0
        for latency, count in ordered:
            seen += count
            if seen >= part * total:
                found[name] = latency / 1e3
                break
    return found

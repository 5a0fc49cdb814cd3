"""What the client scripts share: their load, how they are measured, and what they say on stdout.

    python -m benchmarks.clients.pyzmq_ req '{"kind": "client", "pid": 1, "endpoints": ["tcp://127.0.0.1:5000"], ...}'

The result is one JSON object, as that of the load generator. But here it is this process whose CPU is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.load import Load
from benchmarks.meter import Meter, percentiles
from benchmarks.wire import WireError

Ask = Callable[[], Any]  # makes a call, and returns the body of the reply
Run = Callable[[Sequence[Callable[[], None]]], None]  # runs functions at once, until all have returned


def play(ways: Mapping[str, Callable[[Load], dict[str, Any]]]) -> None:
    """Call in the way that the command line says, and print what came out."""
    _, way, load = sys.argv
    print(json.dumps(ways[way](Load(**json.loads(load)))))


def measure(load: Load, asks: Sequence[Ask], body: str | bytes, at_once: Run | None = None) -> dict[str, Any]:
    """Let each of `asks` be called again and again, for a warm-up and a measured time, all of them at once.

    `body` is what they have to return. Where there is only one, it is called right here, as a script does.
    """

    def call_for(seconds: float) -> list[int]:
        """Return how many ns each call took."""
        latencies: list[int] = []
        until = time.perf_counter_ns() + int(seconds * 1e9)
        callers = [lambda ask=ask: call_until(until, ask, body, latencies) for ask in asks]
        if at_once is None:
            [only] = callers
            only()
        else:
            at_once(callers)
        return latencies

    call_for(load.warm_up_seconds)
    meter, main_thread = Meter(load.pid), time.thread_time()
    latencies = call_for(load.seconds)
    figures = meter.stop(len(latencies))
    main_thread = time.thread_time() - main_thread
    return {
        **{name: figures[name] for name in ("messages", "seconds", "throughput", "server_busy", "others_busy")},
        "cpu_us": figures["generator_cpu_us"],
        "main_cpu_us": main_thread * 1e6 / len(latencies),
        "server_cpu_us": figures["cpu_us"],
        "client_busy": figures["generator_busy"],
        **percentiles([*Counter(latencies).items()]),
    }


def call_until(until: int, ask: Ask, body: str | bytes, latencies: list[int]) -> None:
    """Call until a time in ns, once at least, and note how long each call took."""
    now = time.perf_counter_ns()
    while True:
        reply = ask()
        if reply != body:
            raise WireError(f"the reply is {reply!r}")
        began, now = now, time.perf_counter_ns()
        latencies.append(now - began)
        if now >= until:
            return

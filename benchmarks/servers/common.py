"""What the server scripts share: their arguments, and what they tell on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

ANY_PORT = "tcp://127.0.0.1:*"
BODY = b"x" * 64  # of what is published
BURST = b"burst"  # what makes a publisher publish its batch
TICK_SECONDS = 0.001
WAIT_SECONDS = 1.0  # that a handler waits


class Gap:
    """The longest time between two calls of `tick`, in µs. Whoever ticks every ms learns how long it had to wait."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.longest = 0.0
        self._last = time.perf_counter()

    def tick(self) -> None:
        """Be called."""
        now = time.perf_counter()
        self.longest = max(self.longest, (now - self._last) * 1e6)
        self._last = now


def play(roles: Mapping[str, Callable[[argparse.Namespace], Any]]) -> Any:
    """Play the role that the command line says, with its settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(roles))
    parser.add_argument("--count", type=int, default=0, help="messages in a batch")
    parser.add_argument(
        "--rcvhwm", type=int, default=0, help="messages in the queue before TCP has to wait; 0: no limit"
    )
    parser.add_argument("--handler", default="send_envelope", help="how to handle a message")
    parser.add_argument("--concurrency", type=int, default=1, help="handlers at once")
    parser.add_argument("--timeout", type=float, help="seconds that a handler may take")
    parser.add_argument("--servers", type=int, default=1, help="servers in the service")
    parser.add_argument("--sockets", type=int, default=1, help="sockets in a server")
    parser.add_argument("--workers", type=int, default=2, help="workers behind a front")
    parser.add_argument("--curve", action="store_true", help="take only connections that are encrypted by CURVE")
    parser.add_argument("--monitoring", default="", help="off, or on: all of it, and somebody asks each second")
    parser.add_argument("--tracing", type=float, help="the share of messages of which OpenTelemetry has a span")
    arguments = parser.parse_args()
    return roles[arguments.role](arguments)


def announce(*endpoints: str) -> None:
    """Say that everything is bound, and where."""
    tell(" ".join(endpoints))


def done(figure: float = 0.0) -> None:
    """Say that a batch was received, and a figure about it."""
    tell(f"done {figure}")


def tell(line: str) -> None:
    """Write a line to stdout, past any buffer."""
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


def block() -> None:
    """Block the whole process until there is a line on stdin."""
    sys.stdin.readline()

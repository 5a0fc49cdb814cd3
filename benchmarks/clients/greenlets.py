"""How clients are measured that call in greenlets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gevent

from benchmarks.clients import common
from benchmarks.load import Load

LONG = 3600  # seconds


def measure(load: Load, asks: Sequence[common.Ask], body: str | bytes) -> dict[str, Any]:
    """Measure calls in a greenlet each; in the main one, if there is only one, as a script does that has no others."""
    others = [gevent.spawn(gevent.sleep, LONG)] if load.busy_hub else []
    gevent.sleep(0)
    try:
        return common.measure(load, asks, body, at_once if len(asks) > 1 else None)
    finally:
        gevent.killall(others)


def at_once(functions: Sequence[Callable[[], None]]) -> None:
    """Run functions in a greenlet each."""
    gevent.joinall([gevent.spawn(one) for one in functions], raise_error=True)

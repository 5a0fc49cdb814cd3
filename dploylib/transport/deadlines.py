"""Moments until which somebody waits, on the clock of `time.monotonic`. No I/O happens here."""

from __future__ import annotations

import math
import time
from typing import Any

from greenlet import getcurrent

__all__ = ["handler_deadline", "seconds_until", "set_handler_deadline"]


def seconds_until(moment: float) -> float | None:
    """The seconds that are left until then, as gevent wants them: None for ever."""
    return None if moment == math.inf else max(0.0, moment - time.monotonic())


def handler_deadline() -> float | None:
    """When the handler that runs in this greenlet is given up; None for never. It is for the calls that it makes.

    It is kept with the greenlet, and not in a context variable, which greenlets that the handler spawns would inherit:
    they may go on when nobody waits for the reply any more.
    """
    deadline: float | None = getattr(getcurrent(), "handler_deadline", None)
    return deadline


def set_handler_deadline(deadline: float | None) -> None:
    """Say when the handler that begins in this greenlet is given up; None when it has ended."""
    greenlet: Any = getcurrent()
    greenlet.handler_deadline = deadline

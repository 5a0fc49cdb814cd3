"""The deadline of the handler that runs in this greenlet, for the calls that it makes. No I/O happens here."""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent

__all__ = ["handler_deadline", "set_handler_deadline"]


def handler_deadline() -> float | None:
    """When the handler that runs in this greenlet is given up, on the clock of `time.monotonic`; None for never.

    It is kept with the greenlet, and not in a context variable, which greenlets that the handler spawns would inherit:
    they may go on when nobody waits for the reply any more.
    """
    deadline: float | None = getattr(getcurrent(), "handler_deadline", None)
    return deadline


def set_handler_deadline(deadline: float | None) -> None:
    """Say when the handler that begins in this greenlet is given up; None when it has ended."""
    greenlet: Any = getcurrent()
    greenlet.handler_deadline = deadline

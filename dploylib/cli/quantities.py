"""Quantities as few characters: five at most, for tables that fit into a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bar_chart", "data", "duration", "number", "share", "span"]

_BARS = " ▁▂▃▄▅▆▇█"


def number(value: float) -> str:
    """A number, of messages say: 0.4, 12, 1234, 12.3k, 4.5M."""
    if value < 10:
        return f"{value:.1f}".removesuffix(".0")
    return _scaled(value, 1000, "kMGT", most=9999)


def data(value: float) -> str:
    """A number of bytes: 512, 1.5K, 2.0M."""
    return _scaled(value, 1024, "KMGT", most=1023)


def duration(seconds: float) -> str:
    """How long something takes: 12µs, 1.2ms, 340ms, 2.50s."""
    for unit, name in ((1e-6, "µs"), (1e-3, "ms")):
        if seconds < 999.5 * unit:
            value = seconds / unit
            return f"{value:.1f}{name}" if 0 < value < 9.95 and name == "ms" else f"{value:.0f}{name}"
    return f"{seconds:.2f}s" if seconds < 9.995 else f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:.0f}s"


def span(seconds: float) -> str:
    """How long something has lasted: 12s, 34m, 5h, 6d."""
    for unit, name, most in ((1, "s", 100), (60, "m", 100), (3600, "h", 100)):
        if seconds < most * unit:
            return f"{seconds // unit:.0f}{name}"
    return f"{seconds // 86400:.0f}d"


def share(value: float) -> str:
    """A share: 12%."""
    return f"{value * 100:.0f}%"


def bar_chart(values: Sequence[float], width: int) -> str:
    """The last values as bars, the highest of them as high as a line; the newest one stands at the right."""
    shown = list(values)[-width:]
    highest = max(shown, default=0.0) or 1.0
    steps = len(_BARS) - 1
    bars = [_BARS[max(1, round(value / highest * steps)) if value > 0 else 0] for value in shown]
    return "".join(bars).rjust(width)


def _scaled(value: float, factor: int, units: str, most: float) -> str:
    unit = ""
    for larger in units:
        if value <= most:
            break
        value, unit, most = value / factor, larger, 999.5
    return f"{value:.0f}{unit}" if not unit or value >= 99.95 else f"{value:.1f}{unit}"

"""What is counted and timed in a service, and how that of several processes becomes one."""

from .histogram import Histogram, Timings
from .model import (
    Connections,
    LastError,
    ProcessStatistics,
    ServerStatistics,
    SocketStatistics,
    at_rest,
    merged,
    together,
)

__all__ = [
    "Connections",
    "Histogram",
    "LastError",
    "ProcessStatistics",
    "ServerStatistics",
    "SocketStatistics",
    "Timings",
    "at_rest",
    "merged",
    "together",
]

"""A service that is not one: it tells what a test wants, through the real statistics."""

import time

from dploylib.control import Health
from dploylib.statistics import (
    Connections,
    Histogram,
    LastError,
    ProcessStatistics,
    ServerStatistics,
    SocketStatistics,
)

SECRET = "the password is hunter2"
ERRORS = ("malformed", "refused", "rejected", "failed", "timed_out", "unanswered")


def histogram(*seconds):
    made = Histogram()
    for one in seconds:
        made.record(one)
    return made


def a_socket(**counts):
    return SocketStatistics(**{"type": "rep", "endpoints": ["tcp://127.0.0.1:14445"], **counts})


def a_process(role="worker", pid=10, *, sockets=None, state="running", hub_delay=None, **fields):
    """A process with one server, `echo`."""
    now = time.time()
    echo = ServerStatistics(
        type="service.EchoServer", state=state, hub_delay=hub_delay or Histogram(), sockets=sockets or {}
    )
    return ProcessStatistics(
        **{
            "service": "shop",
            "role": role,
            "pid": pid,
            "instance": f"{role}-{pid}",
            "version": "1.2.3",
            "state": state,
            "started": now - 60,
            "taken": now,
            "servers": {"echo": echo},
            **fields,
        }
    )


def everything():
    """A socket that has counted something of all that there is."""
    return a_socket(
        received=100,
        handled=97,
        sent=96,
        replied=95,
        undelivered=1,
        dropped=2,
        bytes_received=6400,
        bytes_sent=6300,
        problems={"handler-failed": 4, "overloaded": 3},
        handler_time=histogram(0.0001, 0.001, 0.002, 0.03, 3.0, 100.0),
        wait_time=histogram(0.00001, 0.5),
        connections=Connections(opened=9, closed=2, failed=1),
        last_error=LastError(time=1_700_000_000.5, type="ZeroDivisionError", message=SECRET),
        **dict(zip(ERRORS, (1, 2, 3, 4, 5, 6), strict=True)),
    )


class FixedSource:
    """Tells what it is given."""

    def __init__(self, *processes, health=None, name="shop"):
        self.name = name
        self.processes = processes
        self.said = health or Health(alive=True, ready=True, state="running")

    def statistics(self):
        return list(self.processes)

    def health(self):
        return self.said

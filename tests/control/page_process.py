"""Serves the page of a service that is not one, whose figures grow as if it was: `page_process.py [PORT]`.

It prints where the page is. A line that it reads is why it is not ready; an empty one, that it is.
"""

import math
import sys
import time

import gevent
from gevent.fileobject import FileObject

from dploylib.control import Health
from dploylib.control.http import HTTPServer
from dploylib.statistics import Connections, Histogram, LastError, ServerStatistics
from tests.control.sources import SECRET, FixedSource, a_process, a_socket

HOUR = 3600.0


class BusySource(FixedSource):
    """Three sockets in two workers, and a front. Each has its own rate, which goes up and down."""

    def __init__(self):
        super().__init__()
        self.began = self.last = time.time()
        self.times = {"request": Histogram(), "jobs": Histogram(), "reports": Histogram()}
        self.rates = {"request": 1200, "jobs": 40, "reports": 3}
        self.counts = dict.fromkeys(self.rates, 0)
        self.failed = 1

    def statistics(self):
        now = time.time()
        swing = 1 + 0.4 * math.sin(now / 7)
        for number, (name, rate) in enumerate(self.rates.items()):
            new = round(rate * swing * (now - self.last)) or 1
            self.counts[name] += new
            for rank in range(min(new, 200)):
                self.times[name].record(0.00012 * 9**number * swing * (1 + (rank / min(new, 200)) ** 8 * 12))
        self.failed += now % 20 > 16
        self.last = now
        return [self.front(now), *(self.worker(pid, now) for pid in (4711, 4712))]

    def front(self, now):
        return a_process(
            "front", 4710, started=self.began - HOUR, cpu_seconds=0.12 * now % 1e6, resident=31 << 20, servers={}
        )

    def worker(self, pid, now):
        first = pid == 4711
        sockets = {name: self.socket(name) for name in self.rates} if first else {}
        delay = Histogram()
        delay.record(0.0004)
        delay.counts = {bucket: int(now) for bucket in delay.counts}
        return a_process(
            pid=pid,
            started=self.began - HOUR / 2,
            cpu_seconds=0.6 * now % 1e6,
            resident=(64 + pid % 10) << 20,
            servers={
                "orders": ServerStatistics(
                    type="shop.Orders",
                    hub_delay=delay,
                    sockets={k: v for k, v in sockets.items() if k != "reports"},
                ),
                "<b>night</b>": ServerStatistics(
                    type="shop.Night", restarts=2, sockets={k: v for k, v in sockets.items() if k == "reports"}
                ),
            },
        )

    def socket(self, name):
        count = self.counts[name]
        failed = self.failed if name == "request" else 0
        return a_socket(
            type={"request": "rep", "jobs": "pull", "reports": "router"}[name],
            concurrency=100,
            received=count + 3,
            handled=count,
            sent=0 if name == "jobs" else count,
            failed=failed,
            bytes_received=count * 220,
            bytes_sent=0 if name == "jobs" else count * 910,
            handler_time=self.times[name],
            connections=Connections(opened=40, closed=12),
            last_error=LastError(time=self.last - 5, type="ZeroDivisionError", message=SECRET) if failed else None,
        )


def main(port=0):
    source = BusySource()
    with HTTPServer(source, ("127.0.0.1", port)) as server:
        print(server.url, flush=True)
        for line in FileObject(sys.stdin, "r"):
            why = line.strip()
            source.said = Health(alive=True, ready=not why, state="stopping" if why else "running", why=[why])
            gevent.sleep(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

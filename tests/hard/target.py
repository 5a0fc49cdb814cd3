"""The service that the hard tests attack: a socket of every kind that listens, in a process of its own.

`running.py` starts it. It writes where its sockets are to the file that `general.endpoints` of its configuration names.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import time
from collections import Counter
from pathlib import Path

import gevent
import greenlet
import msgspec
from gevent.event import Event

from dploylib import Server, Service, bind, bind_in, every
from dploylib.errors import PeerError

if "TARGET_LOG" in os.environ:
    logging.getLogger().addHandler(logging.FileHandler(os.environ["TARGET_LOG"]))

real_time = time.time


def by_reason(refusals):
    """How often somebody was refused, for each reason."""
    counted = Counter()
    for (reason, _), count in refusals.items():
        counted[reason] += count
    return counted


class Order(msgspec.Struct):
    item: str
    count: int = 1


class Target(Server):
    news = bind("news", "pub")
    feed = bind("feed", "xpub")

    def setup(self):
        self.released = Event()
        self.heard = Counter()
        self.ticks = 0
        self.spawn(self.read_subscriptions)
        path = Path(self.settings.get("endpoints"))
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({name: uris[0] for name, uris in self.endpoints.items()}))
        unfinished.rename(path)

    def read_subscriptions(self):
        while True:
            try:
                self.sockets.feed.receive_frames()
            except PeerError:
                self.heard["malformed subscriptions"] += 1

    @every(0.02)
    def publish(self):
        self.ticks += 1
        for socket in (self.sockets.news, self.sockets.feed):
            socket.send_text("x" * 1000, id="tick")

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return str(os.getpid()) if received.data == b"pid" else received

    @bind_in("pool", "rep", concurrency=10)
    def work(self, socket, received):
        if received.data == b"hold":
            self.heard["hold"] += 1
            self.released.wait()
            return "released"
        if received.data == b"sleep":
            gevent.sleep(0.01)
        if received.data == b"fail":
            raise ValueError("this handler was asked to fail")
        return received

    @bind_in("timed", "rep", concurrency=10, timeout=1000)
    def work_in_time(self, socket, received):
        return self.work(socket, received)

    @bind_in("router", "router")
    def router(self, socket, received):
        return received

    @bind_in("dealer", "dealer")
    def dealer(self, socket, received):
        return received

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        if received.id == "good":
            self.heard["good"] += 1

    @bind_in("sub", "sub", options={"subscribe": ""})
    def sub(self, socket, received):
        self.pull(socket, received)

    @bind_in("objects", "rep", obj=Order)
    def order(self, socket, received):
        return {"item": received.obj.item, "count": received.obj.count}

    @bind_in("state", "rep")
    def state(self, socket, received):
        """Do as told, and say how things stand."""
        command, *arguments = received.text.split()
        if command == "release":
            self.released.set()
            self.released = Event()
        if command == "jump":
            seconds = float(arguments[0])
            time.time = lambda: real_time() + seconds
        if command == "collect":
            gc.collect()
            with contextlib.suppress(AttributeError):  # another C library than glibc, which keeps what was freed
                ctypes.CDLL(None).malloc_trim(0)
        return {
            "ticks": self.ticks,
            "time": time.time(),
            "heard": self.heard,
            "greenlets": sum(isinstance(one, greenlet.greenlet) for one in gc.get_objects()),
            "refusals": {
                name: by_reason(socket.guard.refusals)
                for name, socket in self.sockets.items()
                if socket.guard is not None
            },
            "counts": {
                name: {each: getattr(counts, each) for each in counts.NUMBERS} for name, counts in self.counts.items()
            },
        }


service = Service()
service.add_server("target", Target)

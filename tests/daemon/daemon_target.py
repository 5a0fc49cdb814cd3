"""A service that is run as a daemon: its handlers say who they are, and do what else a test wants."""

import os
import time

import gevent

from dploylib.servers import Server, bind, bind_in, connect_in
from dploylib.services import Service

VERSION = "1"


class Echo(Server):
    """What may be in many processes."""

    @bind_in("request", "rep", concurrency=100)
    def request(self, socket, received):
        return f"{VERSION} {os.getpid()} {received.text}"

    @bind_in("idempotent", "rep", concurrency=100, idempotent=True, optional=True)
    def idempotent(self, socket, received):
        return f"{VERSION} {os.getpid()} {received.text}"

    @bind_in("told", "rep", optional=True, concurrency=10)
    def told(self, socket, received):
        """Does what it is told: `wait 2`, `block 2`, `die`, `grow 100`, `greet`."""
        what, _, much = received.text.partition(" ")
        if what == "wait":
            gevent.sleep(float(much))
        elif what == "block":
            ends = time.monotonic() + float(much)
            while time.monotonic() < ends:
                pass
        elif what == "die":
            os.kill(os.getpid(), 9)
        elif what == "grow":
            self.much = b"x" * (int(much) << 20)
        elif what == "greet":
            return os.environ.get("GREETING", self.settings.get("greeting", "hello"))
        return f"{VERSION} {os.getpid()} {what}"


class News(Server):
    """What may not."""

    out = bind("out", "pub")

    @bind_in("announce", "rep")
    def announce(self, socket, received):
        self.sockets.out.send_text(received.text, id="news")
        return f"{VERSION} {os.getpid()} {received.text}"


class Inner(Server):
    """What is asked within the process."""

    @bind_in("inner", "rep")
    def inner(self, socket, received):
        return f"{VERSION} {os.getpid()} {received.text}"


class Reader(Server):
    """What listens to others."""

    @connect_in("feed", "sub", options={"subscribe": ""})
    def feed(self, socket, received):
        pass


service = Service()
service.add_server("echo", Echo)

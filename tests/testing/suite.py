"""The servers that the tests of the testing kit run. They are here, and not in the tests, for processes to import."""

import os
import time
from typing import ClassVar

import gevent

from dploylib.servers import Server, bind, bind_in, connect, connect_in
from dploylib.transport import Socket


class Echo(Server):
    """Answers, unless it should die."""

    @bind_in("request", "rep", concurrency=2)
    def answer(self, socket, received):
        if received.text == "die":
            self.spawn(self.die)
            gevent.sleep(60)
        return f"{self.settings.get('greeting', '')}{received.text}"

    def die(self):
        raise ZeroDivisionError("nobody divides by that")


class KnowsPeers(Server):
    """Says who asks."""

    @bind_in("request", "router")
    def answer(self, socket, received):
        return str(received.peer and received.peer.name)


class DiesSlowly(Echo):
    """Takes its time to end."""

    def teardown(self):
        gevent.sleep(0.3)


class KillsAnother(Echo):
    """Lets the service of `tell` die in its end, and takes as long as that needs."""

    def teardown(self):
        other = self.settings.get("tell")
        other.server("echo").spawn(other.server("echo").die)
        while other.failure is None:
            gevent.sleep(0.002)
        gevent.sleep(0.05)  # in which the test is told, too


class Front(Server):
    """Asks another server."""

    back = connect("back", "req")

    @bind_in("request", "rep")
    def ask(self, socket, received):
        self.sockets.back.send_envelope(received)
        return self.sockets.back.receive_envelope(timeout=10)


class News(Server):
    """Has a socket of most types, and passes on what it receives."""

    out = bind("out", "pub")
    work = connect("work", "push")

    @bind_in("in", "pull")
    def hear(self, socket, received):
        self.sockets.out.send_envelope(received)
        self.sockets.work.send_envelope(received)

    @bind_in("routed", "router")
    def route(self, socket, received):
        return received.text.upper()

    @bind_in("pair", "pair")
    def pair(self, socket, received):
        return received.text.lower()

    @connect_in("feed", "sub", options={"subscribe": ""})
    def feed(self, socket, received):
        self.sockets.work.send_envelope(received)


class Leaks(Server):
    """Leaves something behind."""

    kept: ClassVar = []

    @bind_in("request", "rep")
    def leak(self, socket, received):
        if received.text == "greenlet":
            self.kept.append(gevent.spawn(gevent.sleep, 60))
        elif received.text == "descriptor":
            self.kept.extend(os.pipe())
        elif received.text == "socket":
            self.kept.append(Socket.new("pair"))
        return "leaked"


class Hangs(Server):
    """Never ends."""

    @bind_in("request", "rep")
    def hang(self, socket, received):
        if received.text == "block":
            time.sleep(60)
        gevent.sleep(60)

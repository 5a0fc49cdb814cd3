"""A worker behind a front, for tests: python worker_process.py CONFIGURATION, which is JSON.

It prints `ready`, and ends when it is told to (SIGTERM), or reads a line.
"""

import contextlib
import json
import logging
import os
import signal
import sys

import gevent

from dploylib.config import Place, Placement
from dploylib.servers import Server, allow, bind_in
from dploylib.services import Service, ThreadedServerCoordinator


class Tested(Server):
    """Its handlers do what they are told to: `echo`, `pid`, `sleep SECONDS`, and so on."""

    def do(self, socket, received):
        command, _, argument = received.text.partition(" ")
        return getattr(self, f"do_{command}")(argument, socket, received)

    def do_echo(self, argument, *_):
        return argument

    def do_pid(self, *_):
        return str(os.getpid())

    def do_sleep(self, argument, *_):
        gevent.sleep(float(argument))
        return str(os.getpid())

    def do_die(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_once(self, argument, *_):
        """Die, the first time that this is asked, and answer the second time."""
        if not os.path.exists(argument):
            open(argument, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return "again"

    def do_hang(self, *_):
        while True:
            with contextlib.suppress(gevent.GreenletExit):
                gevent.sleep(1000)

    def do_fail(self, *_):
        raise ValueError("as it was asked to")

    def do_peer(self, argument, socket, received):
        peer = received.peer
        return f"{peer.name} {','.join(sorted(peer.groups))} {bool(peer.key)} {peer.address}" if peer else "nobody"

    def do_later(self, argument, socket, received):
        self.spawn(self.tell, received.envelope.request_frames)
        return "now"

    def do_odd(self, argument, socket, received):
        """Send what is for nobody, and no message: the routing id of the caller alone, and a route that is none."""
        self.sockets.request.send_frames([received.envelope.id.encode() or b"nobody"])
        self.sockets.request.send_frames([b"nobody", b"no", b"delimiter"])
        return "odd"

    def do_word(self, *_):
        """Send what looks like the word with which a worker leaves."""
        self.sockets.peers.send_frames([b"", b"BYE"])
        return "said"

    def do_reply_and_die(self, argument, socket, received):
        """Die when the reply has left, and before it is said that the message is done."""
        socket.send_frames([*received.envelope.request_frames, b"", b"", b"text/plain", argument.encode()])
        gevent.sleep(0.2)
        self.do_die()

    def do_silence(self, *_):
        return None

    def tell(self, route):
        for number in range(3):
            gevent.sleep(0.01)
            self.sockets.peers.send_frames([*route, b"", b"", b"text/plain", b"later %d" % number])

    def do_crash(self, *_):
        self.spawn(self.crash)
        return "crashing"

    def crash(self):
        raise RuntimeError("as it was asked to")

    @bind_in("request", "rep", optional=True)
    def request(self, socket, received):
        return self.do(socket, received)

    @bind_in("admin", "rep", optional=True)
    @allow("admins")
    def admin(self, socket, received):
        return self.do(socket, received)

    @bind_in("peers", "router", optional=True)
    def peers(self, socket, received):
        return self.do(socket, received)

    @bind_in("jobs", "pull", optional=True)
    def jobs(self, socket, received):
        gevent.sleep(self.settings.get("job_seconds", 0))
        with open(self.settings.get("log"), "a") as log:
            log.write(f"{os.getpid()} {received.id} {received.text}\n")


def main():
    said = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="worker %(process)d %(levelname)s %(message)s")
    coordinator = ThreadedServerCoordinator() if said.get("threads") else None
    service = Service(coordinator=coordinator)
    service.graceful_timeout = said.get("graceful_timeout", 10)
    for name in said["config"]["servers"]:
        service.add_server(name, Tested)
    places = {tuple(name.split(".")): Place(front=front) for name, front in said["fronts"].items()}
    service.placement = Placement(None, places)
    stop = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, stop.set)
    with service.start(config_dict=said["config"]):
        print("ready", flush=True)
        stop.wait()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()

"""Hand-written loops on zmq.green."""

import gevent
import zmq.green as zmq

from benchmarks.servers import common, loops


def waiting(arguments):
    """Answer each request in a greenlet of its own, after a second."""
    socket = loops.ready(zmq, "router")

    def handle(message):
        gevent.sleep(common.WAIT_SECONDS)
        socket.send_multipart(message)

    while True:
        gevent.spawn(handle, socket.recv_multipart())


def backlog(arguments):
    """Work off a backlog beside a greenlet that ticks."""
    gap = common.Gap()

    def tick():
        while True:
            gevent.sleep(common.TICK_SECONDS)
            gap.tick()

    gevent.spawn(tick)
    loops.backlog(zmq, arguments.count, gap)


def idle(arguments):
    """Wait at many sockets, with a greenlet each."""
    context = zmq.Context()
    sockets = [loops.bound(zmq, context, "pull") for _ in range(arguments.sockets)]

    def drain(socket):
        while True:
            socket.recv_multipart()

    greenlets = [gevent.spawn(drain, socket) for socket in sockets]
    gevent.sleep(0)
    common.announce(*(loops.endpoint(zmq, socket) for socket in sockets))
    gevent.joinall(greenlets)


ROLES = {
    "rep": lambda arguments: loops.echo(zmq, "rep"),
    "router": lambda arguments: loops.echo(zmq, "router"),
    "pull": lambda arguments: loops.pull(zmq, arguments.count, arguments.rcvhwm),
    "pub": lambda arguments: loops.pub(zmq, arguments.count),
    "waiting": waiting,
    "backlog": backlog,
    "idle": idle,
}

if __name__ == "__main__":
    common.play(ROLES)

"""Clients of dploylib: `RequestClient`, which all greenlets share, and sockets."""

from benchmarks.clients import common, greenlets
from dploylib import Context, Socket
from dploylib.clients import RequestClient


def client(load):
    """Call on one client."""
    text = load.body.decode()
    with RequestClient(load.endpoints[0]) as one:
        return greenlets.measure(load, [lambda: one.request(text).text] * load.outstanding, text)


def req(load):
    """Call on a REQ in each greenlet."""
    text = load.body.decode()

    def connected(context):
        socket = Socket.connect_new("req", load.endpoints[0], context=context)

        def ask():
            socket.send_text(text)
            return socket.receive_text()

        return ask

    with Context.new() as context:
        return greenlets.measure(load, [connected(context) for _ in range(load.outstanding)], text)


if __name__ == "__main__":
    common.play({"client": client, "req": req})

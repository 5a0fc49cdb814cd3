"""Hand-written clients on zmq.green: what one would write with gevent."""

import itertools

import gevent
import zmq.green as zmq
from gevent.event import AsyncResult

from benchmarks.clients import common, greenlets


def req(load):
    """Call on a REQ in each greenlet."""
    context = zmq.Context()
    frames = load.envelope(load.body)

    def connected():
        socket = context.socket(zmq.REQ)
        socket.connect(load.endpoints[0])

        def ask():
            socket.send_multipart(frames)
            return socket.recv_multipart()[-1]

        return ask

    return greenlets.measure(load, [connected() for _ in range(load.outstanding)], load.body)


def dealer(load):
    """Call on one DEALER, with a number for each call by which the greenlet that reads tells the replies apart."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(load.endpoints[0])
    frames = load.envelope(load.body)
    numbers, results = itertools.count(), {}

    def read():
        while True:
            number, *_, body = socket.recv_multipart()
            results.pop(number).set(body)

    def ask():
        number = next(numbers).to_bytes(8, "big")
        result = results[number] = AsyncResult()
        socket.send_multipart([number, b"", *frames])
        return result.get()

    gevent.spawn(read)
    return greenlets.measure(load, [ask] * load.outstanding, load.body)


if __name__ == "__main__":
    common.play({"req": req, "dealer": dealer})

"""The least that a server of zerorpc's clients can be, so that it is their speed that is measured."""

import itertools

import msgspec
import zmq

from benchmarks.servers import common, loops


def serve(arguments):
    """Answer calls of `echo(body)`, whatever their method is. An event is a msgpack array: header, name, arguments."""
    socket = loops.ready(zmq, "router")
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    numbers = itertools.count()
    while True:
        identity, _, event = socket.recv_multipart()
        header, _, arguments = decode(event)
        if "response_to" in header:  # a heartbeat, or another event of a call that is on its way
            continue
        header = {"message_id": b"%032x" % next(numbers), "v": 3, "response_to": header["message_id"]}
        socket.send_multipart([identity, b"", encode([header, "OK", arguments])])


if __name__ == "__main__":
    common.play({"rep": serve})

"""A REQ of plain, blocking pyzmq."""

import zmq

from benchmarks.clients import common


def req(load):
    """Call one after the other."""
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(load.endpoints[0])
    frames = load.envelope(load.body)

    def ask():
        socket.send_multipart(frames)
        return socket.recv_multipart()[-1]

    return common.measure(load, [ask], load.body)


if __name__ == "__main__":
    common.play({"req": req})

"""A zerorpc server with one method."""

import zerorpc

from benchmarks.servers import common, loops


class Echo:
    """What is exposed."""

    def echo(self, body):
        return body


def serve(arguments):
    """Answer calls."""
    server = zerorpc.Server(Echo())
    server.bind(common.ANY_PORT)
    common.announce(loops.endpoint(zerorpc.zmq, server._events._socket))  # there is no public way to ask
    server.run()


if __name__ == "__main__":
    common.play({"rep": serve})

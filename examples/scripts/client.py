"""Send one text to server.py, and print what it answers. See there."""

import contextlib
import sys

from dploylib.transport import Context


def main(endpoint="tcp://127.0.0.1:14490"):
    with Context.new() as context:
        socket = context.socket("req")
        socket.connect(endpoint)
        socket.send_text("hello")
        print(socket.receive_text(timeout=10))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])

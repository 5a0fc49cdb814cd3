"""An echo server without any service: sockets only.

    python examples/scripts/server.py
    python examples/scripts/client.py

Both take another endpoint as their argument.
"""

import contextlib
import sys

from dploylib.transport import Context


def main(endpoint="tcp://127.0.0.1:14490"):
    with Context.new() as context:
        socket = context.socket("rep")
        socket.bind(endpoint)
        print(f"listening at {socket.endpoint}", flush=True)

        while True:
            text = socket.receive_text()
            socket.send_text(text)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])

"""Ask the service of this directory often, and again where no answer comes. See service.py."""

import sys

from dploylib.errors import ReceiveTimeout
from dploylib.transport import Context

REQUESTS = 12
PATIENCE = 1  # seconds


def ask(context, endpoint, number):
    """Ask until there is an answer. A REQ whose reply is lost can ask nothing more, so each question has its own."""
    while True:
        with context.socket("req", {"linger": 0}) as socket:  # what was not sent in time is not to be sent any more
            socket.connect(endpoint)
            socket.send_json(number)
            try:
                return socket.receive_json(timeout=PATIENCE)
            except ReceiveTimeout:
                print(f"no answer to {number}; asking again")


def main(counter, careless):
    with Context.new() as context:
        processes = {ask(context, careless, number)["process"] for number in range(REQUESTS)}
        print(f"{REQUESTS} answers by {len(processes)} processes, one after the other")
        print("counted by one that goes on:", *(ask(context, counter, number) for number in range(REQUESTS)))


if __name__ == "__main__":
    main(*sys.argv[1:])

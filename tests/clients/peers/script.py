"""A script that knows nothing of greenlets: `script.py ENDPOINT`. It asks for each line, and prints the reply.

In between, nothing runs the hub. SIGUSR1 is handled by gevent, and ends a loop of requests.
"""

import signal
import sys

import gevent

from dploylib.clients import RequestClient
from dploylib.errors import DployError

stopped = []
gevent.signal_handler(signal.SIGUSR1, stopped.append, True)
with RequestClient(sys.argv[1], timeout=20) as client:
    for line in sys.stdin:
        if line.strip() == "loop":
            print("looping", flush=True)
            while not stopped:
                client.request("x")
            print("stopped", flush=True)
        else:
            try:
                print(client.request(line.strip()).text, flush=True)
            except DployError as error:
                print(repr(error), flush=True)

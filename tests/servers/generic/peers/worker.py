"""A worker: `worker.py WORK`. It prints each job with its attempt, and never ends those that are to be held."""

import sys

import gevent

from dploylib import Service
from dploylib.servers.generic import Worker


class Printing(Worker):
    prefetch = 2

    def work(self, received):
        print(received.text, received.metadata.attempt, flush=True)
        if received.text == "hold":
            gevent.sleep(1000)


service = Service()
service.add_server("worker", Printing)
service.start(config_dict={"servers": {"worker": {"jobs": {"uri": sys.argv[1]}}}})
print("ready", flush=True)
service.wait()

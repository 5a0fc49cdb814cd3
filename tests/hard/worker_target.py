"""A worker: `worker_target.py WORK FILE`. It appends a line to the file for each job: its body, and the attempt."""

import os
import signal
import sys

import gevent

from dploylib import Service
from dploylib.servers.generic import Worker

work, path = sys.argv[1:]
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Noting(Worker):
    concurrency = 8
    prefetch = 24

    def work(self, received):
        os.write(file, f"{received.text} {received.metadata.attempt}\n".encode())
        gevent.sleep(0)


service = Service()
service.add_server("worker", Noting)
service.start(config_dict={"servers": {"worker": {"jobs": {"uri": work}}}})
gevent.signal_handler(signal.SIGTERM, service.stop)
print("ready", flush=True)
service.wait()

"""A durable queue: `queue_target.py PUT WORK ADMIN FILE`. It prints a line when it is ready."""

import logging
import signal
import sys

import gevent

from dploylib import Service
from dploylib.servers.generic import QueueServer

put, work, admin, path = sys.argv[1:]
logging.basicConfig(level=logging.ERROR)
service = Service()
service.add_server("jobs", QueueServer)
sockets = {"put": {"uri": put}, "work": {"uri": work}, "admin": {"uri": admin}}
service.start(
    config_dict={
        "servers": {"jobs": sockets},
        "settings": {"jobs": {"path": path, "max_tries": 1000, "retry_delay": 0.01}},
    }
)
gevent.signal_handler(signal.SIGTERM, service.stop)
print("ready", flush=True)
service.wait()

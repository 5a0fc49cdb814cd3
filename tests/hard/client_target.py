"""A service whose handlers take a moment, so that many are at work when it is killed: `client_target.py ENDPOINT`."""

import random
import sys

import gevent

from dploylib import Server, Service, bind_in


class Target(Server):
    @bind_in("request", "rep", concurrency=1000)
    def work(self, socket, received):
        gevent.sleep(random.uniform(0.01, 0.2))
        return received.text


service = Service()
service.add_server("target", Target)
service.start(config_dict={"servers": {"target": {"request": {"uri": sys.argv[1]}}}})
print(service.endpoints["target"]["request"], flush=True)
service.wait()

"""A service whose handler does nothing but compute, for some milliseconds, for `dploylib serve`."""

import hashlib

from dploylib import Server, Service, bind_in

ITERATIONS = 8000  # about 3 ms


class ComputingServer(Server):
    @bind_in("request", "rep")
    def compute(self, socket, received):
        hashlib.pbkdf2_hmac("sha256", received.data, b"salt", ITERATIONS)
        return received.text


service = Service()
service.add_server("bench", ComputingServer)

"""A handler as a class, which two servers share.

Its settings are class attributes, so that a subclass can change them.

    dploylib run examples/class_handler/service.py -c examples/class_handler/config.yaml
    dploylib call tcp://127.0.0.1:14450 hello
    dploylib call tcp://127.0.0.1:14451 hello
"""

from dploylib import servers
from dploylib.services import Service


class Echo(servers.Handler):
    socket_type = "rep"
    prefix = ""

    def __call__(self, server, socket, received):
        return f"{self.prefix}{received.text}"  # what a handler returns is its reply


class LoudEcho(Echo):
    prefix = "!!! "


class EchoServer(servers.Server):
    echo = Echo.bind("request")


class LoudServer(servers.Server):
    echo = LoudEcho.bind("request")


service = Service()
service.add_server("quiet", EchoServer)
service.add_server("loud", LoudServer)

"""An echo service: one server with one socket.

From the top of the checkout, in one terminal and then in another:

    dploylib run examples/echo/service.py -c examples/echo/config.yaml
    dploylib call tcp://127.0.0.1:14445 hello
"""

from dploylib import servers
from dploylib.services import Service


class EchoServer(servers.Server):
    @servers.bind_in("request", "rep")
    def echo_request(self, socket, received):
        socket.send_envelope(received)


service = Service()
service.add_server("echo", EchoServer)

if __name__ == "__main__":  # `python service.py` works too, in the directory of config.yaml
    service.run(config_file="config.yaml")

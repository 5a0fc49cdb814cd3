"""An echo service for `dploylib run`, to see how soon it answers."""

from dploylib import Server, Service, bind_in


class EchoServer(Server):
    @bind_in("request", "rep")
    def echo(self, socket, received):
        return received.text


service = Service()
service.add_server("echo", EchoServer)

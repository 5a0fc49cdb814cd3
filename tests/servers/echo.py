"""A server that echoes on every type of socket that can have a handler, for tests of what these have in common."""

import gevent

from dploylib.servers import Server, bind_in


class Echo(Server):
    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return received

    @bind_in("pool", "rep", concurrency=10)
    def pool(self, socket, received):
        gevent.sleep(0)
        return received

    @bind_in("router", "router")
    def router(self, socket, received):
        return received

    @bind_in("dealer", "dealer")
    def dealer(self, socket, received):
        return received

    @bind_in("pair", "pair")
    def pair(self, socket, received):
        return received

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        """There is no way back."""

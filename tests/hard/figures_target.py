"""A service whose handlers take a known time, and fail as they are told."""

import gevent

from dploylib.servers import Server, bind_in
from dploylib.services import Service


class Known(Server):
    """Its two sockets do the same, so that clients can ask one for what takes time, and the other for all else."""

    def answer(self, socket, received):
        """Waits so many microseconds, and answers what stands behind them; or fails."""
        what, _, rest = received.text.partition(" ")
        if what == "fail":
            raise ValueError("as it was told")
        if what == "refuse":
            return received.json  # which it is not
        if what != "0":
            gevent.sleep(int(what) / 1e6)
        return rest

    timed = bind_in("timed", "rep", concurrency=1000)(answer)
    quick = bind_in("quick", "rep", concurrency=1000)(answer)


service = Service()
service.add_server("known", Known)

"""Hand-written loops on plain, blocking pyzmq."""

import zmq

from benchmarks.servers import common, loops


def objects(arguments):
    """Answer a JSON object with the same object, newly encoded."""
    from benchmarks.servers.articles import CONVERTERS

    loops.objects(zmq, CONVERTERS[arguments.handler])


ROLES = {
    "rep": lambda arguments: loops.echo(zmq, "rep", arguments.curve),
    "router": lambda arguments: loops.echo(zmq, "router", arguments.curve),
    "pull": lambda arguments: loops.pull(zmq, arguments.count, arguments.rcvhwm),
    "pub": lambda arguments: loops.pub(zmq, arguments.count),
    "json": objects,
    "backlog": lambda arguments: loops.backlog(zmq, arguments.count, common.Gap()),
}

if __name__ == "__main__":
    common.play(ROLES)

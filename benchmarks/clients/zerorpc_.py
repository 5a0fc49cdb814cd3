"""A zerorpc client, which all greenlets share: each call has a channel of its own."""

import zerorpc

from benchmarks.clients import common, greenlets


def client(load):
    """Call on one client."""
    body = load.body
    one = zerorpc.Client(load.endpoints[0])
    return greenlets.measure(load, [lambda: one.echo(body)] * load.outstanding, body)


if __name__ == "__main__":
    common.play({"client": client})

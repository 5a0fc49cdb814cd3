"""Calls that are on their way, and what a bare peer sees of them."""

from contextlib import contextmanager

import gevent

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too


@contextmanager
def asking(client, *arguments, **how):
    """A call that is on its way."""
    call = gevent.spawn(client.request, *arguments, **how)
    try:
        yield call
    finally:
        call.kill()


def received_by(peer):
    with gevent.Timeout(PATIENCE, AssertionError("no request came")):
        return peer.recv_multipart()

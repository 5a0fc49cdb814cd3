"""What the interpreter of a `ProcessServerCoordinator` runs: prepares itself, then serves.

A script, so that the list of processes says `..._child.py NAME`. It imports nothing of dploylib, or of anybody else,
before it knows where to look for modules, with which arguments its parent was called, and whether gevent is to patch
the standard library first.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this directory: its modules are not to be found by their bare names
    import os
    import pickle
    import socket

    channel = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(channel.fileno(), False)
    channel.setblocking(True)  # gevent has made it otherwise
    job = channel.makefile("rb")
    sys.path[:], sys.argv[:], patch = pickle.load(job)
    if patch:
        from gevent import monkey

        monkey.patch_all()
    from dploylib.services.processes import serve_in_child

    sys.exit(serve_in_child(channel, job))

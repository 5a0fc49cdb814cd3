"""Workers of a server that is measured: processes of their own, which end with it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile


def started_beside(start, *arguments):
    """Call a function in a process beside this one, with a new directory and a list for the ids of workers first.

    Returns the directory at once. What the function returns is kept until this process has ended; then the workers are
    killed, and the directory is removed.
    """
    directory = tempfile.mkdtemp(prefix="dl-")
    ends, open_while_this_runs = os.pipe()
    if os.fork():
        os.close(ends)
        return directory
    os.close(open_while_this_runs)
    workers = []
    try:
        kept = start(directory, workers, *arguments)
        os.read(ends, 1)
        del kept
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


def forked(work, *arguments):
    """Call a function in a process of its own, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*arguments)
    finally:
        os._exit(0)

"""Processes of apps: each in a group of its own, which is ended in whole, and found again by whoever comes after us."""

import contextlib
import os
import signal
import time
from pathlib import Path

import gevent
from gevent.event import Event
from gevent.subprocess import DEVNULL, PIPE, STDOUT, Popen

MARK = "DPLOY_OWNER"  # in the environment of all that we start: whose it is
LONGEST_LINE = 64 * 1024  # bytes
BACKOFF = (0.5, 30.0)  # seconds before a process that ended is started again: at least, and at most
STEADY = 60.0  # seconds after which a process that ends is no longer said to do so again and again


def born(pid):
    """What tells a process from a later one with the same id: when it was started, and in which life of the machine.

    None if there is no such process, or only its zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def kill_strays(owner, known=()):
    """Kill what an owner that was killed itself has left running, and return the ids of these processes.

    These are the `known` ones, if they are what they were when they were born: their ids may be those of others by now.
    And all that are marked as its own, since it may have been killed before it took note of one.
    """
    known, killed = list(known), set()
    while strays := find_marked(owner) | {pid for pid, birth in known if born(pid) == birth}:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
        killed |= strays
        gevent.sleep(0.01)  # SIGKILL needs a moment, and what they listen at is free only after it
    return killed


def find_marked(owner):
    mark = f"{MARK}={owner}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def start(command, directory, env, owner):
    """Start a command in a process group of its own. What it says, to stdout or stderr, comes by `process.stdout`."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1", **env, MARK: owner}
    for name in ("HOME", "LANG", "TZ", "TMPDIR"):
        if name in os.environ:
            env.setdefault(name, os.environ[name])
    return Popen(command, cwd=directory, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True)


def kill_group(process, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def lines_of(process):
    """What a process says, line by line, until nobody can say anything more."""
    for line in iter(lambda: process.stdout.readline(LONGEST_LINE), b""):
        yield line.decode(errors="replace").rstrip("\r\n").replace("\0", "")
        gevent.sleep(0)  # who says something without end must not be all that is heard


class AppProcess:
    """One process of an app. It is started again when it ends, later each time, until `stop`.

    `on_start(pid)` is called with each new process, `on_end(pid)` when it has ended, `on_line(text)` with what it says.
    """

    def __init__(self, command, directory, env, owner, on_start, on_end, on_line):
        self.starts = 0
        self.ended = None  # how it ended last
        self.pid = None
        self._start = (["/bin/sh", "-c", command], directory, env, owner)
        self._on_start, self._on_end, self._on_line = on_start, on_end, on_line
        self._since = 0.0
        self._process = None
        self._patience = 0.0
        self._stopping = Event()
        self._keeping = gevent.spawn(self._keep)

    @property
    def seconds(self):
        """How long it has been running."""
        return time.monotonic() - self._since if self._process else 0.0

    def stop(self, patience):
        """End it: SIGTERM, and after so many seconds SIGKILL, for the group in whole."""
        self._patience = patience
        self._stopping.set()
        if self._process:
            kill_group(self._process, signal.SIGTERM)
        self._keeping.join(patience)
        if self._process:
            self._on_line(f"[does not end within {patience:g} s, and is killed]")
            kill_group(self._process)
        self._keeping.join()

    def _keep(self):
        pause, most = BACKOFF[0] / 2, BACKOFF[1]
        while not self._stopping.is_set():
            try:
                ran = self._run_once()
            except OSError as error:
                ran, self.ended = 0.0, f"cannot be started: {error}"
            self._on_line(f"[{self.ended}]")
            pause = BACKOFF[0] if ran > STEADY else min(2 * pause, most)
            self._stopping.wait(pause)

    def _run_once(self):
        process = start(*self._start)
        self._process, self.pid, self._since = process, process.pid, time.monotonic()
        self.starts += 1
        self._on_start(process.pid)
        reading = gevent.spawn(self._read, process)
        if self._stopping.is_set():  # since it was being started
            kill_group(process)
        status = process.wait()
        if self._stopping.is_set():
            reading.join(self._patience)  # what a shell has started may take its time, too, while it can say something
        kill_group(process)  # what it has left behind
        reading.join(timeout=1)  # unless that has left the group, and has our pipe
        reading.kill()
        process.stdout.close()
        self._on_end(process.pid)
        ran, self._process, self.pid = self.seconds, None, None
        self.ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ran

    def _read(self, process):
        for line in lines_of(process):
            self._on_line(line)

"""The servers that the tests of services run, wherever a coordinator lets them run.

That may be another interpreter. So they are at the level of a module that can be imported there, and quickly (without
pytest); the section `general` of the configuration says what a test varies; and servers and their test tell each other
through files what happened.
"""

import logging
import os
import threading
from pathlib import Path

import gevent
from gevent.monkey import get_original

from dploylib.servers import Hook, Server, bind, bind_in, connect, connect_in, every


class Flag:
    """A file that is there, or not yet: an event for greenlets, threads and processes alike."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self) -> None:
        self._path.touch()

    def unset(self) -> None:
        self._path.unlink()

    def is_set(self) -> bool:
        return self._path.exists()

    def wait(self) -> None:
        while not self.is_set():
            gevent.sleep(0.002)


class Log:
    """Lines in a file, in the order in which they were appended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{line}\n")

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []


class Flags:
    """The flags in a directory, by name (`flags.go_on`), and beside them a log, `flags.events`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events = Log(directory / "events.log")
        self.hooks = Log(directory / "hooks.log")

    def clear(self) -> None:
        """Forget all of it."""
        for path in self.directory.iterdir():
            path.unlink()

    def __getattr__(self, name: str) -> Flag:
        return Flag(self.directory / name)


class Flagged(Server):
    """Knows the flags of the test."""

    @property
    def flags(self) -> Flags:
        return Flags(Path(self.settings.get("flags")))


# What they do ----------------------------------------------------------------------------------------------------


class Echo(Flagged):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received


class Upper(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received.text.upper()


class Tells(Server):
    """Tells its settings."""

    @bind_in("request", "rep")
    def request(self, socket, received):
        return repr(self.settings.get(received.text))


class Counts(Server):
    """Counts what it was asked."""

    count = 0

    @bind_in("request", "rep")
    def request(self, socket, received):
        self.count += 1
        return str(self.count)


class Front(Server):
    """Asks another server."""

    back = connect("back", "req")

    @bind_in("request", "rep")
    def request(self, socket, received):
        self.sockets.back.send_envelope(received)
        return self.sockets.back.receive_envelope(timeout=5)


class Mixed(Server):
    request = bind_in("request", "rep")(lambda *_: None)
    out = bind("feed", "pub")
    work = connect("work", "push")


class Everything(Server):
    out = bind("out", "pub")
    work = connect("work", "push")

    def setup(self):
        self.spawn(gevent.sleep, 3600)

    @every(3600)
    def tick(self):
        pass

    @bind_in("one", "rep")
    def one(self, socket, received):
        return received

    @bind_in("many", "rep", concurrency=10)
    def many(self, socket, received):
        return received

    @bind_in("router", "router", concurrency=2)
    def router(self, socket, received):
        return received

    @connect_in("pull", "pull")
    def pull(self, socket, received):
        self.sockets.out.send_envelope(received)


# How they start --------------------------------------------------------------------------------------------------


class TakesAMoment(Echo):
    def setup(self):
        gevent.sleep(0.02)


class Switches(Echo):
    def setup(self):
        gevent.sleep(0)


class SaysWhereItIs(Flagged):
    out = bind("out", "pub")

    def setup(self):
        gevent.sleep(0.01)
        self.flags.events.append(self.sockets.out.endpoint)


class SlowToSetUp(Echo):
    """Its setup waits for the test."""

    def setup(self):
        self.flags.begun.set()
        self.flags.go_on.wait()


class StubbornSetup(Echo):
    """Its setup waits for the test, whoever wants to end it."""

    def setup(self):
        self.flags.begun.set()
        _wait_stubbornly(self.flags.go_on)


class SlowToMake(Echo):
    """Its constructor waits for the test."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.flags.making.set()
        self.flags.go_on.wait()


class NeverMade(Server):
    def __init__(self, *arguments):
        raise ZeroDivisionError("in the constructor")


class Broken(Echo):
    """Its setup fails."""

    def setup(self):
        raise ValueError("broken")


class BrokenOnceOthersBegun(Broken):
    """Its setup fails when that of another server has begun."""

    def setup(self):
        self.flags.begun.wait()
        super().setup()


class BrokenOnceOthersRun(Echo):
    """Its setup fails when the servers of the setting `others` run, by the error of the setting `error`."""

    errors = {
        "ValueError": lambda: ValueError("broken"),
        "SystemExit": lambda: SystemExit("broken"),
        "Timeout": lambda: gevent.Timeout(1),
        "GreenletExit": lambda: gevent.GreenletExit("broken"),
    }

    def setup(self):
        for name in self.settings.get("others"):
            getattr(self.flags, f"{name}_runs").wait()
        gevent.sleep(0.01)
        raise self.errors[self.settings.get("error")]()


class EverythingAndThenBroken(Everything):
    def setup(self):
        super().setup()
        raise ValueError("broken")


# How they die ----------------------------------------------------------------------------------------------------


class Dies(Echo):
    """A background greenlet fails when the test says so."""

    def setup(self):
        self.spawn(self.background)

    def background(self):
        self.flags.die.wait()
        raise ValueError("broken")


class DiesOnceOthersBegun(Dies):
    """A background greenlet fails when the setup of another server has begun."""

    def background(self):
        self.flags.begun.wait()
        gevent.sleep(0.01)
        raise ValueError("broken")


class Breaks(Echo):
    """Its socket is closed when the test says so."""

    def setup(self):
        self.spawn(self.background)

    def background(self):
        self.flags.die.wait()
        self.sockets.request.close()


class Leaves(Echo):
    """Stops by itself when the test says so."""

    def setup(self):
        self.spawn(self.background)

    def background(self):
        self.flags.die.wait()
        self.stop()


# How they stop ---------------------------------------------------------------------------------------------------


class Tidy(Echo):
    """Says when it runs, and when it was torn down."""

    def setup(self):
        # A greenlet begins when this one waits: for the end of the server.
        self.spawn(getattr(self.flags, f"{self.name}_runs").set)

    def teardown(self):
        self.flags.events.append(f"{self.name} torn down")


class Waits(Flagged):
    """Its handler waits for the test."""

    @bind_in("request", "rep")
    def request(self, socket, received):
        self.flags.running.set()
        self.flags.go_on.wait()
        return "done"


class WaitsAndKnows(Waits):
    """Tells when it knows of a stop."""

    def setup(self):
        self.spawn(self.watch)

    def watch(self):
        while not self.stopping:
            gevent.sleep(0.002)
        self.flags.stopping.set()


class WaitsDeaf(Waits):
    """One of its sockets is closed when the test says so."""

    def setup(self):
        self.spawn(self.background)

    def background(self):
        self.flags.die.wait()
        self.sockets.other.close()

    @bind_in("other", "pull")
    def other(self, socket, received):
        pass


class SaysALot(Server):
    out = connect("out", "push")

    def teardown(self):
        for number in range(1000):
            self.sockets.out.send_text(str(number))


class DiesLast(Echo):
    def teardown(self):
        raise ValueError("broken")


class DiesWhenTold(Echo):
    def setup(self):
        self.spawn(self.until_stopped)

    def until_stopped(self):
        while not self.stopping:
            gevent.sleep(0.001)
        raise ValueError("broken")


class StubbornHandler(Waits):
    """Its handler waits for the test, whoever wants to end it."""

    def request(self, socket, received):
        self.flags.running.set()
        _wait_stubbornly(self.flags.go_on)
        return "late"


class StubbornTeardown(Echo):
    """Its teardown waits for the test, whoever wants to end it."""

    def teardown(self):
        _wait_stubbornly(self.flags.go_on)
        self.flags.events.append("torn down")


class TidiesSlowly(Flagged):
    """It has a background greenlet that takes long to end."""

    def setup(self):
        self.spawn(self.tidy_slowly)

    def tidy_slowly(self):
        try:
            self.flags.begun.set()
            gevent.sleep(60)
        finally:
            gevent.sleep(3)

    def teardown(self):
        self.flags.events.append("torn down")


def _wait_stubbornly(flag: Flag) -> None:
    while not flag.is_set():
        try:
            flag.wait()
        except BaseException:  # noqa: BLE001 - as bad code does
            continue


# How they die, and are started again ---------------------------------------------------------------------------------


class Mortal(Flagged):
    """Dies in the way in which it is asked to, and tells how often it was set up."""

    def setup(self):
        self.flags.events.append("set up")
        if self.flags.broken.is_set():
            raise ValueError("broken in setup")

    @bind_in("request", "rep")
    def request(self, socket, received):
        if received.text == "pid":
            return str(os.getpid())
        if received.text == "stop":
            self.stop()
        elif received.text != "hello":
            self.spawn(getattr(self, received.text))
        return received

    def die(self):
        raise KeyError("it was asked to")

    def die_unspeakably(self):
        raise Unspeakable(object())

    def exit(self):
        os._exit(3)

    def log(self):
        logging.getLogger("suite").warning("from %s", self.name)

    def log_a_lock(self):
        logging.getLogger("suite").warning("locked", extra={"lock": threading.Lock(), "thing": Unspeakable(1)})

    def log_what_cannot_be_read(self):
        logging.getLogger("suite").warning("odd", extra={"error": Odd(1, 2)})

    def end_by_a_signal_without_a_name(self):
        os.kill(os.getpid(), 40)

    def exit_well(self):
        os._exit(0)

    def block(self):
        """Let no greenlet of the hub run until the test says so."""
        self.flags.blocking.set()
        while not self.flags.go_on.is_set():
            get_original("time", "sleep")(0.01)


class Odd(Exception):
    """Can be pickled, but not be made again of that."""

    def __init__(self, one, other):
        super().__init__("odd")


class Unspeakable(Exception):
    """Cannot be pickled, and takes other arguments than it has."""

    def __init__(self, thing):
        super().__init__()
        self.thing = lambda: thing

    def __str__(self):
        return "a thing"


class CountsRestarts(Hook):
    """Takes note of what it hears, in a file: where servers run in processes, each has a hook of its own."""

    def __init__(self, directory):
        self.directory = directory

    def server_started(self, server):
        Flags(Path(self.directory)).hooks.append(f"{server.name} started")

    def server_stopped(self, server):
        Flags(Path(self.directory)).hooks.append(f"{server.name} stopped")

    def server_failed(self, server, error):
        Flags(Path(self.directory)).hooks.append(f"{server.name} failed: {error}")

    def server_restarting(self, name, error, seconds):
        Flags(Path(self.directory)).hooks.append(f"{name} restarting: {type(error).__name__}")

    def message_handled(self, server, socket, received, seconds):
        Flags(Path(self.directory)).hooks.append(f"{server.name}.{socket} handled {received.text}")


# Whom they know ------------------------------------------------------------------------------------------------------


class Knows(Flagged):
    """Tells who asks who he is."""

    @bind_in("request", "rep")
    def request(self, socket, received):
        peer = received.peer
        return None if peer is None else {**peer._asdict(), "groups": sorted(peer.groups)}


class Asks(Flagged):
    """Asks whoever it is connected to, and takes note of what it hears."""

    def setup(self):
        self.sockets.question.send_text("from a dealer")
        self.sockets.work.send_text("from a push")

    @connect_in("question", "dealer")
    def question(self, socket, received):
        self.flags.events.append(received.text)

    work = connect("work", "push")

    @connect_in("news", "sub", options={"subscribe": ""})
    def news(self, socket, received):
        self.flags.events.append(received.text)

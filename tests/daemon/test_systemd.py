"""What `dploylib serve` and systemd say to each other: the tests are systemd, with a real socket and descriptors."""

import itertools
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.daemon.running import PATIENCE, RunningDaemon, wait_until

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

# What systemd does between its fork and the program: sockets at descriptor 3 and after it, and whom they are for.
ACTIVATE = """
import os, sys
given, names, *command = sys.argv[1:]
for number, one in enumerate(given.split(",")):
    os.dup2(int(one), 100 + number)
for number in range(len(given.split(","))):
    os.dup2(100 + number, 3 + number)
os.closerange(4 + number, 200)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(1 + number), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


END = b"END=1"


class Systemd:
    """What is at NOTIFY_SOCKET. It takes what it is told at once, as systemd does: who tells it waits for that."""

    def __init__(self, directory):
        self.address = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.told = queue.SimpleQueue()
        self.said = []
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while (told := self.socket.recv(65536)) != END:
            self.told.put(told)
        self.told.put(END)

    def hear(self, wanted=None):
        """The next notification, as a dict; of those with this in it, the next one."""
        while True:
            said = dict(line.split("=", 1) for line in self.told.get(timeout=PATIENCE).decode().splitlines())
            self.said.append(said)
            if wanted is None or wanted in said:
                return said

    def all_heard(self):
        """All that it was told, now that there is nobody any more to tell it something."""
        self.close()
        while "END" not in self.hear():
            pass
        return self.said

    def close(self):
        if self.socket.fileno() >= 0:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(END, self.address)
            self.thread.join()
            self.socket.close()

    def environment(self, **others):
        return {"NOTIFY_SOCKET": self.address, **others}


@pytest.fixture
def systemd():
    with tempfile.TemporaryDirectory(prefix="dl-") as directory:
        systemd = Systemd(Path(directory))
        yield systemd
        systemd.close()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def activated(directory, listening, names, *arguments, uri="tcp://127.0.0.1:*"):
    """A service that systemd has opened sockets for."""
    descriptors = [one.fileno() for one in listening]
    launcher = [sys.executable, "-c", ACTIVATE, ",".join(map(str, descriptors)), names]
    configuration = {"servers": {"echo": {"request": {"uri": uri}}}}
    return RunningDaemon(directory, *arguments, launcher=launcher, descriptors=descriptors, configuration=configuration)


def endpoint_of(sock):
    return "tcp://{}:{}".format(*sock.getsockname())


def test_systemd_hears_of_the_start_of_reloads_and_of_the_stop(tmp_path, systemd):
    with RunningDaemon(tmp_path, "-w", "2", environment=systemd.environment()) as daemon:
        assert systemd.hear("READY")["STATUS"].startswith("2 of 2 workers")

        before = time.monotonic_ns() // 1000
        daemon.send(signal.SIGHUP)
        reloading = systemd.hear("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.hear("READY")["STATUS"].startswith("2 of 2 workers")

        daemon.file.write_text("servers: [")  # a reload that fails is over, too
        daemon.send(signal.SIGHUP)
        systemd.hear("RELOADING")
        systemd.hear("READY")
        assert "not reloaded, nothing has changed" in daemon.log

        daemon.send(signal.SIGTERM)
        assert systemd.hear("STOPPING")["STATUS"] == "stopping"
        assert daemon.process.wait(PATIENCE) == 0
    assert "WATCHDOG" not in {key for said in systemd.all_heard() for key in said}


def test_what_cannot_start_is_never_ready(tmp_path, systemd):
    with RunningDaemon(
        tmp_path, code="\nraise OSError('no')", environment=systemd.environment(), ready=False
    ) as daemon:
        assert daemon.process.wait(PATIENCE) == 4  # RestartPreventExitStatus= of the example has it
    assert not any("READY" in said for said in systemd.all_heard())


def test_the_watchdog_is_fed(tmp_path, systemd):
    with RunningDaemon(tmp_path, environment=systemd.environment(WATCHDOG_USEC="400000")):
        for _ in range(3):
            systemd.hear("WATCHDOG")


def test_the_watchdog_is_fed_while_a_front_takes_no_orders(tmp_path, systemd):
    """As long as it takes to find out, and to have another one: systemd would end all of it."""
    environment = systemd.environment(WATCHDOG_USEC="4000000")
    with RunningDaemon(tmp_path, "-w", "2", environment=environment) as daemon:
        assert systemd.hear("READY")
        (front,) = daemon.processes("front")
        os.kill(front, signal.SIGSTOP)
        fed = []
        while "the front takes no orders" not in daemon.log:
            systemd.hear("WATCHDOG")
            fed.append(time.monotonic())
        assert max(after - before for before, after in itertools.pairwise(fed)) < 4
        wait_until(lambda: daemon.processes("front") not in ([], [front]))
        assert daemon.ask("x")


def test_an_upgrade_hands_the_service_over_when_the_first_arbiter_ends(tmp_path, systemd):
    """Said earlier, the first would be stopped by systemd when the second ends, which is the way back."""
    with RunningDaemon(tmp_path, environment=systemd.environment(WATCHDOG_USEC="400000")) as daemon:
        first = daemon.process
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: daemon.status()["pid"] not in (0, first.pid) and daemon.status()["pid"])
        daemon.wait_logged("ready: ", times=2)
        first.send_signal(signal.SIGTERM)
        assert systemd.hear("MAINPID") == {"MAINPID": str(second)}
        assert not any("STOPPING" in said for said in systemd.said)
        assert first.wait(PATIENCE) == 0
        assert int(systemd.hear("MAINPID")["MAINPID"]) in daemon.processes()  # for it to look at the second one again
        assert systemd.hear() == {"MAINPID": str(second)}
        assert systemd.hear("READY")["STATUS"].startswith("1 of 1 workers")
        systemd.hear("WATCHDOG")
        os.kill(second, signal.SIGTERM)
        systemd.hear("STOPPING")


def test_an_upgrade_that_is_taken_back_is_none_to_systemd(tmp_path, systemd):
    with RunningDaemon(tmp_path, environment=systemd.environment()) as daemon:
        first = daemon.process.pid
        daemon.send(signal.SIGUSR2)
        second = wait_until(lambda: daemon.status()["pid"] not in (0, first) and daemon.status()["pid"])
        daemon.wait_logged("ready: ", times=2)
        os.kill(second, signal.SIGTERM)
        daemon.wait_logged(f"the new arbiter {second} has ended")
        daemon.send(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
    said = systemd.all_heard()
    assert not any("MAINPID" in one for one in said)
    assert sum("STOPPING" in one for one in said) == 1


def test_a_socket_is_taken_by_its_address_and_outlives_the_service(tmp_path, listening):
    for name in "first", "second":
        (tmp_path / name).mkdir()
        with activated(tmp_path / name, [listening], "echo.socket", uri=endpoint_of(listening)) as daemon:
            assert daemon.endpoint() == endpoint_of(listening)
            assert daemon.ask()
            daemon.send(signal.SIGTERM)
            assert daemon.process.wait(PATIENCE) == 0
    socket.create_connection(listening.getsockname(), timeout=PATIENCE).close()


@pytest.mark.parametrize("balance", ["connections", "messages"])
def test_a_socket_is_taken_by_its_name_and_one_that_is_for_nobody_is_closed(tmp_path, listening, balance):
    other = socket.create_server(("127.0.0.1", 0))
    sockets = [other, listening]
    with activated(tmp_path, sockets, "someone.else:echo.request", "-w", "2", "--balance", balance) as daemon:
        assert daemon.endpoint() == endpoint_of(listening)
        assert daemon.ask()
        daemon.wait_logged("systemd has opened a socket (someone.else) that is for no endpoint")
        address = other.getsockname()
        other.close()
        with pytest.raises(ConnectionRefusedError):  # neither we nor the service have it any more
            socket.create_connection(address, timeout=PATIENCE)


def test_sockets_for_another_process_are_not_taken(tmp_path):
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "echo.request"}
    with RunningDaemon(tmp_path, environment=environment) as daemon:
        assert daemon.ask()

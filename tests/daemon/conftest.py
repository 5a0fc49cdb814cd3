"""A front, workers and clients, each in a process of its own but for the clients."""

import json
import os
import socket
import sys
from pathlib import Path

import gevent
import gevent.subprocess
import pytest
import zmq.green as zmq

from dploylib.daemon.front_owner import FrontOwner
from dploylib.daemon.lane import Lane

HERE = Path(__file__).parent
PATIENCE = 20.0


class Started:
    """A process."""

    def __init__(self, script, *arguments):
        pipe = gevent.subprocess.PIPE
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        self.popen = gevent.subprocess.Popen(command, stdout=pipe, env=env)
        self.pid = self.popen.pid

    def line(self):
        with gevent.Timeout(PATIENCE, AssertionError("the process says nothing")):
            return self.popen.stdout.readline().decode().strip()

    def signal(self, number):
        self.popen.send_signal(number)

    def end(self):
        with gevent.Timeout(PATIENCE, AssertionError("the process does not end")):
            return self.popen.wait()

    def kill(self):
        self.popen.kill()
        self.popen.wait()


class Stage:
    """A front with its owner, and what a test puts around it."""

    def __init__(self, directory, wait_until):
        self.directory = directory
        self.wait_until = wait_until
        self.control = str(directory / "control")
        self.processes = []
        self.listening = {}
        self.owners = []
        self.lanes = []
        self.context = zmq.Context()
        self.clients = []

    # The front ---------------------------------------------------------------------------------------------

    def start_front(self):
        self.front = Started("front_process.py", self.control)
        self.processes.append(self.front)
        return self.own()

    def own(self):
        self.wait_until(self.try_to_own)
        return self.owners[-1]

    def try_to_own(self):
        try:
            self.owners.append(FrontOwner(self.control, PATIENCE))
        except OSError:
            return False
        return True

    def listen(self):
        """A new endpoint, at which a socket listens already."""
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        uri = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        self.listening[uri] = listening
        return uri

    def lane(self, name, kind="rep", uri=None, server="tested", **settings):
        """Say that there is to be such a lane; `configure` does it."""
        uri = uri or self.listen()
        lane = Lane(server, name, kind, (uri,), f"ipc://{self.directory}/{server}.{name}", **settings)
        self.lanes.append(lane)
        return uri

    def configure(self, *owners):
        descriptors = {uri: one.fileno() for uri, one in self.listening.items()}
        for owner in owners or self.owners[-1:]:
            assert owner.configure(self.lanes, descriptors, 10) == []

    def status_of_all(self):
        return self.owners[-1].status()["lanes"]

    def status(self, name="request"):
        return self.owners[-1].status()["lanes"][f"tested.{name}"]

    # Workers -----------------------------------------------------------------------------------------------

    def start_worker(self, config=None, **said):
        servers = {}
        fronts = {}
        for lane in self.lanes:
            settings = {"uri": list(lane.uris), "concurrency": lane.concurrency}
            settings |= {"overload": "reject"} if lane.rejects else {}
            security = {
                name: value for name in ("secret_key", "authorized_keys") if (value := getattr(lane.security, name))
            }
            settings |= {"security": security} if security else {}
            servers.setdefault(lane.server, {})[lane.socket] = settings
            fronts[f"{lane.server}.{lane.socket}"] = lane.backend
        general = {"log": str(self.directory / "log"), **said.pop("general", {})}
        config = {"servers": servers, "general": general, **(config or {})}
        config |= {"supervision": said.pop("supervision")} if "supervision" in said else {}
        worker = Started("worker_process.py", json.dumps({"config": config, "fronts": fronts, **said}))
        self.processes.append(worker)
        return worker

    def start_workers(self, count=1, lane="request", **said):
        workers = [self.start_worker(**said) for _ in range(count)]
        pids = {worker.pid for worker in workers}
        self.wait_until(lambda: pids <= self.pids(lane))
        return workers

    def pids(self, lane="request"):
        return {worker["pid"] for worker in self.status(lane)["workers"] if worker["state"] == "ready"}

    # Clients -----------------------------------------------------------------------------------------------

    def client(self, uri, kind="req"):
        client = self.context.socket(getattr(zmq, kind.upper()))
        client.linger = 0
        client.connect(uri)
        self.clients.append(client)
        return client

    def close(self):
        for process in self.processes:
            process.kill()
            process.popen.stdout.close()
        for owner in self.owners:
            owner.close()
        for one in self.listening.values():
            one.close()
        self.context.destroy(linger=0)


@pytest.fixture
def wait_long():
    def wait(condition):
        with gevent.Timeout(PATIENCE, TimeoutError("the condition never held")):
            while not condition():
                gevent.sleep(0.01)

    return wait


@pytest.fixture
def stage(tmp_path_factory, wait_long):
    """A front without lanes, for tests to put them in."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="dl-"))
    stage = Stage(directory, wait_long)
    try:
        stage.start_front()
        yield stage
    finally:
        stage.close()
        shutil.rmtree(directory)


def request(client, text, id=b"", route=()):
    """Send a request, without waiting for the reply."""
    start = [*route, b""] if client.type == zmq.DEALER else []
    client.send_multipart([*start, id, b"text/plain", text.encode()])


def reply(client, seconds=PATIENCE):
    """Wait for a reply: its mimetype and body."""
    with gevent.Timeout(seconds, AssertionError("there is no reply")):
        return tuple(client.recv_multipart()[-2:])


def ask(client, text):
    """Ask, and return the text of the reply."""
    request(client, text)
    return reply(client)[1].decode()

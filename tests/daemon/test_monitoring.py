"""What a daemon tells of itself by HTTP and by its control sockets, from its start to its end."""

import contextlib
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request

import pytest

from dploylib.cli.exit_codes import ExitCode
from dploylib.control.asking import ask
from dploylib.control.protocol import Info, Ping
from dploylib.control.remote import Remote
from dploylib.control.snapshot import Snapshot
from tests.daemon.running import RunningDaemon, wait_until
from tests.daemon.test_serve import serve

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

WAITS_FOR_A_FILE = """
class Slow(Echo):
    def setup(self):
        while not os.path.exists(self.settings.get("go")):
            gevent.sleep(0.01)

service = Service()
service.add_server("echo", Slow)
"""


def configured(http=0, **sections):
    echo = {"request": {"uri": "tcp://127.0.0.1:*"}, "told": {"uri": "tcp://127.0.0.1:*"}}
    return {
        "servers": {"echo": echo},
        "monitoring": {"http": http},
        "daemon": {"workers": 2, "balance": "messages"},
        **sections,
    }


def get(url, path):
    """Status and body; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def urls(daemon):
    """Where its HTTP sides have listened, the latest last."""
    return [
        line.rpartition("listening at ")[2].rstrip("/")
        for line in daemon.log.splitlines()
        if "listening at http" in line
    ]


@contextlib.contextmanager
def taken():
    """A port at which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Watch:
    """Looks again and again how much was received ever, as a scrape would: what it has seen goes up only."""

    def __init__(self, url):
        self.url = url
        self.seen = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._over.wait(0.05):
            status, body = get(self.url(), "/api/statistics")
            if status == 200:
                servers = json.loads(body)["servers"]
                self.seen.append(servers["echo"]["sockets"]["request"]["received"] if "echo" in servers else 0)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@pytest.mark.timeout(180)  # all the life of a daemon
def test_a_daemon_tells_how_it_is_from_its_start_to_its_end(tmp_path):
    go = tmp_path / "go"
    configuration = configured(general={"go": str(go)})
    with RunningDaemon(
        tmp_path, "-n", "shop", configuration=configuration, code=WAITS_FOR_A_FILE, ready=False
    ) as daemon:
        # It starts.
        wait_until(lambda: urls(daemon), "the HTTP side")
        url = urls(daemon)[-1]
        assert get(url, "/healthz")[0] == 200
        status, body = get(url, "/readyz")
        assert status == 503
        assert "starting" in body
        go.touch()
        daemon.wait_ready()
        wait_until(lambda: get(url, "/readyz")[0] == 200)
        [monitor] = daemon.processes("monitor")

        # It tells what it counts: messages by its workers, connections by its front.
        for _ in range(20):
            daemon.ask()
        source = Remote(str(daemon.run_dir), "it")
        wait_until(lambda: request_of(source).handled == 20)
        roles = sorted(one.role for one in source.statistics())
        assert roles == ["front", "worker", "worker"]
        assert request_of(source).connections.opened >= 20
        assert request_of(source).problems == {}
        assert request_of(source).concurrency == 200
        front = next(one for one in source.statistics() if one.role == "front")
        assert front.servers["echo"].sockets["request"].received == 0, "the workers count these"
        infos = ask(str(daemon.run_dir), "INFO", kind=Info, timeout=5)
        assert {one.value.service for one in infos} == {"shop"}
        assert next(one for one in infos if one.value.role == "worker").value.target == f"{daemon.service}:service"

        # Nothing that is counted goes back when a worker is killed, or all are replaced.
        with Watch(lambda: url) as watch:
            wait_until(lambda: watch.seen and watch.seen[-1] == 20)
            victim = daemon.processes()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in daemon.processes() and len(daemon.processes()) == 2)
            for _ in range(10):
                daemon.ask()
            wait_until(lambda: watch.seen[-1] >= 30)
            daemon.reload()
            wait_until(lambda: len(daemon.processes(generation=2)) == 2)
            for _ in range(10):
                daemon.ask()
            wait_until(lambda: watch.seen[-1] >= 40)
        assert watch.seen == sorted(watch.seen)
        assert watch.seen[-1] == 40
        assert daemon.processes("monitor") == [monitor], "it remembers what the one has counted that was killed"
        assert get(url, "/readyz")[0] == 200

        # A reload that cannot listen changes nothing.
        workers = sorted(daemon.processes())
        with taken() as port:
            daemon.configure(configured(http=port, general={"go": str(go)}))
            daemon.send(signal.SIGHUP)
            daemon.wait_logged("not reloaded, nothing has changed")
            assert f"cannot listen at http://127.0.0.1:{port}/ (monitoring.http): Address already in use" in daemon.log
            wait_until(lambda: daemon.status().get("state") == "ready" and sorted(daemon.processes()) == workers)
        assert daemon.processes("monitor") == [monitor]
        assert get(url, "/readyz")[0] == 200

        # One that says another place listens there.
        daemon.configure(configured(http="localhost:0", general={"go": str(go)}))
        daemon.reload()
        other = urls(daemon)[-1]
        assert other != url
        wait_until(lambda: get(url, "/healthz")[0] == 0)
        wait_until(lambda: get(other, "/readyz")[0] == 200)

        # It stops: not ready, as long as something runs.
        waiting = threading.Thread(target=daemon.ask, args=("wait 1.5", "echo.told"))
        waiting.start()
        wait_until(lambda: sockets_of(source)["told"].in_flight == 1)
        daemon.send(signal.SIGTERM)
        wait_until(lambda: get(other, "/readyz")[0] == 503)
        assert get(other, "/healthz")[0] == 200
        assert daemon.process.wait(30) == 0
        waiting.join()
        assert get(other, "/healthz")[0] == 0
        assert daemon.all_processes() == set()
        assert os.listdir(daemon.run_dir) == []


def sockets_of(source):
    servers = Snapshot(source).ever
    return servers["echo"].sockets


def request_of(source):
    return sockets_of(source)["request"]


def test_one_that_cannot_listen_does_not_start(tmp_path):
    with taken() as port:
        ended = serve(tmp_path, configuration=configured(http=port))
    assert ended.returncode == ExitCode.TRANSPORT
    text = f"cannot listen at http://127.0.0.1:{port}/ (monitoring.http): Address already in use"
    assert text in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


def test_without_the_front_workers_count_the_connections_and_a_worker_can_stop_or_reload_all(tmp_path):
    daemon_settings = {"workers": 2, "balance": "connections"}
    with RunningDaemon(tmp_path, configuration=configured(http=None, daemon=daemon_settings)) as daemon:
        assert daemon.processes("monitor") == []
        for _ in range(10):
            daemon.ask()
        source = Remote(str(daemon.run_dir), "it")
        wait_until(lambda: request_of(source).handled == 10)
        assert request_of(source).connections.opened == 10
        wait_until(lambda: request_of(source).connections.open == 0)
        run_dir = str(daemon.run_dir)
        roles = [one.value.role for one in ask(run_dir, "PING", kind=Ping, timeout=5)]
        assert roles == ["worker", "worker"]
        first = ask(run_dir, "RELOAD", timeout=5)[0]
        assert first.error == ""
        daemon.wait_logged("reloaded\n")
        wait_until(lambda: len(daemon.processes(generation=2)) == 2)
        wait_until(lambda: request_of(source).received == 10)
        assert ask(run_dir, "STOP", timeout=5)[0].error == ""
        assert daemon.process.wait(30) == 0

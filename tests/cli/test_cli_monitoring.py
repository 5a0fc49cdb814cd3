"""What `dploylib run` tells of itself: by HTTP, and to who asks its control socket."""

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request

import pytest

from dploylib.cli.exit_codes import ExitCode

pytestmark = pytest.mark.once("commands run in interpreters of their own")


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def run_dir(ipc_dir):
    """A run directory, which nothing may be left in."""
    path = ipc_dir / "run"
    yield path
    if path.exists():
        path.rmdir()


def test_a_service_tells_how_it_is_by_http_and_by_its_control_socket(start_service, dploylib, run_dir, directory):
    running = start_service("--set", "monitoring.http=0", "--run-dir", str(run_dir))
    url = re.search(r"http://[^ ]+", running.wait_for("listening at")["message"])[0]
    running.wait_for("sample.spawn is at")
    for _ in range(3):
        dploylib("call", running.endpoint("echo"), "four")
    assert get(f"{url}healthz")[0] == 200
    assert get(f"{url}readyz")[0] == 200
    told = json.loads(get(f"{url}api/statistics")[1])
    assert told["servers"]["sample"]["sockets"]["echo"]["received"] == 3
    assert [one["role"] for one in told["processes"]] == ["run"]

    # By hand, as docs/statistics.md says.
    control = f"ipc://{run_dir}/control.{running.process.pid}"
    stats = json.loads(dploylib("call", control, "--id", "STATS", "").stdout)
    assert stats["servers"]["sample"]["sockets"]["echo"]["bytes_received"] == 12
    asked = dploylib("call", control, "--id", "LOGLEVEL", "--json", '{"level": "debug"}')
    assert json.loads(asked.stdout)["level"] == "debug"
    assert dploylib("call", control, "--id", "NONSENSE", "").returncode == ExitCode.PEER

    # A handler that is waited for: not ready any more, and it is told until the end.
    slow = directory / "go"
    call = dploylib("call", running.endpoint("slow"), str(slow), "--timeout", "0.01")
    assert call.returncode == ExitCode.TIMEOUT
    running.wait_for("handling")
    dploylib("call", control, "--id", "STOP", "")
    running.wait_for("told to stop")
    status, body = get(f"{url}readyz")
    assert status == 503, body
    assert get(f"{url}healthz")[0] == 200
    slow.touch()
    assert running.ended() == 0
    assert not listens(int(url.rstrip("/").rpartition(":")[2]))
    assert not run_dir.exists() or os.listdir(run_dir) == []


def test_an_address_in_use_is_one_message_and_nothing_runs(start_service):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start_service("--set", f"monitoring.http={port}")
        assert running.ended() == ExitCode.TRANSPORT
    [said] = running.records
    assert said["message"] == f"cannot listen at http://127.0.0.1:{port}/ (monitoring.http): Address already in use"


def test_without_a_control_socket_it_has_its_http_side_all_the_same(start_service, run_dir):
    running = start_service("--set", "monitoring.http=0", "--no-control")
    url = re.search(r"http://[^ ]+", running.wait_for("listening at")["message"])[0]
    running.wait_for("sample.spawn is at")
    assert get(f"{url}readyz")[0] == 200
    running.process.send_signal(signal.SIGTERM)
    assert running.ended() == 0

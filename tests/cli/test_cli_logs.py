"""The log of `dploylib run`, as who reads it finds it."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from dploylib.clients import RequestClient
from dploylib.handling import Trace
from dploylib.transport import Envelope, Metadata, Socket
from tests.cli.conftest import ENVIRONMENT

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)

PROCESSES = """
import logging, gevent
from dploylib import Server, Service, bind_in
from dploylib.services import {coordinator}

class Talker(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        gevent.spawn(logging.getLogger("app").warning, "talking").join()
        if received.text == "fail":
            raise ValueError("failed")
        return "ok"

service = Service(coordinator={coordinator}())
service.add_server("talker", Talker)
"""


def ask(endpoint, text, metadata):
    with Socket.new("dealer", endpoint) as caller:
        caller.send_envelope(Envelope.new("text/plain", text, request_frames=[metadata.to_frame()]), timeout=20)
        return caller.receive_envelope(timeout=20)


def plain(**more):
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    return {**environment, "TERM": "xterm", **more}


def test_each_record_says_of_which_message_it_is(start_service):
    service = start_service("--set", "daemon.name=shop")
    ask(service.endpoint("fail"), "x", Metadata("r1", traceparent=str(TRACE)))
    failed = service.wait_for("the handler of sample.fail failed")
    known = {key: failed[key] for key in ("service", "server", "socket", "request_id", "trace_id")}
    assert known == {
        "service": "shop",
        "server": "sample",
        "socket": "fail",
        "request_id": "r1",
        "trace_id": TRACE.trace_id,
    }


def test_each_record_says_of_which_service_it_is(start_service, dploylib, tmp_path):
    run_dir = str(tmp_path / "run")
    service = start_service("--set", "daemon.name=shop", "--run-dir", run_dir)
    service.endpoint("fail")
    assert dploylib("loglevel", "--run-dir", run_dir, "debug").returncode == 0
    told = service.wait_for("the level of the log is debug from now on")
    assert told["server"] == "control"
    assert {record.get("service") for record in service.records} == {"shop"}


@pytest.mark.parametrize(
    "coordinator", ["GreenletServerCoordinator", "ThreadedServerCoordinator", "ProcessServerCoordinator"]
)
def test_wherever_servers_run_records_say_so(start, directory, coordinator):
    (directory / "talker.py").write_text(PROCESSES.format(coordinator=coordinator))
    endpoint = f"ipc://{directory}/talker.sock"
    process = start("run", "talker", "--log-format", "json", "--set", f"servers.talker.request.uri={endpoint}")
    assert "talker.request is at" in process.stderr.readline()
    ask(endpoint, "fail", Metadata("r1", traceparent=str(TRACE)))
    talking, failed = (json.loads(process.stderr.readline()) for _ in range(2))
    for record in talking, failed:
        assert (record["server"], record["socket"], record["request_id"]) == ("talker", "request", "r1")
        assert record["trace_id"] == TRACE.trace_id
    assert talking["message"] == "talking"
    assert failed["message"].startswith("the handler of talker.request failed: ValueError at ")
    assert "\n" not in failed["message"]
    assert failed["exception"].endswith("ValueError: failed")


def test_an_access_log_has_lines_for_machines(start_service):
    service = start_service("--set", "monitoring.access_log=1")
    with RequestClient(service.endpoint("echo")) as client:
        client.request("the secret body", id="id 1")
    line = service.wait_for("sample.echo handled text/plain of 15 bytes with id 'id 1' in ")
    assert line["logger"] == "dploylib.access"
    assert (line["outcome"], line["message_id"], line["mimetype"], line["bytes"]) == (
        "handled",
        "id 1",
        "text/plain",
        15,
    )
    assert line["milliseconds"] >= 0
    assert line["request_id"].isdecimal()
    assert "secret" not in json.dumps(line)


def test_there_is_no_access_log_unless_it_is_asked_for(start_service, dploylib):
    service = start_service()
    dploylib("call", service.endpoint("echo"), "hello")
    service.process.send_signal(signal.SIGTERM)
    service.ended()
    assert not [record for record in service.records if record["logger"] == "dploylib.access"]


def what_a_terminal_shows(directory, **environment):
    """What a service logs on a terminal about a handler that fails: its line."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dploylib", "run", "sample", "-c", "config.yaml"]
    with open(ours, encoding="utf-8") as terminal:
        process = subprocess.Popen(command, cwd=directory, env=plain(**environment), stderr=theirs)
        os.close(theirs)
        try:
            while "sample.fail is at " not in (line := terminal.readline()):
                assert line
            ask(line.split("sample.fail is at ")[1].split()[0], "x", Metadata("r1"))
            while " failed: ValueError" not in (line := terminal.readline()):
                assert line
        finally:
            process.kill()
            process.wait()
    return line


def test_a_terminal_is_coloured(directory):
    line = what_a_terminal_shows(directory)
    assert "\x1b[31mERROR\x1b[0m" in line
    assert "\x1b[2m[sample.fail request=r1]\x1b[0m" in line


def test_a_terminal_is_not_coloured_for_who_does_not_want_that(directory):
    line = what_a_terminal_shows(directory, NO_COLOR="1")
    assert " ERROR " in line
    assert "[sample.fail request=r1]" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("environment", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
def test_a_pipe_is_coloured_only_for_who_insists(directory, environment, coloured):
    with subprocess.Popen(
        [sys.executable, "-m", "dploylib", "run", "sample", "-c", "config.yaml"],
        cwd=directory,
        env=plain(**environment),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while "sample.fail is at " not in (line := process.stderr.readline()):
                assert line
            ask(line.split()[-1], "x", Metadata())
            while " failed: ValueError" not in (line := process.stderr.readline()):
                assert line
        finally:
            process.kill()
    assert ("\x1b" in line) is coloured

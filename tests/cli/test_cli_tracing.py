"""Spans of services that the command line runs, as OTEL_* says."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dploylib.clients import RequestClient
from dploylib.transport import Envelope, Metadata, Socket
from tests.cli.conftest import ENVIRONMENT

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"

SERVICES = """
from dploylib import RequestClient, Server, Service, bind_in
from dploylib.services import {coordinator}

class Last(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received.metadata.traceparent

class First(Server):
    def setup(self):
        self.client = RequestClient(self.settings.get("last"))

    @bind_in("request", "rep")
    def request(self, socket, received):
        return self.client.request(received.text).text

first, last = Service(coordinator={coordinator}()), Service(coordinator={coordinator}())
first.add_server("first", First)
last.add_server("last", Last)
"""


@pytest.fixture
def run(tmp_path):
    """`run("first", "--set", "x=y", VARIABLE="value")`: a service that runs; what it prints goes to a file."""
    processes = []

    def run(name, *options, command="run", coordinator="GreenletServerCoordinator", **environment):
        (tmp_path / "services.py").write_text(SERVICES.format(coordinator=coordinator))
        endpoint = f"ipc://{tmp_path}/{name}.sock"
        given = {f"servers.{name}.request.uri": endpoint, "general.last": f"ipc://{tmp_path}/last.sock"}
        values = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        with open(tmp_path / f"{name}.out", "w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "dploylib", command, f"services:{name}", *values, *options],
                cwd=tmp_path,
                env={**without_otel(), **environment},
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            )
        processes.append(process)
        process.endpoint, process.log = endpoint, ""
        while f"{name}.request is at" not in (line := process.stderr.readline()):
            assert line, process.log
            process.log += line
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def without_otel():
    return {name: value for name, value in ENVIRONMENT.items() if not name.startswith("OTEL_")}


def stop(process):
    """Stop a service, and return what it has logged since, and the spans that it has printed."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    name = os.path.basename(process.endpoint).removesuffix(".sock")
    return process.log + log, spans_in(os.path.join(os.path.dirname(process.endpoint[6:]), f"{name}.out"))


def spans_in(file):
    """The spans in what OpenTelemetry's console exporter has written."""
    with open(file) as stream:
        text, found = stream.read().strip(), []
    while text:
        span, end = json.JSONDecoder().raw_decode(text)
        found.append(span)
        text = text[end:].strip()
    return found


def ask(endpoint, traceparent=SAMPLED):
    with Socket.new("dealer", endpoint) as caller:
        frame = Metadata("r1", traceparent=traceparent).to_frame()
        caller.send_envelope(Envelope.new("text/plain", "x", request_frames=[frame]), timeout=20)
        return caller.receive_envelope(timeout=20).text


@pytest.mark.parametrize("coordinator", ["GreenletServerCoordinator", "ProcessServerCoordinator"])
def test_a_chain_through_processes_is_one_trace(run, coordinator):
    last, first = (run(name, OTEL_TRACES_EXPORTER="console", coordinator=coordinator) for name in ("last", "first"))
    with RequestClient(first.endpoint) as client:
        client.request("x")
    (_, of_first), (_, of_last) = stop(first), stop(last)
    assert sorted(span["name"] for span in of_first) == ["process first.request", f"request {last.endpoint}"]
    [handled] = of_last
    [asked] = [span for span in of_first if span["kind"] == "SpanKind.CLIENT"]
    assert handled["parent_id"] == asked["context"]["span_id"]
    assert {span["context"]["trace_id"] for span in (*of_first, handled)} == {handled["context"]["trace_id"]}
    assert handled["resource"]["attributes"]["service.name"] == "services"


def test_the_configuration_says_how_many_and_the_environment_where_to(run):
    of_none = run("last", "--set", "monitoring.tracing=0", OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="shop")
    assert ask(of_none.endpoint, None) != "None"
    ask(of_none.endpoint)
    _, [span] = stop(of_none)  # that of the caller who records
    assert span["context"]["trace_id"] == f"0x{TRACE}"
    assert span["resource"]["attributes"]["service.name"] == "shop"


def test_who_exports_to_nobody_is_told_so(run):
    log, found = stop(run("last", "--set", "monitoring.tracing=1"))
    assert "spans are not exported: there is no exporter otlp_proto_http or otlp_proto_grpc" in log
    assert found == []


def test_without_opentelemetry_the_trace_is_passed_on_all_the_same(run, tmp_path):
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError('hidden', name='opentelemetry')")
    last = run("last", "--set", "monitoring.tracing=1")
    first = run("first", PYTHONPATH=f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}")
    assert ask(first.endpoint) == SAMPLED
    log, _ = stop(last)
    assert "no spans are recorded: OpenTelemetry is not installed; pip install 'dploylib[otel]'" in log


def test_nothing_of_opentelemetry_is_imported_where_nobody_wants_it(run, tmp_path):
    (tmp_path / "opentelemetry.py").write_text("raise SystemExit('imported')")
    process = run("last", PYTHONPATH=f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}")
    assert ask(process.endpoint) == SAMPLED
    stop(process)


def test_a_daemon_exports_what_its_workers_record(run):
    process = run("last", "-w", "1", command="serve", OTEL_TRACES_EXPORTER="console")
    assert ask(process.endpoint) == SAMPLED
    _, [span] = stop(process)
    assert span["parent_id"] == "0x00f067aa0ba902b7"

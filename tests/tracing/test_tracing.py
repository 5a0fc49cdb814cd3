"""Traces through several servers, with spans and without."""

import json
import logging
import subprocess
import sys

import gevent
import opentelemetry.trace
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from dploylib import Context, Envelope, PushClient, RequestClient, Server, Service, Socket, bind_in
from dploylib.errors import RemoteError
from dploylib.handling import Trace, trace
from dploylib.servers.generic import BalancerServer, Worker
from dploylib.tracing import set_up, spans
from dploylib.tracing.sdk import provider_of
from dploylib.transport import Metadata

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-00f067aa0ba902b7-{flags}" for flags in ("01", "00"))
FREE = "tcp://127.0.0.1:*"


@pytest.fixture
def use(monkeypatch):
    """`use(provider)`: it is that of the program, and what it exports is in the list that this returns."""

    def use(provider):
        exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", provider)
        return exporter.get_finished_spans

    return use


@pytest.fixture
def start():
    """`start(servers, general)`: a service of these server classes, by name."""
    services = []

    def start(classes, general=None, monitoring=None):
        service = Service()
        services.append(service)
        for name, server_cls in classes.items():
            service.add_server(name, server_cls)
        sockets = {name: {one: {"uri": FREE} for one in cls.description.socket_names} for name, cls in classes.items()}
        service.start(config_dict={"servers": sockets, "general": general or {}, "monitoring": monitoring or {}})
        return service

    yield start
    for service in reversed(services):
        service.stop()


class Last(Server):
    def setup(self):
        self.seen = []

    @bind_in("request", "rep")
    def request(self, socket, received):
        self.seen.append(received.metadata.traceparent)
        if received.text == "fail":
            raise KeyError("secret")
        return {"traceparent": received.metadata.traceparent, "current": str(trace())}

    @bind_in("jobs", "pull")
    def jobs(self, socket, received):
        self.seen.append(received.metadata and received.metadata.traceparent)


class First(Server):
    """Asks another one, and pushes to it."""

    def setup(self):
        self.client = RequestClient(self.settings.get("request"))
        self.pusher = PushClient(self.settings.get("jobs"))

    def teardown(self):
        self.client.close()
        self.pusher.close()

    @bind_in("request", "rep", concurrency=10)
    def request(self, socket, received):
        if received.text == "in a greenlet":
            return gevent.spawn(lambda: self.client.request("x").text).get()
        if received.text == "many":
            return self.client.request_many(["x", "y"])[1].text
        if received.text == "push":
            self.pusher.push("x")
        return self.client.request(received.text).text


@pytest.fixture
def chain(start):
    """Two services: `chain.endpoint` is that of the first, `chain.last` the last server."""

    def make():
        last = start({"last": Last})
        first = start({"first": First}, last.endpoints["last"])
        first.endpoint, first.last = first.endpoints["first"]["request"], last.servers["last"]
        return first

    return make


def ask(endpoint, text, traceparent):
    with Socket.new("dealer", endpoint) as caller:
        frame = Metadata("r1", traceparent=traceparent).to_frame()
        caller.send_envelope(Envelope.new("text/plain", text, request_frames=[frame]))
        return caller.receive_envelope(timeout=10)


# Without OpenTelemetry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "in a greenlet", "many"])
def test_a_handler_passes_the_trace_on(chain, text):
    reply = json.loads(ask(chain().endpoint, text, SAMPLED).text)
    assert reply == {"traceparent": SAMPLED, "current": SAMPLED}


def test_a_push_passes_the_trace_on(chain, wait_until):
    service = chain()
    ask(service.endpoint, "push", SAMPLED)
    wait_until(lambda: len(service.last.seen) == 2)
    assert service.last.seen == [SAMPLED] * 2


def test_what_is_pushed_without_a_trace_is_three_frames():
    with Context.new() as context, context.socket("pull") as socket:
        socket.bind_to_random("tcp://127.0.0.1")
        with PushClient(socket.endpoint, context) as client:
            client.push("x")
            assert socket.receive_frames(timeout=10) == [b"", b"text/plain", b"x"]


def test_a_pusher_can_keep_the_trace_to_itself(chain, wait_until):
    service = chain()
    service.servers["first"].pusher.passes_trace = False
    ask(service.endpoint, "push", SAMPLED)
    wait_until(lambda: len(service.last.seen) == 2)
    assert set(service.last.seen) == {SAMPLED, None}


@pytest.mark.parametrize("text", ["", "00-4bf9-00f0-01", SAMPLED + "-more", SAMPLED.upper(), SAMPLED + "\n"])
def test_a_malformed_traceparent_is_not_passed_on(chain, text):
    assert json.loads(ask(chain().endpoint, "x", text).text) == {"traceparent": None, "current": "None"}


def test_a_balancer_passes_the_trace_on(start, wait_until):
    class Answers(Worker):
        def work(self, received):
            return received.metadata.traceparent

    balancer = start({"balancer": BalancerServer})
    service = Service()
    service.add_server("worker", Answers)
    endpoints = balancer.endpoints["balancer"]
    with service.start(config_dict={"servers": {"worker": {"jobs": {"uri": endpoints["work"]}}}}):
        assert ask(endpoints["request"], "x", SAMPLED).text == SAMPLED


# With it ---------------------------------------------------------------------------------------------------------


def by_name(finished, count, wait_until):
    wait_until(lambda: len(finished()) >= count)
    assert len(finished()) == count
    return {span.name.partition("tcp:")[0].strip(): span for span in finished()}


def parent(span):
    return span.parent and span.parent.span_id


def test_a_chain_of_calls_is_one_trace(chain, use, wait_until):
    finished = use(TracerProvider())
    service = chain()
    with RequestClient(service.endpoint) as client:
        client.request("x", id="7")
    wait_until(lambda: len(finished()) == 4)
    assert len({span.context.trace_id for span in finished()}) == 1
    root = next(span for span in finished() if span.parent is None)
    by_parent = {parent(span): span for span in finished()}
    order = [root]
    while order[-1].context.span_id in by_parent:
        order.append(by_parent[order[-1].context.span_id])
    assert [span.kind for span in order] == [SpanKind.CLIENT, SpanKind.SERVER] * 2
    assert [span.name for span in order[1::2]] == ["process first.request", "process last.request"]
    assert order[0].name == f"request {service.endpoint}"
    attributes = dict(order[1].attributes)
    assert attributes.pop("messaging.message.conversation_id").isdecimal()
    assert attributes == {
        "messaging.system": "zeromq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "first.request",
        "messaging.message.id": "7",
        "messaging.message.body.size": 1,
    }
    assert order[0].attributes["server.address"] == "127.0.0.1"
    assert order[0].attributes["messaging.operation.type"] == "send"
    assert {span.status.status_code for span in order} == {StatusCode.UNSET}


def test_it_goes_on_from_the_trace_of_a_caller(chain, use, wait_until):
    finished = use(TracerProvider())
    ask(chain().endpoint, "in a greenlet", SAMPLED)
    found = by_name(finished, 3, wait_until)
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    first = found["process first.request"]
    assert (f"{first.parent.span_id:016x}", first.parent.is_remote) == ("00f067aa0ba902b7", True)
    assert parent(found["request"]) == first.context.span_id


def test_a_push_is_a_producer_and_its_handler_a_consumer(chain, use, wait_until):
    finished = use(TracerProvider())
    ask(chain().endpoint, "push", SAMPLED)
    found = by_name(finished, 5, wait_until)
    sent, handled = found["send"], found["process last.jobs"]
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent(handled) == sent.context.span_id


def test_a_failure_is_told_by_its_type_alone(chain, use, wait_until):
    finished = use(TracerProvider())
    service = chain()
    with RequestClient(service.endpoint) as client, pytest.raises(RemoteError):
        client.request("fail")
    wait_until(lambda: len(finished()) == 4)
    found = {(span.kind, parent(span) is None): span for span in finished()}
    last = next(span for span in finished() if span.name == "process last.request")
    assert (last.attributes["error.type"], last.status.status_code) == ("KeyError", StatusCode.ERROR)
    assert found[SpanKind.CLIENT, True].attributes["error.type"] == "urn:dploylib:handler-failed"
    assert "secret" not in "".join(span.to_json() for span in finished())


def test_the_mistake_of_a_caller_is_no_error_of_the_server(start, use, wait_until):
    class Strict(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            return received.json

    finished = use(TracerProvider())
    ask(start({"strict": Strict}).endpoints["strict"]["request"], "no JSON", None)
    span = by_name(finished, 1, wait_until)["process strict.request"]
    assert (span.attributes["error.type"], span.status.status_code) == ("UnexpectedMimetype", StatusCode.UNSET)


def test_spans_of_the_user_are_part_of_it(start, use, wait_until):
    class Works(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            with opentelemetry.trace.get_tracer("user").start_as_current_span("work"):
                return "ok"

    finished = use(TracerProvider())
    service = start({"works": Works})
    with (
        opentelemetry.trace.get_tracer("user").start_as_current_span("outside"),
        RequestClient(service.endpoints["works"]["request"]) as client,
    ):
        client.request("x")
    found = by_name(finished, 4, wait_until)
    assert parent(found["work"]) == found["process works.request"].context.span_id
    assert parent(found["process works.request"]) == found["request"].context.span_id
    assert parent(found["request"]) == found["outside"].context.span_id


def test_messages_do_not_belong_to_the_span_in_which_the_service_was_started(start, use, wait_until):
    finished = use(TracerProvider())
    with opentelemetry.trace.get_tracer("user").start_as_current_span("start"):
        service = start({"last": Last})
    ask(service.endpoints["last"]["request"], "x", None)
    assert by_name(finished, 2, wait_until)["process last.request"].parent is None


@pytest.mark.parametrize(
    "provider",
    [lambda: provider_of("tests", 0.0, []), lambda: TracerProvider(ParentBased(ALWAYS_OFF))],
    ids=["ours", "another one"],
)
@pytest.mark.parametrize("traceparent", [None, UNSAMPLED])
def test_a_trace_that_nobody_records_is_passed_on_as_such(chain, use, provider, traceparent):
    finished = use(provider())
    reply = json.loads(ask(chain().endpoint, "x", traceparent).text)
    place = Trace.parse(reply["traceparent"])
    assert place is not None
    assert place.flags & 1 == 0
    assert (place.trace_id == TRACE) is (traceparent is not None)
    assert finished() == ()


def test_what_a_caller_records_is_recorded_whatever_the_share_is(chain, use, wait_until):
    finished = use(provider_of("tests", 0.0, []))
    ask(chain().endpoint, "x", SAMPLED)
    by_name(finished, 3, wait_until)


def test_a_share_of_the_traces_is_recorded(start, use, wait_until):
    finished = use(provider_of("tests", 0.5, []))
    service = start({"last": Last})
    for _ in range(200):
        ask(service.endpoints["last"]["request"], "fail", None)
    assert 0 < len(finished()) < 200  # each of these is as likely as 200 heads in a row


def test_the_log_has_the_trace_that_begins_here(start, use, caplog):
    from dploylib.logs import MessageFields

    class Talks(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            logging.getLogger("app").warning("here")
            return str(trace())

    use(TracerProvider())
    caplog.handler.addFilter(MessageFields())
    try:
        reply = ask(start({"talks": Talks}).endpoints["talks"]["request"], "x", None).text
    finally:
        caplog.handler.filters.clear()
    assert [one.trace_id for one in caplog.records if one.message == "here"] == [Trace.parse(reply).trace_id]


def test_there_are_no_spans_where_nobody_has_set_up_a_provider():
    assert spans() is None


def test_a_provider_of_the_program_stays(use):
    provider = TracerProvider()
    use(provider)
    set_up("tests", 0.5)
    assert opentelemetry.trace.get_tracer_provider() is provider


def test_no_greenlet_runs_in_a_child_that_is_to_become_another_program():
    script = """
from gevent import monkey
monkey.patch_all()
import os
import gevent
from gevent import subprocess
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from dploylib.tracing.sdk import provider_of

provider_of("tests", 1.0, [ConsoleSpanExporter()])
parent = os.getpid()

def run():
    while True:
        gevent.sleep(0)
        if os.getpid() != parent:
            os._exit(99)

gevent.spawn(run)
gevent.sleep(0)
print(subprocess.run(["true"]).returncode)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")

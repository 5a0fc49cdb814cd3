"""The metrics of a service: what Prometheus can read, and what their values are."""

import pytest
from prometheus_client import CollectorRegistry, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from dploylib.control import Health
from dploylib.control.metrics import BUCKETS, ServiceCollector, exposition
from dploylib.statistics import Connections
from tests.control.sources import SECRET, FixedSource, a_process, a_socket, everything, histogram

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
ECHO = {"server": "echo", "socket": "request"}


def families(source, accept=OPENMETRICS):
    kind, body = exposition(source, accept)
    parse = openmetrics_parser if kind.startswith("application/openmetrics-text") else parser
    return list(parse.text_string_to_metric_families(body.decode()))


def values(source):
    """Each sample of a source, by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(source)
        for sample in family.samples
    }


def value(source, name, **labels):
    return values(source)[(name, *sorted(labels.items()))]


def a_source(*sockets, **others):
    processes = [a_process(pid=pid, sockets={"request": one}) for pid, one in enumerate(sockets, 1)]
    return FixedSource(*processes, **others)


def test_openmetrics_is_for_who_accepts_it():
    kind, body = exposition(a_source(everything()), OPENMETRICS)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=x", ",;,=", "application/json"])
def test_who_accepts_anything_else_gets_the_text_format(accept):
    kind, body = exposition(a_source(everything()), accept)
    assert kind.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in body


@pytest.mark.parametrize("accept", [OPENMETRICS, ""])
def test_parsers_of_prometheus_read_the_same_in_both_formats(accept):
    source = a_source(everything())
    found = families(source, accept)
    samples = {(one.name, *sorted(one.labels.items())): one.value for family in found for one in family.samples}
    assert samples == values(source)
    assert all(family.documentation for family in found)


def test_all_that_is_counted_of_a_socket_is_told():
    told = values(a_source(everything()))
    labels = sorted(ECHO.items())
    assert {
        name: told[(f"dploylib_{name}", *labels)]
        for name in (
            "messages_received_total",
            "messages_handled_total",
            "messages_sent_total",
            "messages_replied_total",
            "messages_dropped_total",
            "replies_undelivered_total",
            "received_bytes_total",
            "sent_bytes_total",
            "connections_opened_total",
            "connections_closed_total",
            "connections_failed_total",
            "messages_in_flight",
            "concurrency",
            "connections",
        )
    } == {
        "messages_received_total": 100,
        "messages_handled_total": 97,
        "messages_sent_total": 96,
        "messages_replied_total": 95,
        "messages_dropped_total": 2,
        "replies_undelivered_total": 1,
        "received_bytes_total": 6400,
        "sent_bytes_total": 6300,
        "connections_opened_total": 9,
        "connections_closed_total": 2,
        "connections_failed_total": 1,
        "messages_in_flight": 3,
        "concurrency": 1,
        "connections": 7,
    }


def test_errors_are_told_by_their_reason_and_problems_by_their_type():
    source = a_source(everything())
    told = values(source)
    reasons = {dict(labels)["reason"]: told for (name, *labels), told in told.items() if "message_errors" in name}
    assert reasons == {"malformed": 1, "refused": 2, "rejected": 3, "failed": 4, "timed_out": 5, "unanswered": 6}
    assert value(source, "dploylib_problems_total", **ECHO, type="handler-failed") == 4
    assert value(source, "dploylib_problems_total", **ECHO, type="overloaded") == 3


def test_the_last_error_is_told_by_its_type_and_time_and_never_by_its_text():
    source = a_source(everything())
    name = "dploylib_last_error_timestamp_seconds"
    assert value(source, name, **ECHO, type="ZeroDivisionError") == 1_700_000_000.5
    assert SECRET.encode() not in exposition(source, "")[1]


def test_buckets_of_handlers_are_cumulative_and_exact():
    source = a_source(a_socket(handler_time=histogram(0.0001, 0.001, 0.002, 0.03, 3.0, 100.0)))
    buckets = [value(source, "dploylib_handler_seconds_bucket", **ECHO, le=str(bound)) for bound in BUCKETS]
    assert buckets == [sum(one < bound for one in (0.0001, 0.001, 0.002, 0.03, 3.0, 100.0)) for bound in BUCKETS]
    assert value(source, "dploylib_handler_seconds_bucket", **ECHO, le="+Inf") == 6
    assert value(source, "dploylib_handler_seconds_count", **ECHO) == 6
    assert value(source, "dploylib_handler_seconds_sum", **ECHO) == pytest.approx(103.0331)


def test_processes_of_a_service_add_up():
    source = a_source(
        a_socket(received=5, handled=4, concurrency=10, handler_time=histogram(0.1)),
        a_socket(received=7, handled=7, concurrency=10, handler_time=histogram(0.1, 0.2)),
    )
    assert value(source, "dploylib_messages_received_total", **ECHO) == 12
    assert value(source, "dploylib_messages_in_flight", **ECHO) == 1
    assert value(source, "dploylib_concurrency", **ECHO) == 20
    assert value(source, "dploylib_handler_seconds_count", **ECHO) == 3


def test_a_server_is_in_the_workers_and_not_in_the_front_that_has_its_connections():
    front = a_process("front", 3, sockets={"request": a_socket()})
    source = FixedSource(a_process(pid=1), a_process(pid=2), front)
    assert value(source, "dploylib_server_state", server="echo", state="running") == 2


def test_counters_keep_what_gone_processes_counted_and_gauges_do_not():
    one = a_socket(received=5, handled=4, concurrency=10, connections=Connections(opened=3, closed=1))
    gone = a_process("gone", 0, state="stopped", sockets={"request": one})
    source = FixedSource(gone, a_process(sockets={"request": one}))
    assert value(source, "dploylib_messages_received_total", **ECHO) == 10
    assert value(source, "dploylib_messages_in_flight", **ECHO) == 1
    assert value(source, "dploylib_concurrency", **ECHO) == 10
    assert value(source, "dploylib_connections", **ECHO) == 2
    assert value(source, "dploylib_server_state", server="echo", state="running") == 1
    assert not any(dict(labels).get("pid") == "0" for _, *labels in values(source))


def test_a_socket_that_only_gone_processes_had_is_still_counted():
    gone = a_process("gone", 0, sockets={"request": a_socket(received=5, handled=4)})
    source = FixedSource(gone)
    assert value(source, "dploylib_messages_received_total", **ECHO) == 5
    assert value(source, "dploylib_messages_in_flight", **ECHO) == 0


def test_processes_are_told_by_their_ids():
    source = FixedSource(
        a_process("front", 7, cpu_seconds=1.5, resident=1024, started=1000.0),
        a_process("worker", 8, cpu_seconds=2.5, resident=2048, state="stopping", hub_delay=histogram(0.5)),
    )
    assert value(source, "dploylib_process_cpu_seconds_total", pid="7", role="front") == 1.5
    assert value(source, "dploylib_process_resident_memory_bytes", pid="8", role="worker") == 2048
    assert value(source, "dploylib_process_start_time_seconds", pid="7", role="front") == 1000
    assert value(source, "dploylib_process_state", pid="8", role="worker", state="stopping") == 1
    assert value(source, "dploylib_hub_delay_seconds_count") == 1


def test_the_service_says_its_version_and_whether_it_is_ready():
    source = a_source(a_socket(), health=Health(alive=True, ready=False, state="starting"))
    assert value(source, "dploylib_build_info", service="shop", version="1.2.3") == 1
    assert value(source, "dploylib_ready") == 0
    source.said = Health(alive=True, ready=True, state="running")
    assert value(source, "dploylib_ready") == 1


def test_connections_that_are_not_counted_are_not_told():
    assert not any("connections" in name for name, *_ in values(a_source(a_socket())))


def test_a_service_of_which_nothing_is_known_yet_can_be_read():
    assert value(FixedSource(), "dploylib_ready") == 1


def test_names_and_labels_may_have_any_text():
    process = a_process(sockets={'a"b\\c\nd': a_socket(received=1)})
    source = FixedSource(process, name='shop "2"')
    assert value(source, "dploylib_messages_received_total", server="echo", socket='a"b\\c\nd') == 1


def test_a_registry_takes_the_collector():
    registry = CollectorRegistry()
    registry.register(ServiceCollector(a_source(everything())))
    assert registry.get_sample_value("dploylib_messages_received_total", ECHO) == 100

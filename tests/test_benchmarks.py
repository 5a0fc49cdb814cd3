"""The benchmarks count right and run to their end. Nothing here looks at the times that they measure."""

import contextlib
import dataclasses
import itertools
import json
import os
import struct

import gevent
import msgspec
import pytest
import zmq
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cases, launch, process, report, wire, wire_grpc, wire_zerorpc
from benchmarks.__main__ import main
from benchmarks.clients import common as client
from benchmarks.clients import greenlets
from benchmarks.connection import Connection
from benchmarks.launch import Unavailable, compile_c
from benchmarks.load import Load
from benchmarks.meter import percentiles
from benchmarks.runner import CaseResult, Settings, run_case
from benchmarks.targets import TARGETS, Target

pytestmark = pytest.mark.once("benchmarks run in interpreters of their own")

FRAMES = [b"", b"", b"text/plain", b"x" * 64]
BRIEF = Settings(rounds=1, seconds=0.02, warm_up_seconds=0.0)


@pytest.fixture
def bound():
    """Make plain pyzmq sockets that are bound, and close them in the end."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def bind(socket_type, **options):
            socket = stack.enter_context(context.socket(socket_type))
            for name, value in {"linger": 0, "rcvtimeo": 10_000, **options}.items():
                setattr(socket, name, value)
            socket.bind("tcp://127.0.0.1:*")
            return socket, socket.last_endpoint.decode()

        yield bind


@pytest.fixture
def connected():
    """Connect a wire to an endpoint, and disconnect it in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda endpoint, one: stack.enter_context(contextlib.closing(Connection(endpoint, one))).shake_hands()


def read(connection, replies):
    """Read until so many replies have come, and no more."""
    found = 0
    while found < replies:
        found += connection.receive()
    assert found == replies
    connection.wire.finish()


# Bytes: what goes to real sockets and comes from them


@pytest.mark.parametrize("size", [0, 64, 255, 256, 100_000])
@pytest.mark.parametrize("socket_type", [zmq.REP, zmq.ROUTER])
def test_echoes_are_counted(bound, connected, socket_type, size):
    server, endpoint = bound(socket_type)
    frames = [b"", b"id", b"text/plain", b"x" * size]
    connection = connected(endpoint, wire.Counted("dealer", frames, frames, outstanding=3))
    for count in (1, 3, 2):
        connection.request(count, now=0)
        for _ in range(count):
            message = server.recv_multipart()
            assert message[-3:] == frames[1:]
            server.send_multipart(message)
        read(connection, count)


def test_a_first_reply_that_is_none_is_an_error(bound, connected):
    server, endpoint = bound(zmq.REP)
    connection = connected(endpoint, wire.Counted("dealer", FRAMES, FRAMES, outstanding=1))
    connection.request(1, now=0)
    server.recv_multipart()
    server.send_multipart([b"", b"text/plain", b"y" * 64])
    with pytest.raises(wire.WireError, match="the first reply is"):
        read(connection, 1)


def test_a_pull_gets_what_is_pushed(bound, connected):
    server, endpoint = bound(zmq.PULL)
    connection = connected(endpoint, wire.Pusher([b"", b"text/plain", b"hello"], most=10))
    connection.socket.sendall(connection.wire.requests(10))
    assert [server.recv_multipart() for _ in range(10)] == [[b"", b"text/plain", b"hello"]] * 10


def test_a_subscriber_counts_from_the_fence_on(bound, connected):
    server, endpoint = bound(zmq.XPUB, sndhwm=0)  # a PUB that tells of subscriptions, and drops nothing
    message = [b"", b"text/plain", b"x" * 64]
    connection = connected(endpoint, wire.Subscriber(message, b"fence"))
    assert server.recv() == b"\x01"
    for body in (b"probe", b"probe", b"fence"):
        server.send_multipart([b"", b"text/plain", body])
    while not connection.wire.fenced:
        assert connection.receive() == 0
    for _ in range(1000):
        server.send_multipart(message)
    read(connection, 1000)


def test_heartbeats_keep_a_connection_and_count_for_nothing(bound, connected):
    server, endpoint = bound(zmq.DEALER, heartbeat_ivl=20, heartbeat_timeout=10_000)
    connection = connected(endpoint, wire.Zmtp("dealer"))
    for _ in range(3):
        assert connection.receive() == 0
    server.send(b"hello")
    while not (replies := connection.receive()):
        pass
    assert replies == 1


# Bytes: without a peer


def handshake(socket_type):
    return wire.GREETING + wire.zmtp_ready(socket_type)


def feed(one, data, cuts=()):
    """Give data to a wire in pieces, and return how many replies it counts."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    return sum(one.receive(memoryview(piece)) for piece in pieces if piece)


CUTS = st.lists(st.integers(0, 2000), max_size=20)


@given(CUTS, st.integers(1, 12))
def test_it_does_not_matter_in_which_pieces_replies_come(cuts, count):
    one = wire.Counted("dealer", FRAMES, FRAMES, outstanding=1)
    assert feed(one, handshake("rep")) == 0
    assert feed(one, wire.zmtp_message(FRAMES) * count, cuts) == count
    one.finish()


@given(CUTS)
def test_it_does_not_matter_in_which_pieces_frames_come(cuts):
    one = wire.Zmtp("dealer")
    data = handshake("rep") + wire.zmtp_message([b"", b"x" * 300]) + wire.zmtp_frame(b"\x04PING\0\0it", wire.COMMAND)
    assert feed(one, data, cuts) == 1
    assert one.outgoing.endswith(wire.zmtp_frame(b"\x04PONGit", wire.COMMAND))
    one.finish()


@pytest.mark.parametrize("before", [0, 5])
def test_half_a_reply_that_is_left_over_is_an_error(before):
    one = wire.Counted("dealer", FRAMES, FRAMES, outstanding=1)
    feed(one, handshake("rep"))
    reply = wire.zmtp_message(FRAMES)
    assert feed(one, reply * (before + 1) + reply[:10]) == before + 1
    with pytest.raises(wire.WireError, match="10 bytes"):
        one.finish()


def test_what_is_no_zmtp_3_is_an_error():
    with pytest.raises(wire.WireError, match="no ZMTP 3 greeting"):
        feed(wire.Zmtp("dealer"), b"HTTP/1.1 400 Bad Request".ljust(64))


def test_zerorpc_calls_have_message_ids_of_their_own():
    one, other = wire_zerorpc.ZeroRpc(b"100 %d"), wire_zerorpc.ZeroRpc(b"100 %d")
    peer = wire.Zmtp("router")
    feed(peer, handshake("dealer"))
    sent = one.requests(3) + one.requests(2) + other.requests(5)
    identifiers = set()
    for delimiter, event in peer.messages(memoryview(sent)):
        header, name, arguments = msgspec.msgpack.decode(event)
        assert (delimiter, header["v"], name, arguments) == (b"", 3, "echo", [b"100 %d"])
        identifiers.add(header["message_id"])
    assert len(identifiers) == 10


def test_zerorpc_replies_are_told_from_heartbeats():
    def event(name, *arguments):
        return wire.zmtp_message([b"", msgspec.msgpack.encode([{"response_to": b"0" * 32, "v": 3}, name, arguments])])

    one = wire_zerorpc.ZeroRpc(b"x" * 64)
    feed(one, handshake("router"))
    assert feed(one, event("OK", b"x" * 64) + event("_zpc_hb", 0) + event("OK", b"x" * 64)) == 2
    with pytest.raises(wire.WireError, match="ERR"):
        feed(one, event("ERR", "NameError", "echo", "Traceback"))


SETTINGS = wire_grpc.http2_frame(wire_grpc.SETTINGS, 0, 0)


def grpc_reply(stream, body):
    message = struct.pack(">BI", 0, len(body)) + body
    return (
        wire_grpc.http2_frame(wire_grpc.HEADERS, wire_grpc.END_HEADERS, stream, b"\x88")
        + wire_grpc.http2_frame(wire_grpc.DATA, 0, stream, message)
        + wire_grpc.http2_frame(wire_grpc.HEADERS, wire_grpc.END_HEADERS | wire_grpc.END_STREAM, stream, b"\x88")
    )


@given(CUTS)
def test_grpc_replies_are_counted_by_their_ends(cuts):
    one = wire_grpc.Grpc("/benchmarks.Echo/Echo", b"x" * 64)
    ping = wire_grpc.http2_frame(wire_grpc.PING, 0, 0, b"12345678")
    replies = b"".join(grpc_reply(stream, b"x" * 64) for stream in (1, 5, 3))
    assert feed(one, SETTINGS + ping + replies, cuts) == 3
    assert one.ready
    assert one.outgoing.endswith(
        wire_grpc.http2_frame(wire_grpc.SETTINGS, wire_grpc.ACK, 0)
        + wire_grpc.http2_frame(wire_grpc.PING, wire_grpc.ACK, 0, b"12345678")
    )
    one.finish()


def test_grpc_requests_wait_for_room_at_the_server():
    one = wire_grpc.Grpc("/benchmarks.Echo/Echo", b"x" * 64)
    feed(one, SETTINGS)
    one.outgoing.clear()
    at_once = wire_grpc.FIRST_WINDOW // 69  # a message is five octets longer than its body
    each = len(one.requests(1))
    assert len(one.requests(999)) == (at_once - 1) * each
    feed(one, wire_grpc.http2_frame(wire_grpc.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
    assert len(one.outgoing) == (1000 - at_once) * each


def test_a_refusal_of_grpc_is_an_error():
    one = wire_grpc.Grpc("/benchmarks.Echo/Echo", b"x" * 64)
    with pytest.raises(wire.WireError, match="refuses stream 7"):
        feed(one, SETTINGS + wire_grpc.http2_frame(wire_grpc.RST_STREAM, 0, 7, bytes(4)))


# Figures


def test_percentiles_count_every_message_of_a_run():
    runs = [(1_000_000, 1), (2000, 90), (3000, 909)]
    assert percentiles(runs) == {"p50_us": 3.0, "p99_us": 3.0, "p999_us": 3.0}
    assert percentiles([*runs, (5000, 20)])["p99_us"] == 5.0
    assert percentiles([]) == {}


def test_a_ratio_is_taken_within_each_round():
    case = cases.CASES[0]
    result = CaseResult(case)
    result.figures["a"] = [{"round": 0, "cpu_us": 2.0}, {"round": 1, "cpu_us": 30.0}, {"round": 2, "cpu_us": 9.0}]
    result.figures["b"] = [{"round": 1, "cpu_us": 10.0}, {"round": 2, "cpu_us": 1.0}, {"round": 0, "cpu_us": 1.0}]
    target = Target("CPU", case.name, "cpu_us", "a", "b", at_most=3.0)
    value = report.measured(target, result)
    assert value == report.Spread(median=3.0, low=2.0, high=9.0)
    assert report.Verdict(target, value).word == "ok"
    assert report.Verdict(dataclasses.replace(target, at_most=2.9), value).word == "MISSED"
    assert report.Verdict(target, report.measured(dataclasses.replace(target, than="c"), result)).word == "not measured"


def test_numbers_have_three_digits():
    values = [0.01234, 1.234, 12.34, 999.4, 1234, 9999, 12_345, 123_456, 999_499, 1_234_567]
    short = ["0.0123", "1.23", "12.3", "999", "1234", "9999", "12.3k", "123k", "999k", "1.23M"]
    assert [report.short(value) for value in values] == short


def test_a_spread_is_told_in_percent_unless_it_reaches_below_zero():
    assert str(report.Spread(10.0, 9.0, 12.0)) == "10 ±15%"
    assert str(report.Spread(0.1, -0.5, 1.0)) == "0.1 (-0.5 to 1)"
    assert str(report.Spread(0.0, 0.0, 0.0)) == "0"


def test_a_generator_that_was_busier_than_the_server_is_marked():
    one = {"server_busy": 0.5, "generator_busy": 0.25, "others_busy": 0.0}
    assert report.busy([one]) == "0.25 / 0.50 / 0.00"
    assert report.busy([one | {"generator_busy": 0.75}]) == "0.75 / 0.50 / 0.00 !"


def test_a_server_that_was_busier_than_the_client_is_marked():
    one = {"server_busy": 0.5, "client_busy": 0.75, "others_busy": 0.0}
    assert report.busy([one], ("server", "client")) == "0.50 / 0.75 / 0.00"
    assert report.busy([one | {"client_busy": 0.25}], ("server", "client")) == "0.50 / 0.25 / 0.00 !"


def test_cases_and_contenders_are_told_by_their_names():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    for case in cases.CASES:
        assert len({one.name for one in case.contenders}) == len(case.contenders)
        assert case.kind in report.COLUMNS


def test_every_target_is_measured():
    by_name = {case.name: case for case in cases.CASES}
    for target in TARGETS:
        contenders = {one.name for one in by_name[target.case].contenders}
        assert contenders >= ({target.contender, target.than} - {""})


def test_cpu_time_goes_forward():
    before = process.cpu(os.getpid())
    while (process.cpu(os.getpid()) - before).main_thread <= 0:
        pass
    resident = process.resident(os.getpid())  # first of all: it grows with what reads it
    assert process.peak_resident(os.getpid()) >= resident > 0


# Real runs, as short as can be


def one_case(name):
    [case] = [one for one in cases.CASES if one.name == name]
    return case


def run(name, tmp_path, *contenders, **changes):
    """Run a case of the table with some of its contenders, and return the figures of the only round."""
    case = one_case(name)
    kept = tuple(one for one in case.contenders if one.name in contenders)
    case = dataclasses.replace(case, contenders=kept, **changes)
    result = run_case(case, BRIEF, tmp_path, lambda progress: None)
    assert (result.skipped, result.failed) == ({}, {})
    assert sorted(result.figures) == sorted(contenders)
    table = report.case_table(result)
    assert all(f"\n  {name} " in table for name in contenders)
    return [figures for [figures] in result.figures.values()]


@pytest.mark.parametrize("name", ["rep-64B-1", "rep-64B-1000", "router-64B-10", "rep-1KB", "rep-1MB"])
def test_an_echo_is_measured(tmp_path, name):
    for figures in run(name, tmp_path, "dploylib", "pyzmq"):
        assert figures["messages"] > 0
        assert figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"]


@pytest.mark.parametrize("contender", ["dploylib return", "dploylib concurrency=100", "zmq.green", "asyncio pyzmq"])
def test_the_other_echoes_are_echoes_too(tmp_path, contender):
    [figures] = run("rep-64B-100", tmp_path, contender)
    assert figures["messages"] > 0


@pytest.mark.parametrize("name", ["zerorpc", "grpc", "libzmq in C"])
def test_what_is_installed_echoes_too(tmp_path, name):
    case = dataclasses.replace(
        one_case("rep-64B-10"), contenders=tuple(one for one in cases.ON_REP if one.name == name)
    )
    result = run_case(case, BRIEF, tmp_path, lambda progress: None)
    if result.skipped:
        pytest.skip(result.skipped[name])
    assert result.failed == {}
    assert result.figures[name][0]["messages"] > 0


@pytest.mark.parametrize("name", ["client-1", "client-1-green", "client-100"])
def test_clients_are_measured(tmp_path, name):
    contenders = [one for one in one_case(name).contenders if not one.needs and one.script != cases.C_ECHO]
    names = [one.name for one in contenders]
    for figures in run(name, tmp_path, *names):
        assert figures["messages"] >= one_case(name).outstanding
        assert figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"]


@pytest.mark.parametrize(
    "contender", [one for one in cases.CLIENT_100 if one.needs or one.script == cases.C_ECHO], ids=lambda one: one.name
)
def test_clients_of_what_is_installed_are_measured_too(tmp_path, contender):
    case = dataclasses.replace(one_case("client-100"), contenders=(contender,), outstanding=3)
    result = run_case(case, BRIEF, tmp_path, lambda progress: None)
    if result.skipped:
        pytest.skip(result.skipped[contender.name])
    assert result.failed == {}
    assert result.figures[contender.name][0]["messages"] >= 3


def test_clients_of_the_same_server_share_it(tmp_path, monkeypatch):
    started = []

    def running(command):
        started.append(command)
        return launch.running(command)

    monkeypatch.setattr("benchmarks.runner.running", running)
    run("client-1-green", tmp_path, "dploylib -> pyzmq", "pyzmq REQ -> pyzmq")
    assert len(started) == 1


def test_calls_are_made_at_least_once_and_until_the_time_is_up():
    latencies = []
    client.call_until(0, lambda: "hello", "hello", latencies)
    assert len(latencies) == 1
    replies = iter(["hello", "hello", "good-bye"])
    with pytest.raises(wire.WireError, match="good-bye"):
        client.call_until(2**63, lambda: next(replies), "hello", latencies)
    assert len(latencies) == 3


@pytest.mark.parametrize("busy", [False, True])
def test_a_busy_hub_watches_for_something_else_while_calls_are_made(busy):
    loop = gevent.get_hub().loop
    before, watched = -1, []
    while before != loop.activecnt:  # what earlier tests have closed may still be on its way out
        before = loop.activecnt
        gevent.sleep(0.05)

    def ask():
        watched.append(loop.activecnt - before)
        return "hello"

    load = Load(kind="client", pid=os.getpid(), endpoints=[], seconds=0.0, warm_up_seconds=0.0, busy_hub=busy)
    assert greenlets.measure(load, [ask], "hello")["messages"] == 1
    assert watched == [busy, busy]


def test_many_connections_are_measured(tmp_path):
    for figures in run("clients", tmp_path, "dploylib", "pyzmq", connections=20):
        assert figures["messages"] > 0


def test_what_passes_messages_on_is_measured(tmp_path):
    for figures in run("front", tmp_path, "front, 2 workers", "zmq.proxy, 2 workers"):
        assert figures["messages"] > 0


def test_a_daemon_is_measured_with_all_its_processes(tmp_path):
    for figures in run("computing", tmp_path, "1 worker", "2 workers", seconds=0.02):
        assert figures["messages"] > 0
        assert figures["cpu_us"] > 0


def test_json_is_measured(tmp_path):
    for figures in run("json", tmp_path, "dploylib", "pyzmq, msgspec", "pyzmq, json"):
        assert figures["messages"] > 0


@pytest.mark.parametrize(("name", "changes"), [("pull", {}), ("pub-10", {}), ("backlog", {})])
def test_batches_are_measured(tmp_path, name, changes):
    for figures in run(name, tmp_path, "dploylib", "pyzmq", count=1500):
        assert figures["messages"] == 1500


def test_waiting_handlers_are_measured(tmp_path):
    [figures] = run("waiting", tmp_path, "dploylib", count=100)
    assert figures["messages"] == 100
    assert figures["handler_kib"] > 0


def test_idle_sockets_are_measured(tmp_path):
    [figures] = run("idle", tmp_path, "dploylib", seconds=0.02, sockets=3)
    assert "idle_us_per_s" in figures


def test_memory_is_measured(tmp_path):
    [figures] = run("memory-server", tmp_path, "dploylib")
    assert figures["each_kib"] > 0


def test_imports_and_the_first_reply_are_measured(tmp_path):
    run("import", tmp_path, "import dploylib.services")
    for figures in run("first-reply", tmp_path, "dploylib run", "pyzmq"):
        assert figures["first_reply_ms"] > 0


def test_a_contender_that_is_not_installed_is_skipped(tmp_path):
    absent = cases.Contender("absent", "pyzmq_", needs="no_such_module")
    case = dataclasses.replace(cases.CASES[0], contenders=(absent,))
    result = run_case(case, BRIEF, tmp_path, lambda progress: None)
    assert result.figures == {}
    assert "absent: skipped: no_such_module is not installed" in report.case_table(result)


def test_without_the_headers_of_libzmq_its_package_is_named(tmp_path, monkeypatch):
    compiler = tmp_path / "cc"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no C compiler: on Debian, apt-get install gcc libzmq3-dev"):
        compile_c(tmp_path)
    compiler.write_text("#!/bin/sh\necho 'fatal error: zmq.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(Unavailable, match=r"zmq\.h: No such file.*: on Debian, apt-get install libzmq3-dev"):
        compile_c(tmp_path)


def test_a_server_that_does_not_start_fails_by_itself(tmp_path):
    broken = cases.Contender("broken", "pyzmq_", ("--no-such-option",))
    case = dataclasses.replace(cases.CASES[0], contenders=(broken, cases.PYZMQ))
    result = run_case(case, BRIEF, tmp_path, lambda progress: None)
    assert list(result.figures) == ["pyzmq"]
    assert "unrecognized arguments: --no-such-option" in result.failed["broken"]


def test_the_command_line_writes_what_it_measured(tmp_path):
    file = tmp_path / "new" / "results.json"
    arguments = ["--only", "json", "--rounds", "2", "--seconds", "0.02", "--json", str(file)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    data = json.loads(file.read_text())
    assert data["settings"]["rounds"] == 2
    [case] = data["cases"]
    assert (case["name"], case["failed"]) == ("json", {})
    assert [len(rounds) for rounds in case["rounds"].values()] == [2, 2, 2]
    summary = case["summary"]["dploylib"]["throughput"]
    assert 0 < summary["low"] <= summary["median"] <= summary["high"]


def test_the_command_line_lists_cases():
    done = CliRunner().invoke(main, ["--list", "--only", "pub-*"])
    assert [line.split()[0] for line in done.output.splitlines()] == ["pub-1", "pub-10", "pub-100"]
    assert CliRunner().invoke(main, ["--only", "nothing"]).exit_code == 2

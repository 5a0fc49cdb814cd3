"""`dploylib call`, `send` and `listen`, as a user runs them."""

import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dploylib.transport import Context, Envelope, Socket

pytestmark = pytest.mark.once("commands run in interpreters of their own, and patch nothing")

# call ---------------------------------------------------------------------------------------------------------------


def described(done) -> dict:
    """What the service says about the envelope that it got."""
    assert (done.stderr, done.returncode) == (b"", 0)
    description = json.loads(done.stdout)
    return {**description, "body": bytes(description["body"])}


@pytest.mark.parametrize(
    ("arguments", "input", "mimetype", "body"),
    [
        (["grüße"], None, "text/plain", "grüße".encode()),
        ([""], b"not read", "text/plain", b""),
        (["--json", '{"a": [1, 2]}'], None, "application/json", b'{"a": [1, 2]}'),
        (["--file", "config.json"], None, "application/json", b"{}\n"),
        (["--file", "blob"], None, "application/octet-stream", b"\x00\xff\n"),
        ([], b"piped\n", "text/plain", b"piped\n"),
        (["-"], b"\xff\x00", "application/octet-stream", b"\xff\x00"),
        (["x", "--mimetype", "text/csv"], None, "text/csv", b"x"),
    ],
)
def test_the_body_of_a_call_arrives_as_it_was_given(sample, dploylib, directory, arguments, input, mimetype, body):
    (directory / "config.json").write_text("{}\n")
    (directory / "blob").write_bytes(b"\x00\xff\n")
    done = dploylib("call", sample.endpoint("describe"), "--id", "the id", *arguments, input=input)
    assert described(done) == {"id": "the id", "mimetype": mimetype, "body": body, "patched": True}


@pytest.mark.parametrize(
    ("arguments", "input", "output"),
    [
        (["text"], None, b"text\n"),
        ([], b"text\n", b"text\n"),
        (["--json", "[1]"], None, b"[1]\n"),
        ([], b"\xff\x00", b"\xff\x00"),
    ],
)
def test_a_reply_is_printed_as_it_is_but_text_ends_with_a_newline(sample, dploylib, arguments, input, output):
    assert dploylib("call", sample.endpoint("echo"), *arguments, input=input).stdout == output


def test_a_verbose_call_shows_the_frames_both_ways(sample, dploylib):
    done = dploylib("call", sample.endpoint("echo"), "hello", "--id", "x", "-v")
    assert done.stdout == b"hello\n"
    assert done.stderr.decode().splitlines() == [
        "> b'x'",
        "> b'text/plain'",
        "> b'hello'",
        "< b'x'",
        "< b'text/plain'",
        "< b'hello'",
    ]


def test_a_problem_is_told_with_an_exit_status_of_its_own(sample, dploylib):
    endpoint = sample.endpoint("fail")
    done = dploylib("call", endpoint, "x")
    assert (done.stdout, done.returncode) == (b"", 6)
    assert done.stderr.decode() == (
        f"Error: {endpoint} answered: 500 Handler failed: the handler of sample.fail failed "
        "(urn:dploylib:handler-failed)\n"
    )


def test_a_call_without_a_reply_says_that_there_was_a_connection(sample, dploylib):
    endpoint = sample.endpoint("mute")
    done = dploylib("call", endpoint, "x", "--timeout", "0.3")
    assert (done.stdout, done.returncode) == (b"", 5)
    said = done.stderr.decode()
    assert said.startswith(f"Error: {endpoint}: the request was sent, but there was no reply within 0.3")


@pytest.mark.parametrize("command", [("call", "x"), ("send", "x"), ("listen",)])
def test_without_a_peer_the_time_is_up_and_nothing_succeeds(dploylib, command):
    done = dploylib(command[0], "ipc://nobody.sock", *command[1:], "--timeout", "0.2")
    assert (done.stdout, done.returncode) == (b"", 5)
    assert done.stderr.startswith(b"Error: ipc://nobody.sock: ")
    assert b"within 0.2" in done.stderr
    assert done.stderr.endswith(b"no connection can be made: No such file or directory; is its service running?\n")


@pytest.mark.parametrize("command", [["call", "x"], ["send", "x"], ["listen", "--type", "pull"]])
def test_a_peer_of_another_type_is_not_taken_for_one_that_is_missing(dploylib, ipc_dir, command):
    with Context.new() as context, Socket.bind_new("pub", f"ipc://{ipc_dir}/news", context=context) as peer:
        endpoint = peer.endpoint
        done = dploylib(command[0], endpoint, *command[1:], "--timeout", "0.5")
    assert (done.stdout, done.returncode) == (b"", 5)
    assert "something listens there, but " in done.stderr.decode()
    assert "; a REP or ROUTER takes" in done.stderr.decode()
    assert "a PUB `dploylib listen`" in done.stderr.decode()


def test_a_host_without_an_address_is_told(dploylib):
    done = dploylib("call", "tcp://no-such-host.invalid:5000", "x", "--timeout", "0.2")
    assert (done.stdout, done.returncode) == (b"", 5)
    assert b"no connection can be made: the host 'no-such-host.invalid' has no address" in done.stderr


@pytest.mark.parametrize(("frames", "complaint"), [([b"one"], "1 frame"), ([b"a", b"b", b"\xff", b"d"], "4 frames")])
def test_a_reply_that_is_no_envelope_is_the_fault_of_the_peer(start, frames, complaint):
    with Context.new() as context, Socket.bind_new("rep", "tcp://127.0.0.1:*", context=context) as peer:
        call = start("call", peer.endpoint, "x", "--timeout", "30")
        peer.receive_frames(timeout=30)
        peer.send_frames(frames)
        _, errors = call.communicate(timeout=30)
    assert (errors.startswith(f"Error: malformed envelope: {complaint}"), call.returncode) == (True, 6)


# Each round has a service that ends right after its reply. ZMQ_IMMEDIATE, which would also tell a client whether it is
# connected, loses one such reply in five.
LAST_REPLIES = """
import threading, zmq
from dploylib.cli import main

def reply_and_end():
    context = zmq.Context()
    socket = context.socket(zmq.REP)
    socket.linger = 10_000
    socket.bind(endpoint)
    socket.send_multipart(socket.recv_multipart())
    socket.close()
    context.term()

for number in range(40):
    endpoint = f"ipc://{number}.sock"
    service = threading.Thread(target=reply_and_end)
    service.start()
    assert main(["call", endpoint, "x"]) == 0
    service.join()
"""


def test_a_reply_right_before_the_service_ends_arrives(directory):
    (directory / "last_replies.py").write_text(LAST_REPLIES)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(
        [sys.executable, "last_replies.py"], cwd=directory, env=environment, capture_output=True, timeout=50
    )
    assert (done.stderr, done.stdout, done.returncode) == (b"", b"x\n" * 40, 0)


def test_an_interrupted_call_ends_quietly(start):
    with Context.new() as context, Socket.bind_new("rep", "tcp://127.0.0.1:*", context=context) as peer:
        call = start("call", peer.endpoint, "x", "--timeout", "30")
        peer.receive_frames(timeout=30)  # it is waiting for the reply now
        call.send_signal(signal.SIGINT)
        assert (*call.communicate(timeout=30), call.returncode) == ("", "", 130)


def test_a_call_does_not_wait_for_somebody_to_type(start):
    terminal, other_side = pty.openpty()
    with open(terminal, "wb"), open(other_side, "rb") as stdin:
        call = start("call", "tcp://127.0.0.1:1", stdin=stdin)
        _, errors = call.communicate(timeout=30)
    assert errors.splitlines()[-1] == ("Error: nothing to send: expected TEXT, --json, --file, or something piped in")
    assert call.returncode == 2


def test_an_endpoint_that_cannot_be_used_has_an_exit_status_of_its_own(dploylib):
    done = dploylib("call", "udp://127.0.0.1:5000", "x")
    assert done.returncode == 7
    assert b"Traceback" not in done.stderr


# send ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "peer_kind"), [("push", "pull"), ("pair", "pair"), ("dealer", "rep")])
def test_an_envelope_is_handed_over(dploylib, kind, peer_kind):
    with Context.new() as context, Socket.bind_new(peer_kind, "tcp://127.0.0.1:*", context=context) as peer:
        done = dploylib("send", peer.endpoint, "--type", kind, "--id", "x", "--json", "[1]", "--timeout", "30")
        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
        assert peer.receive_frames(timeout=10) == [b"x", b"application/json", b"[1]"]


def test_a_dealer_reaches_a_router(dploylib):
    with Context.new() as context, Socket.bind_new("router", "tcp://127.0.0.1:*", context=context) as peer:
        assert dploylib("send", peer.endpoint, "hello", "--type", "dealer", "--timeout", "30").returncode == 0
        assert peer.receive_envelope(timeout=10).text == "hello"


def test_a_large_envelope_arrives_whole(dploylib, directory):
    body = bytes(range(256)) * 40_000
    (directory / "large").write_bytes(body)
    with Context.new() as context, Socket.bind_new("pull", "tcp://127.0.0.1:*", context=context) as peer:
        assert dploylib("send", peer.endpoint, "--file", "large", "--timeout", "30").returncode == 0
        assert peer.receive_envelope(timeout=10).data == body


def test_a_peer_that_stops_reading_is_no_success(start, directory):
    """A peer that shakes hands as ZMTP 3.0 (rfc.zeromq.org/spec/23) has it, and then reads nothing."""
    with (directory / "large").open("wb") as file:
        file.truncate(50_000_000)  # more than the buffers of any two sockets
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 4) + b"PULL"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        send = start("send", f"tcp://127.0.0.1:{port}", "--file", "large", "--timeout", "1")
        connection, _ = server.accept()
        with connection:
            connection.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
            _, errors = send.communicate(timeout=30)
    assert (errors, send.returncode) == (
        f"Error: tcp://127.0.0.1:{port}: connected, but the peer did not take all of the envelope within 1 s\n",
        5,
    )


# listen -------------------------------------------------------------------------------------------------------------


def test_a_topic_selects_what_is_printed(sample, dploylib):
    done = dploylib("listen", sample.endpoint("news"), "--id", "weather", "--count", "2")
    assert (done.stdout, done.stderr, done.returncode) == (b"weather.today text/plain sunny\n" * 2, b"", 0)


def test_several_topics_and_json(sample, dploylib):
    options = ["--id", "weather", "--id", "sport", "--count", "4", "--format", "json"]
    done = dploylib("listen", sample.endpoint("news"), *options)
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(printed) == 4
    assert {"id": "weather.today", "mimetype": "text/plain", "text": "sunny"} in printed
    assert {"id": "sport", "mimetype": "application/json", "json": {"goals": [1, 2]}} in printed


def test_listening_ends_when_nothing_comes(sample, dploylib):
    endpoint = sample.endpoint("news")
    done = dploylib("listen", endpoint, "--id", "nothing like it", "--timeout", "0.7")
    assert (done.stdout, done.returncode) == (b"", 5)
    assert done.stderr.decode() == f"Error: {endpoint}: connected, but nothing came for 0.7 s\n"


def test_an_envelope_takes_one_line_whatever_is_in_it(start):
    with Context.new() as context, context.socket("push") as peer:
        listen = start("listen", "tcp://127.0.0.1:*", "--type", "pull", "--bind", "--count", "3")
        peer.connect(listen.stderr.readline().removeprefix("listening at ").strip())
        peer.send_envelope(Envelope("", "text/plain", "two\nlines\x1b[31m, naïve"))
        peer.send_frames([b"not an envelope"])
        peer.send_envelope(Envelope("i\nd", "", b"\xff"))
        peer.send_envelope(Envelope("last", "text/plain", ""))
        output, errors = listen.communicate(timeout=30)
    assert output.splitlines() == ["- text/plain two\\nlines\\x1b[31m, naïve", "i\\nd - b'\\xff'", "last text/plain "]
    assert errors.startswith("malformed envelope: 1 frame")
    assert listen.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_listening_quietly_and_removes_the_ipc_file(start, ipc_dir, number):
    endpoint = f"ipc://{ipc_dir}/in"
    listen = start("listen", endpoint, "--type", "pull", "--bind")
    assert listen.stderr.readline() == f"listening at {endpoint}\n"
    listen.send_signal(number)
    assert (*listen.communicate(timeout=30), listen.returncode) == ("", "", 128 + number)


def test_whoever_has_read_enough_ends_listening_quietly(sample, start):
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as writer:
        listen = start("listen", sample.endpoint("news"), "--id", "weather", stdout=writer)
    assert (*listen.communicate(timeout=30), listen.returncode) == (None, "", 0)


def test_binding_to_an_endpoint_in_use_has_an_exit_status_of_its_own(sample, dploylib):
    done = dploylib("listen", sample.endpoint("echo"), "--bind")
    assert done.returncode == 7
    assert b"Traceback" not in done.stderr

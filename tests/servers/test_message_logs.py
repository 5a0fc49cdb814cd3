"""What the log says while messages are handled."""

import logging

import gevent
import pytest

from dploylib.logs import MessageFields
from dploylib.servers import MessageLog, Server, bind_in, offload
from dploylib.transport import Metadata, PollLoop

log = logging.getLogger("tests.of_the_user")


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.addFilter(MessageFields())
        self.records = []

    def emit(self, record):
        record.message = record.getMessage()
        self.records.append(record)

    def of(self, message):
        return [record for record in self.records if message in record.message]


@pytest.fixture
def records():
    handler = Records()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def fields(record):
    return (record.service, record.server, record.socket, record.request_id)


class Talks(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        log.info("handling")
        gevent.sleep(0)
        offload(log.info, "offloaded")
        gevent.spawn(log.info, "spawned").join()
        self.spawn(log.info, "with the server").join()
        log.info("done with %s", received.request_id)
        return "ok"

    @bind_in("jobs", "pull")
    def jobs(self, socket, received):
        log.info("job")


def ask(client, number):
    client.send(Metadata(number).to_frame(), b"", b"", b"text/plain", b"hello")


@pytest.mark.parametrize("loop", [None, PollLoop.new], ids=["ReceiveLoop", "PollLoop"])
@pytest.mark.parametrize("concurrency", [1, 10])
def test_all_that_a_handler_logs_says_for_which_message(serve, peer, records, loop, concurrency):
    server = serve(Talks, poll_loop=loop and loop(), request={"concurrency": concurrency})
    client = peer("dealer", server.endpoints["request"][0])
    for number in range(5):
        ask(client, number)
    for _ in range(5):
        assert client.receive()[-1] == b"ok"
    for number in range(5):
        mine = [one for one in records.records if getattr(one, "request_id", "") == str(number)]
        said = ["handling", "offloaded", "spawned", "with the server", f"done with {number}"]
        assert [one.message for one in mine] == said
        assert {fields(one) for one in mine} == {("dploylib", "tested", "request", str(number))}


def test_a_message_without_metadata_is_known_by_its_socket(serve, peer, records, wait_until):
    server = serve(Talks)
    peer("push", server.endpoints["jobs"][0]).send(b"", b"text/plain", b"x")
    wait_until(lambda: records.of("job"))
    assert fields(records.of("job")[0]) == ("dploylib", "tested", "jobs", "")


class Fails(Server):
    def setup(self):
        self.go_on = gevent.event.Event()

    @bind_in("request", "rep")
    def request(self, socket, received):
        if received.text == "nothing":
            return None
        if received.text == "lookup":
            return {}[received.text]
        raise ValueError(f"secret {received.text}")

    def on_error(self, socket, received, error):
        if received.text == "in on_error":
            raise RuntimeError("there, too")


def untold(failures, kind):
    """How many more than the first one the log says that there were."""
    later = [one.message for one in failures if f": {kind} at " in one.message and not one.exc_info]
    return sum(int(message.rpartition("(and ")[2].split()[0]) for message in later)


def flood(serve, peer, texts):
    server = serve(Fails)
    client = peer("dealer", server.endpoints["request"][0])
    for text in texts:
        client.send(b"", b"", b"text/plain", text.encode())
    for _ in texts:
        assert client.receive()[-2] == b"application/problem+json"
    return server


def test_a_handler_that_always_fails_does_not_fill_the_log(serve, peer, records):
    texts = [f"{number}" for number in range(500)] + ["lookup"] * 200
    server = flood(serve, peer, texts)
    failures = records.of("the handler of tested.request failed")
    # The first one of each kind, with its traceback, and later how many more there were.
    assert [one.exc_info[0] for one in failures if one.exc_info] == [ValueError, KeyError]
    serve.stop(server)
    failures = records.of("the handler of tested.request failed")
    assert (untold(failures, "ValueError"), untold(failures, "KeyError")) == (499, 199)
    assert len(failures) < 20
    assert server.counts["request"].failed == 700
    assert all(one.request_id == "" == one.server for one in failures if not one.exc_info)
    assert "test_message_logs.py:" in failures[0].message


def test_handlers_that_do_not_answer_do_not_fill_the_log(serve, peer, records):
    server = flood(serve, peer, ["nothing"] * 300)
    serve.stop(server)
    told = records.of("neither sent a reply")
    assert 2 <= len(told) < 10
    assert {one.levelno for one in told} == {logging.ERROR}


def test_an_on_error_that_always_fails_does_not_fill_the_log(serve, peer, records):
    server = flood(serve, peer, ["in on_error"] * 300)
    serve.stop(server)
    told = records.of("on_error of server tested failed for a message of tested.request: RuntimeError at ")
    assert [one.exc_info[0] for one in told if one.exc_info] == [RuntimeError]
    assert len(told) < 10


def test_a_share_of_the_messages_is_logged(serve, peer, records):
    class Echo(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            return received.text

    logged = {}
    for share in (0.0, 0.5, 1.0):
        before = len(records.of(" handled "))
        server = Echo("tested", serve._settings_for(Echo), None, serve._context)
        server.hooks = [MessageLog(share)]
        serve.start(server)
        while not server.endpoints:
            gevent.sleep(0)
        client = peer("req", server.endpoints["request"][0])
        for _ in range(200):
            client.ask(b"", b"text/plain", b"secret")
        logged[share] = len(records.of(" handled ")) - before
    assert logged[0.0] == 0
    assert 0 < logged[0.5] < 200  # each of these is as likely as 200 heads in a row
    assert logged[1.0] == 200
    assert not records.of("secret")

"""The HTTP side, over real connections."""

import json
import logging
import socket as network
import sys

import gevent
import gevent.event
import gevent.socket
import pytest

from dploylib.control import Health, http
from dploylib.control.http import HTTPServer
from dploylib.errors import AddressInUse, EndpointError
from dploylib.testing.leaks import LeakCheck, wait_until_empty
from tests.control.sources import SECRET, FixedSource, a_process, a_socket, everything, histogram

ANY = ("127.0.0.1", 0)
PATHS = ["/", "/api/statistics", "/healthz", "/metrics", "/readyz"]
PATIENCE = 10.0


@pytest.fixture
def source():
    return FixedSource(a_process(sockets={"request": everything()}))


@pytest.fixture
def server(source):
    with HTTPServer(source, ANY) as server:
        yield server


class Client:
    """One connection."""

    def __init__(self, server):
        self.socket = gevent.socket.create_connection(server.address, timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def send(self, text):
        self.socket.sendall(text.encode("latin-1"))

    def ask(self, path="/", method="GET", **headers):
        lines = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.send(f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n")
        return self.answer(method)

    def answer(self, method="GET"):
        """Status, headers and body of the next answer."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, b"" if method == "HEAD" else self.file.read(int(headers["content-length"]))

    def refusal(self):
        """The status of the next answer."""
        return int(self.file.readline().split()[1])

    def ended(self):
        """Whether the server has closed the connection, having said nothing more."""
        return self.file.read() == b""

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def client(server):
    client = Client(server)
    yield client
    client.close()


def test_the_routes_and_their_types(client):
    assert {path: (client.ask(path)[0], client.ask(path)[1]["content-type"].partition(";")[0]) for path in PATHS} == {
        "/": (200, "text/html"),
        "/api/statistics": (200, "application/json"),
        "/healthz": (200, "text/plain"),
        "/metrics": (200, "text/plain"),
        "/readyz": (200, "text/plain"),
    }


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(client, path):
    status, headers, _ = client.ask(path, "HEAD")
    again, expected, body = client.ask(path)
    assert (status, headers.keys()) == (again, expected.keys())
    assert abs(int(headers["content-length"]) - len(body)) < 20  # the time has more digits, or fewer


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_every_answer_has_the_headers_that_protect_it(client, path):
    _, headers, _ = client.ask(path)
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in headers["content-security-policy"]


def test_metrics_come_as_what_is_accepted(client):
    assert client.ask("/metrics", Accept="application/openmetrics-text")[2].endswith(b"# EOF\n")
    assert b"dploylib_messages_received_total" in client.ask("/metrics", Accept="*/*")[2]


def test_what_is_not_there_is_told_as_text(client):
    for path in ("/nothing", "/metrics/", "/../etc/passwd", "//", "/%2e%2e"):
        status, headers, body = client.ask(path)
        assert (status, headers["content-type"]) == (404, "text/plain; charset=utf-8")
        assert b"there is nothing but / /api/statistics" in body


def test_a_query_is_ignored(client):
    assert client.ask("/readyz?verbose=1")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "<script>"])
def test_nothing_but_get_and_head_is_allowed(client, method):
    status, headers, body = client.ask("/readyz", method)
    assert (status, headers["allow"], body) == (405, "GET, HEAD", b"only GET and HEAD\n")


def test_a_body_is_no_request(client):
    assert client.ask("/readyz", "POST", Content_Length="3")[0] == 405
    client.send("abc")
    assert client.ask("/readyz")[0] == 200


def test_ready_and_alive_are_said_with_the_reasons(client, source):
    assert client.ask("/readyz")[::2] == (200, b"ready\n")
    assert client.ask("/healthz")[::2] == (200, b"alive\n")
    source.said = Health(alive=True, ready=False, state="starting", why=["echo is starting", "front is not there"])
    assert client.ask("/readyz")[::2] == (503, b"not ready: starting\necho is starting\nfront is not there\n")
    assert client.ask("/healthz")[::2] == (200, b"alive\n")
    source.said = Health(alive=False, ready=False, state="stopped", why=["echo has died"])
    assert client.ask("/healthz")[::2] == (503, b"not alive: stopped\necho has died\n")


def test_statistics_are_those_of_the_service_as_a_whole(client, source):
    killed = a_process("gone", 0, sockets={"request": a_socket(received=10, handled=5, handler_time=histogram(1.0))})
    source.processes = (killed, a_process(pid=4711, sockets={"request": everything()}))
    told = json.loads(client.ask("/api/statistics")[2])
    assert told["service"] == "shop"
    assert told["health"] == {"alive": True, "ready": True, "state": "running", "why": []}
    echo = told["servers"]["echo"]
    assert (echo["state"], echo["restarts"]) == ("running", 0)
    request = echo["sockets"]["request"]
    assert (request["received"], request["in_flight"], request["errors"], request["open"]) == (110, 3, 21, 7)
    assert sum(request["handler_time"]["counts"].values()) == 7
    assert [(one["pid"], one["role"]) for one in told["processes"]] == [(4711, "worker")]
    assert told["started"] <= told["taken"]


def test_texts_of_errors_are_told_nowhere(client):
    answers = [client.ask(path)[2] for path in PATHS]
    assert not any(SECRET.encode() in answer for answer in answers)
    last = json.loads(answers[1])["servers"]["echo"]["sockets"]["request"]["last_error"]
    assert last == {"time": 1_700_000_000.5, "type": "ZeroDivisionError"}


# Who may ask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "LOCALHOST"]
)
def test_who_calls_it_by_a_name_of_this_machine_is_answered(client, host):
    assert client.ask("/readyz", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "", ":80", "[::1", "a@b"],
)
def test_a_page_of_the_web_whose_name_means_this_machine_is_not_answered(client, host):
    for path in PATHS:
        status, _, body = client.ask(path, Host=host)
        assert status == 421
        assert b"ask for localhost" in body


def test_a_server_for_all_interfaces_goes_by_any_name(source):
    with HTTPServer(source, ("0.0.0.0", 0)) as server:
        client = Client(server)
        assert client.ask("/readyz", Host="pod.example:8080")[0] == 200
        client.close()


def test_a_request_has_a_host_except_of_http_1_0(server):
    client = Client(server)
    client.send("GET /readyz HTTP/1.1\r\n\r\n")
    assert client.answer()[::2] == (400, b"there is no Host\n")
    client.send("GET /readyz HTTP/1.0\r\n\r\n")
    assert client.answer()[0] == 200
    assert client.ended()
    client.close()


# Bad clients --------------------------------------------------------------------------------------------------------


def test_several_requests_on_one_connection_are_answered_in_order(client):
    client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [client.answer()[2], client.answer()[2]] == [b"ready\n", b"alive\n"]


@pytest.mark.parametrize(
    "request_text",
    [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        "GET /" + "x" * 10_000 + " HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n" + "a: b\r\n" * 200 + "\r\n",
        "GET / HTTP/1.1\r\na: " + "b" * 100_000 + "\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_without_a_word_in_the_log(server, caplog, capfd, request_text):
    client = Client(server)
    client.send(request_text)
    assert client.refusal() in (400, 414)
    client.close()
    other = Client(server)
    assert other.ask("/readyz")[0] == 200
    other.close()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert capfd.readouterr().err == ""


def test_clients_that_go_away_leave_nothing_in_the_log(server, caplog, capfd):
    for text in ("", "GET", "GET / HTTP/1.1\r\nHost: ", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        client = Client(server)
        client.send(text)
        client.socket.setsockopt(network.SOL_SOCKET, network.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        client.close()
    assert wait_until_empty(lambda: list(server._server.pool)) == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert capfd.readouterr().err == ""


def test_a_client_that_goes_away_in_its_headers_leaves_nothing_in_the_log(server, wait_until, caplog, capfd):
    client = Client(server)
    client.send("GET / HTTP/1.1\r\nHost: ")
    wait_until(lambda: len(server._server.pool) == 1 and not server._server.idle)  # the first line has been read
    client.socket.setsockopt(network.SOL_SOCKET, network.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    client.close()
    assert wait_until_empty(lambda: list(server._server.pool)) == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "GET /", "GET / HTTP/1.1\r\nHost: localhost\r\nA: "])
def test_a_client_that_sends_slowly_is_cut_off(source, monkeypatch, text):
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.05)
    with HTTPServer(source, ANY) as server:
        client = Client(server)
        client.send(text)
        assert client.ended()
        client.close()


def test_a_client_that_reads_slowly_is_cut_off(source, monkeypatch, caplog):
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.3)
    source.processes = (a_process(sockets={"x" * 100 + str(i): a_socket() for i in range(2000)}),)
    with HTTPServer(source, ANY) as server:
        client = Client(server)
        client.send("GET /api/statistics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40)
        assert wait_until_empty(lambda: list(server._server.pool)) == []
        client.close()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_connections_beyond_the_limit_wait_until_others_are_closed(source, monkeypatch):
    monkeypatch.setattr(http, "_CONNECTIONS", 2)
    with HTTPServer(source, ANY) as server:
        first, second = Client(server), Client(server)
        assert first.ask("/readyz")[0] == second.ask("/readyz")[0] == 200
        third = Client(server)
        third.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server._server.pool.full()
        first.close()
        assert third.answer()[0] == 200
        second.close()
        third.close()


def test_a_source_that_fails_is_an_error_in_the_log_and_nowhere_else(client, source, caplog):
    source.statistics = lambda: 1 / 0
    for path in ("/metrics", "/api/statistics"):
        assert client.ask(path)[::2] == (500, b"this failed, see the log of the service\n")
    assert "ZeroDivisionError" in caplog.text
    assert client.ask("/healthz")[0] == 200


# Its life -----------------------------------------------------------------------------------------------------------


def test_a_stop_leaves_nothing_behind(source, spawn):
    check = LeakCheck()
    server = HTTPServer(source, ANY)
    server.start()
    idle, silent = Client(server), Client(server)
    assert idle.ask("/readyz")[0] == 200
    spawn(server.stop, 10 * PATIENCE).get(timeout=PATIENCE)  # it does not wait for connections where nothing is asked
    assert idle.ended()
    assert silent.ended()
    with pytest.raises(ConnectionRefusedError):
        Client(server)
    idle.close()
    silent.close()
    server.stop()
    assert wait_until_empty(check.left) == []


def test_a_stop_lets_a_request_be_answered(source, spawn):
    asked, may_answer = gevent.event.Event(), gevent.event.Event()

    def statistics():
        asked.set()
        may_answer.wait()
        return []

    source.statistics = statistics
    server = HTTPServer(source, ANY)
    server.start()
    client = Client(server)
    answer = spawn(client.ask, "/api/statistics")
    asked.wait(PATIENCE)
    stop = spawn(server.stop, 10 * PATIENCE)
    gevent.idle()
    may_answer.set()
    assert answer.get(timeout=PATIENCE)[0] == 200
    stop.get(timeout=PATIENCE)
    assert client.ended()
    client.close()


def test_a_stop_waits_no_longer_than_it_may(source, spawn, caplog):
    asked = gevent.event.Event()

    def statistics():
        asked.set()
        gevent.event.Event().wait()

    source.statistics = statistics
    server = HTTPServer(source, ANY)
    server.start()
    client = Client(server)
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    asked.wait(PATIENCE)
    spawn(server.stop, 0.05).get(timeout=PATIENCE)
    assert client.ended()
    client.close()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_it_takes_a_socket_that_listens(source):
    listener = network.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with HTTPServer(source, listener) as server:
        assert server.address == ("127.0.0.1", port)
        assert server.url == f"http://127.0.0.1:{port}/"
        client = Client(server)
        assert client.ask("/readyz", Host="evil.example")[0] == 421
        assert client.ask("/readyz")[0] == 200
        client.close()


def test_ipv6_has_brackets_in_its_url(source):
    assert HTTPServer(source, ("::1", 8080)).url == "http://[::1]:8080/"


def test_an_address_in_use_is_named(source, server):
    with pytest.raises(AddressInUse, match=rf"cannot listen at {server.url} .*: Address already in use"):
        HTTPServer(source, server.address).start()


def test_an_address_of_another_machine_is_named(source):
    with pytest.raises(EndpointError, match=r"at http://192.0.2.1:80/ \(monitoring.http\): Cannot assign"):
        HTTPServer(source, ("192.0.2.1", 80)).start()


def test_without_prometheus_client_all_but_metrics_works(source, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "dploylib.control.metrics", raising=False)
    with HTTPServer(source, ANY) as server:
        client = Client(server)
        status, _, body = client.ask("/metrics")
        assert (status, body) == (501, b"/metrics needs prometheus-client: pip install 'dploylib[metrics]'\n")
        assert [client.ask(path)[0] for path in PATHS if path != "/metrics"] == [200] * 4
        client.close()
    assert "pip install 'dploylib[metrics]'" in caplog.text

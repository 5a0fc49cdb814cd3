"""What a server tells of itself: what came of the messages of each socket, of its connections, and how it is."""

import time

import gevent
import gevent.monkey
import gevent.socket
import pytest
import zmq.green as zmq
from gevent.event import Event

from dploylib.clients import RequestClient
from dploylib.config import YAMLConfigMapper
from dploylib.security import KeyPair, authorize, write_key_pair
from dploylib.servers import Server, bind, bind_in, connect
from dploylib.statistics import Connections
from dploylib.transport import Context, Socket, SocketMonitor

PATIENCE = 10.0
DELIMITER = {"rep": [b""], "pool": [b""], "router": [b""], "dealer": [], "pair": [], "pull": []}
CLIENT = {"rep": "dealer", "pool": "dealer", "router": "dealer", "dealer": "dealer", "pair": "pair", "pull": "push"}
ANSWERING = pytest.mark.parametrize("name", ["rep", "pool", "router", "dealer", "pair"])
EVERY = pytest.mark.parametrize("name", list(CLIENT))


class Obedient(Server):
    """Does on each type of socket what a message says."""

    def setup(self):
        self.go_on = Event()
        self.running = 0

    def obey(self, socket, received):
        what = received.text
        if what == "fail":
            raise ZeroDivisionError("no\nnumber")
        if what == "wait":
            self.running += 1
            self.go_on.wait()
        if what == "nothing":
            return None
        if what == "refuse":
            return received.json
        return what

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return self.obey(socket, received)

    @bind_in("pool", "rep", concurrency=10)
    def pool(self, socket, received):
        return self.obey(socket, received)

    @bind_in("router", "router")
    def router(self, socket, received):
        return self.obey(socket, received)

    @bind_in("dealer", "dealer")
    def dealer(self, socket, received):
        return self.obey(socket, received)

    @bind_in("pair", "pair")
    def pair(self, socket, received):
        return self.obey(socket, received)

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.obey(socket, received)


@pytest.fixture
def obedient(serve, peer):
    """`obedient("rep", overload="reject")`: a server, a client of one of its sockets, and what that tells."""

    def start(name, **settings):
        server = serve(Obedient, **{name: settings})
        client = peer(CLIENT[name], server.endpoints[name][0])

        def send(text, *front, mimetype=b"text/plain"):
            client.send(*front, *DELIMITER[name], b"", mimetype, text.encode())

        return server, client, send, lambda: server.statistics().sockets[name]

    return start


def problem_type(client):
    return client.problem_in(client.receive())["type"].rpartition(":")[2]


# What came of the messages ----------------------------------------------------------------------------------------


@EVERY
def test_what_was_handled_is_counted_with_its_bytes_and_times(obedient, wait_until, name):
    _, client, send, now = obedient(name)
    for text in ("x", "four"):
        send(text)
        if name != "pull":
            assert client.receive()[-1] == text.encode()
    wait_until(lambda: now().handled == 2)
    found = now()
    replies = 0 if name == "pull" else 2
    assert (found.type, found.received, found.in_flight) == ("rep" if name == "pool" else name, 2, 0)
    assert found.concurrency == (10 if name == "pool" else 1)
    assert (found.sent, found.replied, found.errors, found.undelivered, found.dropped) == (replies, replies, 0, 0, 0)
    assert (found.bytes_received, found.bytes_sent) == (5, 5 if replies else 0)
    assert (found.handler_time.count, found.wait_time.count) == (2, 0)
    assert found.problems == {}
    assert found.last_error is None


@EVERY
def test_a_handler_that_fails_is_counted_with_what_it_raised(obedient, wait_until, name):
    _, client, send, now = obedient(name)
    send("fail")
    if name != "pull":
        assert problem_type(client) == "handler-failed"
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.failed, found.errors) == (1, 1)
    assert found.problems == {"handler-failed": 1}
    assert (found.last_error.type, found.last_error.message) == ("ZeroDivisionError", "no\nnumber")
    assert found.replied == (name != "pull")


@EVERY
def test_what_is_no_envelope_is_counted_and_takes_no_time(obedient, wait_until, name):
    _, client, _, now = obedient(name)
    client.send(*DELIMITER[name], b"only", b"two")
    if name != "pull":
        assert problem_type(client) == "malformed-envelope"
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.malformed, found.errors, found.handler_time.count) == (1, 1, 0)
    assert found.problems == {"malformed-envelope": 1}
    assert found.last_error.type == "MalformedEnvelope"


@EVERY
def test_a_body_that_is_not_what_it_should_be_is_counted_as_refused(obedient, wait_until, name):
    _, client, send, now = obedient(name)
    send("refuse", mimetype=b"text/plain")
    if name != "pull":
        assert problem_type(client) == "unexpected-mimetype"
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.refused, found.failed, found.errors) == (1, 0, 1)
    assert found.problems == {"unexpected-mimetype": 1}


@EVERY
def test_a_handler_that_takes_too_long_is_counted(obedient, wait_until, name):
    _, client, send, now = obedient(name, timeout=0.02)
    send("wait")
    if name != "pull":
        assert problem_type(client) == "handler-timeout"
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.timed_out, found.errors, found.last_error.type) == (1, 1, "HandlerTimeout")
    assert found.problems == {"handler-timeout": 1}
    assert found.handler_time.quantile(0.5) >= 0.019


@ANSWERING
def test_what_comes_while_all_handlers_are_busy_is_counted_and_takes_no_time(obedient, peer, wait_until, name):
    server, client, send, now = obedient(name, overload="reject", concurrency=1)
    send("wait")
    wait_until(lambda: server.running == 1)
    assert now().in_flight == 1
    send("more")
    assert problem_type(client) == "overloaded"
    wait_until(lambda: now().in_flight == 1)
    found = now()
    assert (found.rejected, found.received, found.errors) == (1, 2, 1)
    assert found.problems == {"overloaded": 1}
    assert found.last_error.type == "Overloaded"
    assert found.handler_time.count == 0
    server.go_on.set()
    assert client.receive()[-1] == b"wait"
    wait_until(lambda: now().in_flight == 0)
    assert now().handler_time.count == 1


@pytest.mark.parametrize("name", ["rep", "pool"])
def test_a_request_that_is_not_answered_is_counted(obedient, wait_until, name):
    _, client, send, now = obedient(name)
    send("nothing")
    assert problem_type(client) == "no-reply"
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.unanswered, found.errors, found.last_error.type) == (1, 1, "NoReply")
    assert found.problems == {"no-reply": 1}


@pytest.mark.parametrize("name", ["rep", "pool", "router"])
def test_a_reply_whose_caller_is_gone_is_counted_as_undelivered(obedient, wait_until, name):
    server, client, send, now = obedient(name)
    send("wait")
    wait_until(lambda: server.running == 1)
    client.zmq_socket.close(linger=0)
    wait_until(lambda: now().connections.open == 0)
    server.go_on.set()
    wait_until(lambda: now().handled == 1)
    found = now()
    assert (found.undelivered, found.dropped, found.errors, found.replied) == (1, 1, 0, 0)
    assert found.problems == {}
    assert found.last_error.type == "Unroutable"


@ANSWERING
def test_a_handler_that_a_stop_ends_is_counted(obedient, serve, wait_until, name):
    server, client, send, now = obedient(name)
    send("wait")
    wait_until(lambda: server.running == 1)
    server.stop(0)
    assert problem_type(client) == "handler-ended"
    serve.result(server)
    found = now()
    assert (found.rejected, found.received, found.in_flight) == (1, 1, 0)
    assert found.problems == {"handler-ended": 1}
    assert found.last_error.type == "HandlerEnded"


@pytest.mark.parametrize("name", ["rep", "pool", "router", "dealer"])
def test_what_comes_while_it_stops_is_counted(obedient, serve, wait_until, name):
    server, client, send, now = obedient(name)
    send("wait")
    wait_until(lambda: server.running == 1)
    server.stop(PATIENCE)
    send("more")
    assert problem_type(client) == "shutting-down"
    assert now().problems == {"shutting-down": 1}
    server.go_on.set()
    assert client.receive()[-1] == b"wait"
    serve.result(server)
    found = now()
    assert (found.rejected, found.received, found.in_flight, found.handler_time.count) == (1, 2, 0, 1)


def test_a_deadline_that_has_passed_is_counted(obedient, metadata_frame, wait_until):
    _, client, send, now = obedient("rep")
    send("x", metadata_frame(d=0))
    assert problem_type(client) == "deadline-exceeded"
    wait_until(lambda: now().handled == 1)
    assert now().timed_out == 1
    assert now().problems == {"deadline-exceeded": 1}


def test_what_an_error_says_is_cut_when_it_is_very_long(serve, peer, wait_until):
    class Talkative(Server):
        @bind_in("request", "rep")
        def request(self, socket, received):
            raise ValueError("x" * 10_000)

    server = serve(Talkative)
    peer("req", server.endpoints["request"][0]).ask_problem(b"", b"text/plain", b"")
    assert server.statistics().sockets["request"].last_error.message == "x" * 300


def test_errors_are_counted_by_type_over_all_messages(obedient, wait_until):
    _, client, send, now = obedient("pool")
    for text in ("fail", "nothing", "fail", "x", "refuse", "fail"):
        send(text)
        client.receive()
    wait_until(lambda: now().handled == 6)
    found = now()
    assert found.problems == {"handler-failed": 3, "no-reply": 1, "unexpected-mimetype": 1}
    assert (found.failed, found.unanswered, found.refused, found.errors) == (3, 1, 1, 5)
    assert found.last_error.type == "ZeroDivisionError"


def test_sockets_without_a_handler_tell_what_they_sent(serve, context):
    class Sends(Server):
        out = bind("out", "push")
        news = bind("news", "pub")

    server = serve(Sends)
    with Socket.connect_new("pull", server.endpoints["out"][0], context=context) as pull:
        server.sockets.out.send_text("1234")
        assert pull.receive_text(PATIENCE) == "1234"
    found = server.statistics().sockets["out"]
    assert (found.type, found.sent, found.bytes_sent, found.received, found.in_flight) == ("push", 1, 4, 0, 0)
    assert found.endpoints == server.endpoints["out"]
    assert server.statistics().sockets["news"].connections == Connections()


# Waiting ----------------------------------------------------------------------------------------------------------


def test_how_long_requests_waited_is_known_of_callers_that_say_when_they_sent_them(
    obedient, metadata_frame, wait_until
):
    _, client, send, now = obedient("rep")
    long_ago = time.time() - 1000
    for fields in ({"r": "1"}, {"s": long_ago}, {"s": 4e9}):  # one does not say; the clock of one is ahead
        send("x", metadata_frame(**fields))
        assert client.receive()[-1] == b"x"
    wait_until(lambda: now().handled == 3)
    waited = now().wait_time
    assert waited.count == 2
    assert waited.quantile(0) < 1e-6
    assert waited.quantile(1) == pytest.approx(1000, rel=0.1)


def test_our_own_client_says_when(serve):
    server = serve(Obedient)
    with RequestClient(server.endpoints["pool"][0]) as client:
        client.request("x")
    assert server.statistics().sockets["pool"].wait_time.count == 1


def test_hub_delay_is_noted_as_long_as_it_runs(obedient, wait_until):
    server, *_ = obedient("rep")
    wait_until(lambda: server.hub_ran_at is not None)
    wait_until(lambda: server.statistics().hub_delay.count > 0)


# Connections ------------------------------------------------------------------------------------------------------


class OneOfEach(Server):
    """A socket that binds, and one that connects."""

    out = connect("out", "push", optional=True)

    @bind_in("request", "rep", concurrency=10, optional=True)
    def request(self, socket, received):
        return "x"


@pytest.fixture
def served(context, ipc_dir):
    """Run a server with this configuration; it is stopped in the end."""
    running = []

    def start(configuration):
        settings = YAMLConfigMapper({}).process_dict(configuration).server_settings("it")
        server = OneOfEach("it", settings, None, context)
        running.append((server, gevent.spawn(server.start)))
        with gevent.Timeout(PATIENCE):
            while server.statistics().state == "starting":
                gevent.sleep(0.002)
        return server

    yield start
    for server, greenlet in running:
        server.stop(0)
        greenlet.get(timeout=PATIENCE)


@pytest.fixture
def uri(request, ipc_dir):
    return {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{ipc_dir}/socket", "inproc": "inproc://statistics"}[
        request.param
    ]


KEYS = KeyPair.generate(), KeyPair.generate()  # of a server and its client


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "guarded"])
@pytest.mark.parametrize("uri", ["tcp", "ipc"], indirect=True)
def test_connections_to_a_bound_socket_are_counted(served, peer, uri, guarded, tmp_path, wait_until):
    pair, ours = KEYS
    security, options = {}, {}
    if guarded:
        write_key_pair(tmp_path / "it", pair)
        authorize(f"{tmp_path}/authorized/", "client", ours.public)
        security = {"secret_key": str(tmp_path / "it.key_secret"), "authorized_keys": f"{tmp_path}/authorized/"}
        options = {
            "curve_publickey": ours.public.encode(),
            "curve_secretkey": ours.secret,
            "curve_serverkey": pair.public.encode(),
        }
    server = served({"servers": {"it": {"request": {"uri": uri, **({"security": security} if security else {})}}}})
    endpoint = server.endpoints["request"][0]

    def now():
        return server.statistics().sockets["request"].connections

    clients = [peer("req", endpoint, **options) for _ in range(3)]
    assert all(client.ask(b"", b"", b"")[-1] == b"x" for client in clients)
    wait_until(lambda: now().opened == 3)
    assert (now().open, now().failed) == (3, 0)
    clients[0].zmq_socket.close(linger=0)
    wait_until(lambda: now().closed == 1)
    assert (now().opened, now().open, now().failed) == (3, 2, 0)
    if guarded:
        stranger = peer("req", endpoint, **(options | dict(zip(options, stranger_keys(), strict=False))))
        stranger.send(b"", b"", b"")
        wait_until(lambda: now().failed >= 1)
        wait_until(lambda: now().open == 2)
        stranger.zmq_socket.close(linger=0)


def stranger_keys():
    public, secret = zmq.curve_keypair()
    return public, secret


def test_a_handshake_that_fails_is_a_failure_and_a_connection_that_was_closed(served, wait_until):
    server = served({"servers": {"it": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
    host, _, port = server.endpoints["request"][0].removeprefix("tcp://").partition(":")
    with gevent.socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"PLAIN".ljust(20, b"\0") + bytes(32))  # a greeting
        wait_until(lambda: server.statistics().sockets["request"].connections.failed == 1)
    wait_until(lambda: server.statistics().sockets["request"].connections.closed == 1)
    assert server.statistics().sockets["request"].connections == Connections(opened=1, closed=1, failed=1)


@pytest.mark.parametrize("uri", ["tcp", "ipc"], indirect=True)
def test_connections_of_a_connecting_socket_are_counted(served, context, uri, wait_until):
    pull = Socket.bind_new("pull", uri, context=context)
    server = served({"servers": {"it": {"out": {"uri": pull.endpoint}}}})

    def now():
        return server.statistics().sockets["out"].connections

    wait_until(lambda: now().opened == 1)
    assert now().open == 1
    pull.close(linger=0)
    wait_until(lambda: now().closed == 1)
    assert now().open == 0


def test_connections_of_a_connecting_socket_with_a_key_are_counted(served, zmq_context, tmp_path, wait_until):
    pair, ours = KEYS
    write_key_pair(tmp_path / "it", ours)
    pull = zmq_context.socket(zmq.PULL)
    pull.curve_server = 1
    pull.curve_secretkey = pair.secret
    pull.bind("tcp://127.0.0.1:*")
    security = {"secret_key": str(tmp_path / "it.key_secret"), "server_key": pair.public}
    server = served({"servers": {"it": {"out": {"uri": pull.last_endpoint.decode(), "security": security}}}})

    def now():
        return server.statistics().sockets["out"].connections

    server.sockets.out.send_text("x", timeout=PATIENCE)
    wait_until(lambda: now().open == 1)
    assert now().failed == 0
    pull.close(linger=0)
    wait_until(lambda: now().open == 0)


@pytest.mark.parametrize("uri", ["inproc"], indirect=True)
def test_within_the_process_there_are_no_connections(served, context, uri):
    server = served({"servers": {"it": {"request": {"uri": uri}}}})
    with Socket.connect_new("req", uri, context=context) as client:
        client.send_text("x")
        assert client.receive_text(PATIENCE) == "x"
    assert server.statistics().sockets["request"].connections in (None, Connections())


def test_a_monitor_of_a_users_own_hears_all_and_ends_the_count(served, peer, wait_until):
    server = served({"servers": {"it": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
    first = peer("req", server.endpoints["request"][0])
    assert first.ask(b"", b"", b"")[-1] == b"x"
    wait_until(lambda: server.statistics().sockets["request"].connections.opened == 1)
    monitor = SocketMonitor(server.sockets.request)
    second = peer("req", server.endpoints["request"][0])
    assert second.ask(b"", b"", b"")[-1] == b"x"
    assert monitor.receive(PATIENCE).kind == "handshake_succeeded"
    monitor.close()
    assert server.statistics().sockets["request"].connections.opened == 1


def test_nothing_but_messages_is_counted_where_the_configuration_says_so(served, peer):
    configuration = {"servers": {"it": {"request": {"uri": "tcp://127.0.0.1:*"}}}, "monitoring": {"statistics": False}}
    server = served(configuration)
    client = peer("req", server.endpoints["request"][0])
    assert client.ask(b"", b"text/plain", b"hello")[-1] == b"x"
    found = server.statistics().sockets["request"]
    assert (found.received, found.replied) == (1, 1)
    assert found.connections is None
    assert (found.handler_time.count, found.wait_time.count) == (0, 0)


def test_counting_leaves_nothing_behind(leak_check, peer):
    with Context.new() as context:
        settings = YAMLConfigMapper({}).process_dict({"servers": {"it": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
        server = OneOfEach("it", settings.server_settings("it"), None, context)
        greenlet = gevent.spawn(server.start)
        with gevent.Timeout(PATIENCE):
            while server.statistics().state == "starting":
                gevent.sleep(0.002)
        with Socket.connect_new("req", server.endpoints["request"][0], context=context) as client:
            client.send_text("x")
            client.receive_text(PATIENCE)
        server.stop()
        greenlet.get(timeout=PATIENCE)
        assert server.statistics().sockets["request"].received == 1


# How it is --------------------------------------------------------------------------------------------------------


def test_the_state_is_that_of_its_life(serve, wait_until):
    states, go_on = [], Event()

    class Tells(Server):
        def setup(self):
            states.append(self.statistics().state)

        def teardown(self):
            states.append(self.statistics().state)
            go_on.wait()

    server = serve(Tells)
    wait_until(lambda: server.statistics().state == "running")
    assert server.statistics().state == "running"
    server.stop()
    assert server.statistics().state == "stopping"
    wait_until(lambda: len(states) == 2)
    go_on.set()
    serve.result(server)
    assert server.statistics().state == "stopped"
    assert states == ["starting", "stopping"]


def test_one_that_failed_is_stopped(serve):
    class Fails(Server):
        def setup(self):
            self.spawn(lambda: 1 / 0)

    server = serve(Fails)
    with pytest.raises(Exception, match="division"):
        serve.result(server)
    assert server.statistics().state == "stopped"


def test_one_that_is_not_started_tells_that_it_starts(context, settings_for):
    server = Obedient("tested", settings_for(Obedient), None, context)
    found = server.statistics()
    assert (found.type, found.state, found.sockets) == ("Obedient", "starting", {})


def test_a_thread_may_ask_while_it_starts_and_stops(context, settings_for):
    start_new_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    errors, asked, go_on = [], [0], [True]
    server = Obedient("tested", settings_for(Obedient), None, context)

    def ask():
        while go_on:
            try:
                server.statistics()
            except BaseException as error:  # noqa: BLE001 - the test is told
                errors.append(repr(error))
            asked[0] += 1

    start_new_thread(ask, ())
    greenlet = gevent.spawn(server.start)
    with gevent.Timeout(PATIENCE):
        while server.statistics().state != "running" or asked[0] < 50:
            gevent.sleep(0.002)
    server.stop()
    greenlet.get(timeout=PATIENCE)
    go_on.clear()
    assert errors == []

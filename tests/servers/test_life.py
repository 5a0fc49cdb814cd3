"""The life of a server: set up, running, stopping, and every way in which it can end."""

import logging
import time

import gevent
import pytest
from gevent.event import Event

from dploylib.errors import AddressInUse, ServerFailing, SocketClosed, SocketInfoNotInConfiguration, UnknownOption
from dploylib.servers import DployServer, Server, bind, bind_in, connect, connect_in, declare, every, server
from dploylib.servers.control import ControlLink, Stop, control_topic
from dploylib.transport import Context, Envelope, PollLoop, ReceiveLoop, Socket

pytestmark = pytest.mark.usefixtures("leak_check")
both = pytest.mark.parametrize("concurrency", [1, 10])
ANYWHERE = "tcp://127.0.0.1:*"


class Echo(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received


class Waits(Server):
    """Its handler waits for the test."""

    def setup(self):
        self.running, self.go_on = Event(), Event()

    @bind_in("request", "rep")
    def request(self, socket, received):
        self.running.set()
        self.go_on.wait()
        return "done"


# Setting up and tearing down ------------------------------------------------------------------------------------


def test_setup_comes_before_the_first_message_and_teardown_after_the_last(ipc_dir, serve, peer):
    endpoint = f"ipc://{ipc_dir}/request"
    events = []

    class Records(Server):
        out = bind("out", "push")

        def setup(self):
            assert not self.sockets.out.closed
            assert self.endpoints["request"] == [endpoint]
            events.append("setup begins")
            gevent.sleep(0.01)
            events.append("setup ends")

        def teardown(self):
            assert not self.sockets.out.closed
            events.append("teardown")

        @bind_in("request", "rep")
        def request(self, socket, received):
            events.append("request")
            return received

    client = peer("req", endpoint)
    client.send(b"", b"m", b"sent before the server was there")
    running = serve(Records, request={"uri": endpoint})
    client.receive()
    serve.stop(running)
    assert events == ["setup begins", "setup ends", "request", "teardown"]
    assert all(socket.closed for _, socket in running.sockets.items())


class Listens(Server):
    @connect_in("feed", "sub")
    def feed(self, socket, received):
        pass


@pytest.mark.parametrize("options", [{}, {"subscribe": ""}], ids=["without", "with"])
def test_a_sub_socket_without_a_subscription_is_warned_about(serve, options, caplog):
    serve(Listens, feed={"uri": "tcp://127.0.0.1:9", "options": options})
    warned = [record.getMessage() for record in caplog.records if "without a subscription" in record.getMessage()]
    assert len(warned) == (0 if options else 1)
    assert all(message.startswith("tested.feed ") for message in warned)


def test_a_stop_does_not_wait_for_a_publisher_that_is_not_there(serve):
    running = serve(Listens, feed={"uri": "tcp://127.0.0.1:9", "options": {"subscribe": ""}})
    assert running.sockets.feed.get_option("linger") != 0
    with gevent.Timeout(4, AssertionError("it lingers")):  # 5 s is how long a socket lingers
        serve.stop(running)
        running.context.close()


def test_a_stop_waits_no_longer_for_who_is_not_there_than_the_socket_is_told_to_linger(serve):
    class Pushes(Server):
        out = connect("out", "push", options={"linger": 10})  # milliseconds

    running = serve(Pushes, out={"uri": "tcp://127.0.0.1:9"})
    running.sockets.out.send_text("for nobody")
    with gevent.Timeout(4, AssertionError("it lingers")):  # 5 s is how long a socket lingers otherwise
        serve.stop(running)
        running.context.close()


def test_teardown_comes_after_the_last_handler_has_ended(serve, peer):
    events = []

    class Records(Waits):
        def teardown(self):
            events.append("teardown")

        @bind_in("request", "rep", concurrency=2)
        def request(self, socket, received):
            try:
                return super().request(socket, received)
            finally:
                gevent.sleep(0.01)
                events.append("handler")

    running = serve(Records)
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    running.stop()
    gevent.spawn_later(0.01, running.go_on.set)
    serve.result(running)
    assert events == ["handler", "teardown"]
    assert client.receive()[-1] == b"done"


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("broken"), gevent.Timeout(1)])
def test_an_error_in_setup_is_raised_from_start_and_closes_the_sockets(serve, error):
    events = []

    class Broken(Echo):
        def setup(self):
            self.spawn(gevent.sleep, 60)
            raise error

        def teardown(self):
            events.append("teardown")

    with pytest.raises(type(error)) as caught:
        serve(Broken)
    assert caught.value is error
    assert events == []


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("broken"), gevent.Timeout(1)])
def test_an_error_in_teardown_is_logged_and_closes_the_sockets(serve, caplog, error):
    class Broken(Echo):
        def teardown(self):
            raise error

    running = serve(Broken)
    serve.stop(running)
    assert running.sockets.request.closed
    assert "teardown of server tested failed" in caplog.text
    assert caplog.records[0].exc_info[1] is error


def test_a_teardown_that_hangs_is_given_up(serve, caplog, monkeypatch):
    monkeypatch.setattr(server, "_LEAST_CLOSING_TIME", 0.05)

    class Hangs(Echo):
        def teardown(self):
            gevent.sleep(60)

    running = serve(Hangs)
    serve.stop(running, 0)
    assert running.sockets.request.closed
    assert "teardown of server tested did not finish" in caplog.text


def test_an_address_in_use_names_server_socket_and_endpoint(serve, context):
    class Two(Server):
        first = bind("first", "pub")
        second = bind("second", "pub")

    with context.socket("rep") as other:
        other.bind(ANYWHERE)
        with pytest.raises(AddressInUse, match="server 'tested', socket 'second': .*" + other.endpoint) as caught:
            serve(Two, second={"uri": other.endpoint})
        assert isinstance(caught.value.__cause__, AddressInUse)


def test_a_socket_that_is_not_configured_is_named(serve, settings_for, context):
    class Other(Server):
        feed = bind("feed", "pub")

    made = Echo("tested", settings_for(Other), None, context)
    with pytest.raises(SocketInfoNotInConfiguration, match="no socket 'request'"):
        made.start()


def test_a_bad_option_names_server_and_socket(serve):
    with pytest.raises(UnknownOption, match="server 'tested', socket 'request': no socket option 'sndhmw'"):
        serve(Echo, request={"options": {"sndhmw": 1}})


def test_options_of_the_configuration_come_after_those_of_the_declaration_and_before_the_bind(serve, context):
    class Marked(Server):
        out = bind("out", "push", options={"sndhwm": 5, "linger": 7})
        request = bind_in("request", "rep", concurrency=5, options=[("sndhwm", 6)])(lambda *_: None)

    running = serve(Marked, out={"options": {"linger": 8}}, request={"options": [["rcvhwm", 9]]})
    assert running.sockets.out.get_option("sndhwm") == 5
    assert running.sockets.out.get_option("linger") == 8
    assert running.sockets.request.socket_type == "router"
    assert running.sockets.request.get_option("sndhwm") == 6
    assert running.sockets.request.get_option("rcvhwm") == 9


def test_a_connecting_socket_connects_to_every_endpoint(serve, context):
    class Collects(Server):
        def setup(self):
            self.seen = set()

        @connect_in("work", "pull")
        def work(self, socket, received):
            self.seen.add(received.text)

    with context.socket("push") as one, context.socket("push") as other:
        for socket in (one, other):
            socket.bind(ANYWHERE)
        running = serve(Collects, work={"uri": [one.endpoint, other.endpoint]})
        for number, socket in enumerate((one, other)):
            socket.send_text(str(number), timeout=5)
        assert running.endpoints == {"work": [one.endpoint, other.endpoint]}
        while running.seen != {"0", "1"}:
            gevent.sleep(0.002)


# Finding sockets -------------------------------------------------------------------------------------------------


def test_sockets_are_found_by_attribute_and_by_configured_name(serve):
    class Named(Server):
        publish = bind("out", "pub")
        out = bind("publish", "push")
        plain = bind("plain", "pub")

    sockets = serve(Named).sockets
    # As attributes they go by the names in the code, as items by those in the configuration.
    assert sockets.publish.socket_type == "pub"
    assert sockets.out.socket_type == "push"
    assert sockets["publish"].socket_type == "push"
    assert sockets["out"].socket_type == "pub"
    assert sockets.plain is sockets["plain"]
    assert [name for name, _ in sockets.items()] == list(sockets) == ["out", "publish", "plain"]
    assert len(sockets) == 3
    assert "out" in sockets
    assert "other" not in sockets


def test_an_attribute_and_a_configured_name_find_the_same_socket(serve):
    class Named(Server):
        publish = bind("out", "pub")

    sockets = serve(Named).sockets
    assert sockets.publish is sockets.out is sockets["publish"] is sockets["out"]
    assert "publish" in sockets


def test_an_unknown_socket_lists_those_there_are(serve):
    running = serve(Echo)
    with pytest.raises(AttributeError, match="no socket 'requets'; there are request"):
        running.sockets.requets  # noqa: B018 - the access is what is tested
    with pytest.raises(KeyError, match="no socket 'requets'; there are request"):
        running.sockets["requets"]
    with pytest.raises(AttributeError, match="has not started"):
        Echo("idle", None, None, None).sockets.request  # noqa: B018


def test_the_server_knows_its_name_and_the_general_settings(serve):
    running = serve(Echo, general={"colour": "red"})
    assert running.name == "tested"
    assert running.settings.get("colour") == "red"
    assert repr(running) == "<Echo 'tested'>"


# Without a service -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_loop", [lambda: None, ReceiveLoop, PollLoop.new], ids=["default", "receive", "poll"])
@both
def test_a_server_runs_by_itself_on_either_loop(serve, peer, make_loop, concurrency):
    running = serve(Echo, poll_loop=make_loop(), request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    assert [client.ask_text(text) for text in "abc"] == ["a", "b", "c"]
    serve.stop(running)
    assert serve.greenlet(running).dead


@both
def test_on_a_poll_loop_a_running_handler_may_finish_too(serve, peer, concurrency):
    running = serve(Waits, poll_loop=PollLoop.new(), request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    running.stop(60)
    running.go_on.set()
    serve.result(running)
    assert client.receive()[-1] == b"done"


@both
def test_on_a_poll_loop_a_handler_is_ended_and_its_caller_told_too(serve, peer, concurrency):
    running = serve(Waits, poll_loop=PollLoop.new(), request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    serve.stop(running, 0)
    assert client.problem_in(client.receive())["type"] == "urn:dploylib:handler-ended"


@both
def test_a_handler_killed_on_a_poll_loop_does_not_end_it(serve, peer, concurrency):
    class Killed(Echo):
        def request(self, socket, received):
            if received.text == "kill":
                raise gevent.GreenletExit
            return received

    running = serve(Killed, poll_loop=PollLoop.new(), request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    assert client.ask_problem(b"", b"m", b"kill")["status"] == 500
    assert client.ask_text("next") == "next"


def test_a_bare_server_feeds_the_sockets_that_are_added(serve, context, peer):
    """`DployServer` alone: no declarations, no configuration."""
    bare = DployServer("bare", None, None, context)
    socket = Socket.bind_new("rep", ANYWHERE, context=context)

    def handle(given):
        assert given is socket
        given.send_envelope(given.receive_envelope())

    bare.add_socket("request", socket, handle)
    bare.add_socket("idle", context.socket("push"))
    greenlet = serve.start(bare)
    assert bare.endpoints == {"request": [socket.endpoint], "idle": []}
    client = peer("req", socket.endpoint)
    assert [client.ask_text(text) for text in "ab"] == ["a", "b"]
    late = Socket.bind_new("rep", ANYWHERE, context=context)
    bare.add_socket("late", late, lambda given: given.send_envelope(given.receive_envelope()))
    assert peer("req", late.endpoint).ask_text("late") == "late"
    assert bare.counts == {}
    serve.stop(bare)
    assert greenlet.dead
    assert socket.closed
    assert late.closed


def test_a_socket_name_can_be_added_once(context):
    bare = DployServer("bare", None, None, context)
    with context.socket("push") as first, context.socket("push") as second:
        bare.add_socket("a", first)
        with pytest.raises(ValueError, match="there is a socket 'a' already"):
            bare.add_socket("a", second)


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("broken"), gevent.Timeout(1)])
def test_a_handler_of_an_added_socket_that_raises_makes_the_server_fail(serve, context, peer, error):
    def fail(socket):
        raise error

    class Adds(Echo):
        def setup(self):
            self.add_socket("added", Socket.bind_new("pull", ANYWHERE, context=self.context), fail)

    running = serve(Adds)
    peer("push", running.endpoints["added"][0]).send(b"x")
    with pytest.raises(ServerFailing, match="server 'tested' died: receiving raised") as caught:
        serve.result(running)
    assert caught.value.__cause__ is error
    assert running.sockets.request.closed


def test_a_custom_handler_may_serve_a_socket_that_the_class_declares_otherwise(serve, peer, context):
    class Adds(Server):
        def setup(self):
            socket = Socket.bind_new("rep", ANYWHERE, context=self.context)
            self.add_socket("added", socket, lambda given: given.send_text(given.receive_text().upper()))

    running = serve(Adds)
    assert peer("req", running.sockets.added.endpoint).ask_text("a") == "A"


# Background greenlets --------------------------------------------------------------------------------------------


def test_a_spawned_greenlet_ends_with_the_server(serve):
    class Spawns(Echo):
        def setup(self):
            self.spawned = self.spawn(self.work, 1, key="word")

        def work(self, *args, **kwargs):
            self.given = args, kwargs
            gevent.sleep(60)

    running = serve(Spawns)
    gevent.sleep(0)
    assert running.given == ((1,), {"key": "word"})
    assert running.spawned.name.startswith("tested: ")
    assert "work" in running.spawned.name
    serve.stop(running)
    assert running.spawned.dead


def test_a_spawned_greenlet_may_end_by_itself(serve, peer):
    class Spawns(Echo):
        def setup(self):
            self.spawned = self.spawn(lambda: "result")

    running = serve(Spawns)
    assert running.spawned.get(timeout=5) == "result"
    assert peer("req", running.endpoints["request"][0]).ask_text("on") == "on"


def test_a_spawned_greenlet_may_be_killed(serve, peer):
    class Spawns(Echo):
        def setup(self):
            self.spawned = self.spawn(gevent.sleep, 60)

    running = serve(Spawns)
    running.spawned.kill()
    assert peer("req", running.endpoints["request"][0]).ask_text("on") == "on"


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("broken"), gevent.Timeout(1)])
def test_the_death_of_a_spawned_greenlet_makes_the_server_fail_by_name(serve, error):
    class Spawns(Echo):
        def setup(self):
            self.go = Event()
            self.spawn(self.dies)

        def dies(self):
            self.go.wait()
            raise error

    running = serve(Spawns)
    running.go.set()
    with pytest.raises(ServerFailing, match=r"server 'tested' died: .*dies raised \w+: ") as caught:
        serve.result(running)
    assert caught.value.__cause__ is error


def test_a_greenlet_that_dies_during_setup_keeps_the_server_from_getting_ready(serve, context, settings_for):
    class Dies(Echo):
        def setup(self):
            self.spawn(int, "no number")
            gevent.sleep(0.01)

    with Socket.bind_new("xpub", "inproc://control", context=context) as control:
        made = Dies("tested", settings_for(Dies), "inproc://control", context)
        serve.start(made)
        with pytest.raises(ServerFailing, match="int raised ValueError"):
            serve.result(made)
        assert not control.wait_readable(timeout=0.05)


def test_the_first_death_is_the_one_that_is_reported(serve):
    class Dies(Echo):
        def setup(self):
            for number in range(3):
                self.spawn(self.die, number)

        def die(self, number):
            raise ValueError(number)

    with pytest.raises(ServerFailing, match="ValueError: 0"):
        serve.result(serve(Dies))


# Periodic methods ------------------------------------------------------------------------------------------------


def test_a_periodic_method_runs_again_and_again_and_stops_with_the_server(serve, wait_until):
    class Ticks(Server):
        ticks = 0

        @every(0.005)
        def tick(self):
            self.ticks += 1

    running = serve(Ticks)
    wait_until(lambda: running.ticks >= 5)
    serve.stop(running)
    ticks = running.ticks
    gevent.sleep(0.03)
    assert running.ticks == ticks


@pytest.mark.parametrize("error", [ValueError("broken"), gevent.Timeout(1)])
def test_a_periodic_method_survives_its_errors(serve, wait_until, caplog, error):
    class Ticks(Server):
        ticks = 0

        @every(0.005)
        def tick(self):
            self.ticks += 1
            raise error

    running = serve(Ticks)
    wait_until(lambda: running.ticks >= 3)
    assert "tested.tick failed; it is called again in 0.005 s" in caplog.text


def test_calls_of_a_periodic_method_do_not_overlap_or_pile_up(serve, wait_until):
    class Slow(Server):
        running = most = calls = 0

        @every(0.001)
        def tick(self):
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
            gevent.sleep(0.1 if self.calls == 1 else 0)
            self.running -= 1
            if self.calls == 2:
                self.calls_after_slow_one = time.monotonic()
                self.stop()

    slow = serve(Slow)
    serve.result(slow)
    assert (slow.most, slow.calls) == (1, 2)


def test_a_periodic_method_is_not_called_before_its_first_period_or_setup(serve, wait_until):
    class Hourly(Server):
        ticks = 0

        @every(3600)
        def tick(self):
            self.ticks += 1

    running = serve(Hourly)
    gevent.sleep(0.01)
    assert running.ticks == 0


# Stopping --------------------------------------------------------------------------------------------------------


@both
def test_a_running_handler_may_finish_and_its_reply_arrives(serve, peer, concurrency):
    running = serve(Waits, request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    running.stop(60)
    assert running.stopping
    gevent.sleep(0.01)
    assert not serve.greenlet(running).dead
    running.go_on.set()
    serve.result(running)
    assert client.receive()[-1] == b"done"


@both
def test_a_handler_that_runs_over_the_time_is_ended_and_its_caller_told(serve, peer, concurrency):
    running = serve(Waits, request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"id", b"m", b"")
    running.running.wait()
    serve.stop(running, 0.02)
    reply = client.receive()
    problem = client.problem_in(reply)
    assert reply[0] == b"id"
    assert (problem["status"], problem["type"]) == (503, "urn:dploylib:handler-ended")


@both
def test_a_second_stop_can_only_make_it_shorter(serve, peer, concurrency):
    running = serve(Waits, request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    running.stop(60)
    running.stop(3600)
    gevent.sleep(0.01)
    assert not serve.greenlet(running).dead
    serve.stop(running, 0)
    assert client.problem_in(client.receive())["status"] == 503


def test_nothing_more_is_received_after_a_stop(ipc_dir, serve, peer):
    """On sockets where it is nobody's loss."""

    class Counts(Server):
        @bind_in("news", "sub", options={"subscribe": ""})
        def news(self, socket, received):
            self.stop()

    publisher = peer("pub", f"ipc://{ipc_dir}/news")
    running = serve(Counts, news={"uri": f"ipc://{ipc_dir}/news"})
    publisher.zmq_socket.poll(0)
    while not serve.greenlet(running).dead:
        for _ in range(10):
            publisher.send(b"", b"m", b"x")
        gevent.sleep(0)
    serve.result(running)
    assert running.counts["news"].received == 1


def test_all_requests_in_a_full_pool_are_answered_at_a_stop(serve, peer):
    class Two(Waits):
        @bind_in("request", "rep", concurrency=2)
        def request(self, socket, received):
            return super().request(socket, received)

    running = serve(Two)
    client = peer("dealer", running.endpoints["request"][0])
    for _ in range(2):
        client.send(b"", b"", b"m", b"")
    running.running.wait()
    while running.counts["request"].received < 2:
        gevent.sleep(0.001)
    serve.stop(running, 0)
    assert [client.problem_in(client.receive())["status"] for _ in range(2)] == [503, 503]


def test_a_stop_before_the_start_lets_it_return_at_once(settings_for, context, serve):
    events = []

    class Records(Echo):
        def teardown(self):
            events.append("teardown")

    made = Records("tested", settings_for(Records), None, context)
    made.stop()
    serve.start(made)
    serve.result(made)
    assert events == ["teardown"]
    assert made.sockets.request.closed


def test_a_stop_during_setup_lets_start_return_without_having_been_ready(serve, settings_for, context):
    class Stops(Echo):
        def setup(self):
            self.stop()

    with Socket.bind_new("xpub", "inproc://control", context=context) as control:
        made = Stops("tested", settings_for(Stops), "inproc://control", context)
        serve.start(made)
        serve.result(made)
        assert not control.wait_readable(timeout=0.05)


def test_a_stop_after_the_end_does_nothing(serve, settings_for, context):
    running = serve(Echo)
    serve.stop(running)
    for graceful_timeout in (60, 0):
        running.stop(graceful_timeout)  # and leaves no greenlet that waits for an hour

    class Broken(Echo):
        def setup(self):
            raise ValueError

    broken = Broken("tested", settings_for(Broken), None, context)
    serve.start(broken)
    with pytest.raises(ValueError):  # noqa: PT011 - its own
        serve.result(broken)
    broken.stop(60)


@both
@pytest.mark.parametrize("make_loop", [ReceiveLoop, PollLoop.new])
def test_killing_the_greenlet_of_a_server_ends_it_and_tells_its_callers(serve, peer, concurrency, make_loop):
    running = serve(Waits, poll_loop=make_loop(), request={"concurrency": concurrency})
    client = peer("req", running.endpoints["request"][0])
    client.send(b"", b"m", b"")
    running.running.wait()
    serve.greenlet(running).kill(timeout=10)
    assert serve.greenlet(running).dead
    assert client.problem_in(client.receive())["status"] == 503
    assert running.sockets.request.closed


@both
def test_a_handler_that_does_not_end_does_not_keep_the_server(serve, peer, concurrency, monkeypatch, caplog):
    monkeypatch.setattr("dploylib.servers.server.ENDING_TIME", 0.05)
    monkeypatch.setattr("dploylib.servers.server.ENDING_TIME", 0.05)

    class Stubborn(Waits):
        def request(self, socket, received):
            self.running.set()
            while not self.go_on.is_set():
                try:
                    self.go_on.wait()
                except gevent.GreenletExit:
                    continue

    running = serve(Stubborn, request={"concurrency": concurrency})
    peer("req", running.endpoints["request"][0]).send(b"", b"m", b"")
    running.running.wait()
    running.stop(0)
    gevent.sleep(0.05)
    serve.greenlet(running).kill(timeout=10)  # as a coordinator does
    assert serve.greenlet(running).dead
    assert running.sockets.request.closed
    running.go_on.set()


def test_a_concurrent_handler_that_does_not_end_is_left_behind_with_a_word(serve, peer, monkeypatch, caplog):
    """The server ends by itself: nobody has to kill it."""
    monkeypatch.setattr("dploylib.servers.server.ENDING_TIME", 0.05)

    class Stubborn(Waits):
        def request(self, socket, received):
            self.running.set()
            while not self.go_on.is_set():
                try:
                    self.go_on.wait()
                except gevent.GreenletExit:
                    continue

    running = serve(Stubborn, request={"concurrency": 10})
    peer("req", running.endpoints["request"][0]).send(b"", b"m", b"")
    running.running.wait()
    serve.stop(running, 0)
    assert "1 handlers of tested.request do not end although they were told to" in caplog.text
    running.go_on.set()


def test_a_socket_that_is_closed_under_the_server_makes_it_fail(serve):
    running = serve(Echo)
    running.sockets.request.close()
    with pytest.raises(ServerFailing) as caught:
        serve.result(running)
    assert isinstance(caught.value.__cause__, SocketClosed)


def test_what_a_socket_has_queued_is_still_sent(serve, peer):
    class Says(Server):
        out = bind("out", "push")

        def setup(self):
            self.sockets.out.send_text("last words", timeout=5)

    class Connects(Says):
        out = declare.connect("out", "push")

    with Context.new() as other, other.socket("pull") as pull:
        pull.bind(ANYWHERE)
        running = serve(Connects, out={"uri": pull.endpoint})
        serve.stop(running)
        assert pull.receive_text(timeout=5) == "last words"


# The control socket ----------------------------------------------------------------------------------------------


def test_a_server_is_told_to_stop_over_the_control_socket_and_says_that_it_is_ready(serve, settings_for, context):
    with Socket.bind_new("xpub", "inproc://control", context=context) as control:
        names = ["echo", "echo2", "ech"]
        made = {name: Echo("tested", settings_for(Echo), "inproc://control", context) for name in names}
        for name, one in made.items():
            one.name = name
            serve.start(one)
        ready = {control.receive_frames(timeout=5)[0] for _ in names}
        assert ready == {b"\x01echo/", b"\x01echo2/", b"\x01ech/"}
        # Of names that begin alike, only the one that is meant stops.
        control.send_obj(Stop(0), id=control_topic("echo"))
        serve.result(made["echo"])
        assert control.receive_frames(timeout=5) == [b"\x00echo/"]
        gevent.sleep(0.01)
        assert not serve.greenlet(made["echo2"]).dead
        assert not serve.greenlet(made["ech"]).dead


def test_the_control_link_passes_on_the_graceful_timeout(context):
    with Socket.bind_new("xpub", "inproc://control", context=context) as control:
        link = ControlLink("echo", "inproc://control", context)
        control.receive_frames(timeout=5)
        control.send_envelope(Envelope("echo2/", "application/json", b'{"graceful_timeout":9}'))
        control.send_obj(Stop(1.5), id="echo/")
        assert link.receive() == Stop(1.5)
        link.close()


def test_the_log_of_a_normal_life_is_quiet(serve, peer, caplog):
    with caplog.at_level(logging.INFO):
        running = serve(Echo)
        peer("req", running.endpoints["request"][0]).ask_text("a")
        serve.stop(running)
    assert caplog.records == []


@both
def test_a_time_out_of_the_socket_does_not_end_the_server(serve, peer, concurrency):
    """It is for those who receive by themselves."""
    running = serve(Echo, request={"concurrency": concurrency, "options": {"rcvtimeo": 10}})
    client = peer("req", running.endpoints["request"][0])
    for _ in range(3):
        gevent.sleep(0.03)
        assert client.ask_text("a") == "a"


def test_a_server_that_is_killed_while_it_tidies_up_closes_its_sockets(serve):
    tidying = Event()

    class Slow(Echo):
        def teardown(self):
            tidying.set()
            gevent.sleep(3600)

    class Stubborn(Echo):
        def setup(self):
            self.spawn(self.go_on)

        def go_on(self):
            try:
                gevent.sleep(3600)
            finally:
                tidying.set()
                gevent.sleep(1)

        def teardown(self):
            self.torn_down = True

    for server_cls in (Slow, Stubborn):
        tidying.clear()
        running = serve(server_cls)
        running.stop(60)
        tidying.wait(10)
        serve.greenlet(running).kill(timeout=10)
        assert running.sockets.request.closed
        assert server_cls is Slow or running.torn_down

"""`call_handler` and `in_memory`: handlers without sockets."""

import gevent
import msgspec
import pytest
from gevent.event import Event

from dploylib.clients import RequestClient
from dploylib.errors import (
    ConfigurationError,
    Forbidden,
    HandlerTimeout,
    InvalidData,
    NoReply,
    ReceiveTimeout,
    ServerFailing,
    SocketStateError,
    UnknownOption,
    Unroutable,
)
from dploylib.security import Peer
from dploylib.servers import Handler, Server, allow, bind, bind_in, connect, every
from dploylib.testing import call_handler, in_memory
from dploylib.transport import Envelope, Problem

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too

pytestmark = pytest.mark.usefixtures("leak_check")


class Order(msgspec.Struct):
    item: str
    count: int = 1


class Shout(Handler):
    socket_type = "rep"

    def __call__(self, server, socket, received):
        return received.text.upper()


class Shop(Server):
    publish = bind("out", "pub")
    back = connect("back", "req")
    shout = Shout.bind("shout")

    def setup(self):
        self.life = ["setup"]

    def teardown(self):
        self.life.append("teardown")

    @bind_in("orders", "rep", obj=Order)
    def order(self, socket, received):
        order = received.obj
        self.sockets.publish.send_obj(order, id="order")
        self.sockets.out.send_text("one more")
        return {"cents": self.settings.get("price", 100) * order.count}

    @bind_in("echo", "rep", concurrency=2)
    def echo(self, socket, received):
        return received.envelope

    @bind_in("silent", "rep")
    def silent(self, socket, received):
        pass

    @bind_in("broken", "rep")
    def broken(self, socket, received):
        return 1 / 0

    @bind_in("slow", "rep", timeout=0.01)
    def slow(self, socket, received):
        gevent.sleep(60)

    @bind_in("asks", "rep")
    def asks(self, socket, received):
        self.sockets.back.send_text(received.text)
        return self.sockets.back.receive_text(timeout=0.01)

    @bind_in("pulled", "pull")
    def pulled(self, socket, received):
        self.sockets.publish.send_text(received.text)
        if received.text == "break":
            raise LookupError("broken")

    @bind_in("count", "router")
    def count(self, socket, received):
        if received.text == "remember me":
            self.somebody_else = received.envelope.request_frames[0]
            return None
        socket.send_frames([self.somebody_else, b"", b"", b"text/plain", b"for them"])
        for number in range(int(received.text), 0, -1):
            socket.send_envelope(received.envelope.response_envelope("text/plain", str(number)))
        return "go"

    @bind_in("pair", "pair")
    def pair(self, socket, received):
        socket.send_text("first")
        return "second"


# What becomes of a message -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "mimetype", "data"),
    [
        ("text", "text/plain", b"text"),
        (b"\0", "application/octet-stream", b"\0"),
        ({"a": [1]}, "application/json", b'{"a":[1]}'),
        (Order("tea"), "application/json", b'{"item":"tea","count":1}'),
        (Envelope.new("text/html", "<p>"), "text/html", b"<p>"),
    ],
)
def test_a_handler_gets_what_it_is_called_with_and_its_reply_is_seen(obj, mimetype, data):
    reply = call_handler(Shop, "echo", obj).reply
    assert (reply.mimetype, reply.data) == (mimetype, data)


def test_what_is_sent_on_every_socket_is_seen_by_either_name():
    result = call_handler(Shop, "orders", {"item": "tea", "count": 2}, id="7")
    assert result.reply.json == {"cents": 200}
    assert result.reply.id == "7"
    assert (result.problem, result.error) == (None, None)
    first, second = result.sent["out"]
    assert (first.id, first.json, second.text) == ("order", {"item": "tea", "count": 2}, "one more")
    assert result.sent["publish"] is result.sent["out"]
    assert [one.json for one in result.sent["orders"]] == [{"cents": 200}]
    assert result.sent["echo"] == result.sent["back"] == []
    with pytest.raises(KeyError, match="no socket 'nowhere'; there are out, back"):
        result.sent["nowhere"]


def test_handlers_are_called_by_either_name_and_may_be_classes():
    assert (
        call_handler(Shop, "order", {"item": "tea"}).reply.json
        == call_handler(Shop, "orders", {"item": "tea"}).reply.json
    )
    assert call_handler(Shop, "shout", "hey").reply.text == "HEY"


def test_settings_are_those_of_the_test():
    assert call_handler(Shop, "orders", {"item": "tea"}, general={"price": 5}).reply.json == {"cents": 5}
    with in_memory(Shop, orders={"timeout": 3}, order={"concurrency": 7}, name="shop") as shop:
        info = shop.server.settings.socket_info("orders")
        assert (info.timeout, info.concurrency, shop.server.name) == (3, 7, "shop")
    for wrong in ({"nowhere": {"uri": "inproc://x"}}, {"orders": {"timeout": "soon"}}):
        with pytest.raises(ConfigurationError):
            call_handler(Shop, "orders", "", **wrong)


def test_the_mistake_of_a_caller_is_a_problem_and_raises_nothing():
    result = call_handler(Shop, "orders", {"item": "tea", "count": "two"})
    assert result.problem.type == "urn:dploylib:invalid-data"
    assert "Expected `int`, got `str` - at `$.count`" in result.problem.detail
    assert isinstance(result.error, InvalidData)


def test_what_a_handler_raises_fails_the_test_where_it_was_raised():
    with pytest.raises(ZeroDivisionError) as error:
        call_handler(Shop, "broken", "")
    assert error.traceback[-1].name == "broken"


def test_what_a_handler_raises_is_a_problem_for_who_asks_for_that():
    result = call_handler(Shop, "broken", "", reraise=False)
    assert isinstance(result.error, ZeroDivisionError)
    assert (result.problem.status, result.problem.type) == (500, "urn:dploylib:handler-failed")


def test_an_unanswered_request_and_a_handler_out_of_time_are_raised():
    with pytest.raises(NoReply):
        call_handler(Shop, "silent", "")
    with pytest.raises(HandlerTimeout):
        call_handler(Shop, "slow", "")
    assert call_handler(Shop, "slow", "", reraise=False).problem.status == 504


def test_a_deadline_comes_with_the_call():
    class Patient(Server):
        @bind_in("request", "rep")
        def wait(self, socket, received):
            if not received.text:
                gevent.sleep(60)
            return str(received.deadline is not None)

        @bind_in("routed", "router")
        def route(self, socket, received):
            return str(received.metadata.milliseconds_left)

    assert call_handler(Patient, "request", "tell").reply.text == "False"
    assert call_handler(Patient, "request", "tell", deadline=60).reply.text == "True"
    assert call_handler(Patient, "routed", "", deadline=60).reply.text == "60000.0"
    assert call_handler(Patient, "request", "", deadline=0.01).problem.type == "urn:dploylib:deadline-exceeded"


def test_what_is_sent_before_a_handler_fails_on_a_socket_without_a_way_back_is_seen():
    with in_memory(Shop) as shop:
        with pytest.raises(LookupError, match="broken"):
            shop.call("pulled", "break")
        result = shop.call("pulled", "break", reraise=False)
        assert (result.reply, result.problem) == (None, None)
        assert [one.text for one in result.sent["out"]] == ["break"]
        assert len(shop.sent["out"]) == 2


def test_the_first_of_several_replies_is_the_reply_and_what_is_for_others_is_none():
    with in_memory(Shop) as shop:
        shop.call("count", "remember me")
        result = shop.call("count", "2")
    assert result.reply.text == "2"
    assert [one.text for one in result.sent["count"]] == ["for them", "2", "1", "go"]
    assert call_handler(Shop, "pair", "").reply.text == "first"


def test_what_a_real_socket_would_refuse_is_refused():
    class Mistaken(Shop):
        @bind_in("count", "router")
        def count(self, socket, received):
            socket.send_text("without a route")

        @bind_in("echo", "rep")
        def echo(self, socket, received):
            self.sockets.back.send_text("one")
            self.sockets.back.send_text("another one")

        @bind_in("silent", "rep")
        def silent(self, socket, received):
            self.sockets.back.receive_text(timeout=1)

    with pytest.raises(Unroutable):
        call_handler(Mistaken, "count", "x")
    for name in ("echo", "silent"):
        with pytest.raises(SocketStateError):
            call_handler(Mistaken, name, "x")


def test_what_was_received_can_be_sent_on():
    first = call_handler(Shop, "echo", "hello").reply
    assert call_handler(Shop, "echo", first).reply.text == "hello"


def test_clients_are_told_that_there_are_no_sockets_in_memory():
    class Asks(Server):
        def setup(self):
            self.client = RequestClient("tcp://127.0.0.1:1", context=self.context)

    with pytest.raises(TypeError, match="there are no sockets in memory"), in_memory(Asks):
        pass


def test_on_error_decides_as_it_does_in_a_service():
    class Decides(Shop):
        def on_error(self, socket, received, error):
            if isinstance(error, ZeroDivisionError):
                return Problem("urn:example:by-zero", "By zero", 422)
            if received.text == "break":
                raise RuntimeError("on_error is broken")
            return None

    result = call_handler(Decides, "broken", "")
    assert (result.problem.type, type(result.error)) == ("urn:example:by-zero", ZeroDivisionError)
    with pytest.raises(RuntimeError, match="on_error is broken"):
        call_handler(Decides, "pulled", "break")
    with pytest.raises(NoReply):
        call_handler(Decides, "silent", "")


def test_what_others_would_send_is_fed():
    with in_memory(Shop) as shop:
        shop.feed("back", "the answer")
        result = shop.call("asks", "the question")
        assert result.reply.text == "the answer"
        assert [one.text for one in result.sent["back"]] == ["the question"]
        with pytest.raises(ReceiveTimeout, match="nothing was fed to <Socket req"):
            shop.call("asks", "another question")


# Its life -----------------------------------------------------------------------------------------------------------


def test_a_server_is_set_up_once_serves_many_calls_and_is_torn_down():
    with in_memory(Shop) as shop:
        server = shop.server
        for text in ("a", "b"):
            assert shop.call("echo", text).reply.text == text
        assert server.counts["echo"].received == 2
        assert server.life == ["setup"]
    assert server.life == ["setup", "teardown"]


def test_background_greenlets_run_and_end_with_it():
    class Background(Server):
        out = bind("out", "push")

        def setup(self):
            self.ticked, self.ended = Event(), []
            self.extra = self.context.socket("push")
            self.spawn(self.work)

        def work(self):
            try:
                gevent.sleep(60)
            finally:
                self.ended.append("work")

        @every(0.001)
        def tick(self):
            self.sockets.out.send_text("tick")
            self.ticked.set()

    with in_memory(Background) as it:
        assert it.server.ticked.wait(PATIENCE)
        assert it.sent["out"][0].text == "tick"
    assert it.server.ended == ["work"]
    assert it.server.extra.closed


class Dies(Server):
    def setup(self):
        self.died = Event()
        if self.settings.get("when") == "setup":
            raise ZeroDivisionError

    @bind_in("request", "rep")
    def die(self, socket, received):
        self.spawn(self.work)
        gevent.sleep(60)

    def work(self):
        raise ZeroDivisionError

    def teardown(self):
        if self.settings.get("when") == "teardown":
            raise ZeroDivisionError


def test_what_setup_and_teardown_raise_is_raised():
    with pytest.raises(ZeroDivisionError), in_memory(Dies, general={"when": "setup"}):
        pytest.fail("it is not set up")
    entered = []
    with pytest.raises(ZeroDivisionError), in_memory(Dies, general={"when": "teardown"}):
        entered.append(True)
    assert entered


def test_a_server_that_dies_in_the_middle_of_a_call_interrupts_it():
    with in_memory(Dies, general={"when": ""}) as it:
        for _ in range(2):  # it is dead from then on
            with pytest.raises(ServerFailing, match="server 'tested' died") as error:
                it.call("request", "")
            assert isinstance(error.value.__cause__, ZeroDivisionError)
    # What was told is not told again.


def test_a_server_that_dies_between_calls_fails_the_test():
    with pytest.raises(ServerFailing), in_memory(Dies, general={"when": ""}) as it:
        it.server.spawn(it.server.work)


def test_the_error_of_the_test_wins():
    def test():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"), in_memory(Dies, general={"when": "teardown"}):
        test()


def test_a_call_that_is_interrupted_ends_its_handler():
    ended = []

    class Waits(Server):
        @bind_in("request", "rep")
        def wait(self, socket, received):
            try:
                gevent.sleep(60)
            finally:
                ended.append(True)

    with in_memory(Waits) as it:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            it.call("request", "")
        assert ended == [True]


def test_no_more_handlers_run_at_once_than_may():
    class Gate(Server):
        def setup(self):
            self.opened, self.most, self.inside = Event(), 0, 0

        @bind_in("request", "rep")
        def enter(self, socket, received):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.opened.wait()
            self.inside -= 1
            return received.text

        @bind_in("strict", "rep", overload="reject")
        def strict(self, socket, received):
            return self.enter(socket, received)

    for name, concurrency, most in (("request", 1, 1), ("request", 3, 3)):
        with in_memory(Gate, **{name: {"concurrency": concurrency}}) as it:
            calls = [gevent.spawn(it.call, name, str(number)) for number in range(5)]
            while it.server.inside < most:
                gevent.sleep(0)
            gevent.sleep(0)  # in which another one would come, if it could
            it.server.opened.set()
            assert [call.get(timeout=PATIENCE).reply.text for call in calls] == list("01234")
            assert it.server.most == most
    with in_memory(Gate) as it:
        first = gevent.spawn(it.call, "strict", "first")
        while not it.server.inside:
            gevent.sleep(0)
        assert it.call("strict", "second").problem.status == 503
        it.server.opened.set()
        assert first.get(timeout=PATIENCE).reply.text == "first"


# Sockets that are none ------------------------------------------------------------------------------------------------


def test_sockets_in_memory_are_as_strict_as_others():
    class Plain(Server):
        out = bind("out", "push", options={"sndhwm": 5})
        into = bind("in", "pull")
        raw = bind("raw", "xpub")

    with in_memory(Plain, out={"options": {"linger": 7}}) as it:
        out, into, raw = (it.server.sockets[name] for name in ("out", "in", "raw"))
        for wrong in (lambda: into.send_text("x"), out.receive_text):
            with pytest.raises(SocketStateError, match="sockets do not"):
                wrong()
        for frames in (["text"], [], [b"a", None]):
            with pytest.raises(TypeError):
                out.send_frames(frames)
        assert it.sent["out"] == []
        assert (out.get_option("sndhwm"), out.get_option("linger"), out.sent) == (5, 7, 0)
        for wrong in (lambda: out.get_option("rcvbuf"), lambda: out.set_option("nothing_like_it", 1)):
            with pytest.raises(UnknownOption):
                wrong()
        assert not into.readable()
        assert not into.wait_readable(0)
        it.feed("in", {"a": 1})
        assert into.wait_readable(0)
        assert into.receive_json(timeout=0) == {"a": 1}
        raw.send_frames([b"not", b"an envelope"])
        assert it.sent["raw"] == [[b"not", b"an envelope"]]
        assert out.endpoints == ["inproc://out"]


def test_a_socket_is_called_if_it_has_a_handler_and_fed_if_it_has_none():
    with in_memory(Shop) as shop:
        with pytest.raises(LookupError, match="'back' has no handler"):
            shop.call("back", "")
        with pytest.raises(LookupError, match="'orders' has a handler"):
            shop.feed("orders", "")
        with pytest.raises(KeyError, match="no socket 'nowhere'"):
            shop.call("nowhere", "")


# Who it is from --------------------------------------------------------------------------------------------------


class Kitchen(Server):
    @bind_in("orders", "rep")
    @allow("waiters")
    def take(self, socket, received):
        return f"{received.text} for {received.peer.name}"

    @bind_in("anybody", "router")
    def tell(self, socket, received):
        return str(received.peer)


def test_the_test_says_who_calls():
    peer = Peer("walter", frozenset({"waiters"}), address="10.0.0.1")
    assert call_handler(Kitchen, "orders", "soup", peer=peer).reply.text == "soup for walter"
    assert call_handler(Kitchen, "anybody", "", peer=peer).reply.text == "walter at 10.0.0.1"
    assert call_handler(Kitchen, "anybody", "").reply.text == "None"


@pytest.mark.parametrize("peer", [None, Peer(), Peer("carl", frozenset({"cooks"}))])
def test_who_is_in_none_of_the_groups_gets_a_problem(peer):
    result = call_handler(Kitchen, "orders", "soup", peer=peer)
    assert isinstance(result.error, Forbidden)
    assert (result.problem.status, result.problem.type) == (403, "urn:dploylib:forbidden")
    assert result.problem.detail.startswith("tested.orders is for waiters, and not for ")

"""What a server class declares, and what it may not declare."""

import dataclasses
import inspect
import traceback

import msgspec
import pytest

from dploylib import servers
from dploylib.errors import DeclarationError
from dploylib.servers import Handler, Server, ServerDescription, SocketDescription, bind, bind_in, connect, connect_in

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Colour:
    red: int


class Old:
    """A type of the kind that the original library asks for."""

    @classmethod
    def deserialize(cls, data):
        return cls()


def handle(server, socket, received):
    return "handled"


@pytest.mark.parametrize(("decorator", "setup_type"), [(bind_in, "bind"), (connect_in, "connect")])
@pytest.mark.parametrize(
    ("positional", "keywords"),
    [
        (("request", "rep"), {}),
        (("rep",), {"name": "request"}),
        (("request",), {"socket_type": "rep"}),
        ((), {"name": "request", "socket_type": "rep"}),
    ],
)
def test_a_listening_socket_is_declared_in_any_order(decorator, setup_type, positional, keywords):
    description = decorator(*positional, **keywords)(handle)
    assert isinstance(description, SocketDescription)
    assert (description.name, description.socket_type, description.setup_type) == ("request", "rep", setup_type)
    assert description.input_handler is handle
    assert (description.deserializer, description.concurrency, description.timeout) == (None, 1, None)


@pytest.mark.parametrize(("declare", "setup_type"), [(bind, "bind"), (connect, "connect")])
@pytest.mark.parametrize(
    ("positional", "keywords"),
    [(("out", "pub"), {}), (("pub",), {"name": "out"}), ((), {"socket_type": "pub", "name": "out"})],
)
def test_a_socket_that_does_not_listen_is_declared_in_any_order(declare, setup_type, positional, keywords):
    description = declare(*positional, **keywords)
    assert (description.name, description.socket_type, description.setup_type) == ("out", "pub", setup_type)
    assert description.input_handler is None


def test_all_keywords_reach_the_description():
    description = bind_in("r", "rep", obj=Point, concurrency=7, timeout=1.5, options={"sndhwm": 3})(handle)
    assert description.deserializer is Point
    assert description.concurrency == 7
    assert description.timeout == 1.5
    assert description.default_options == [("sndhwm", 3)]
    assert bind("o", "pub", options=[("sndhwm", 3)]).default_options == [("sndhwm", 3)]


@pytest.mark.parametrize("decorator", [bind_in, connect_in])
@pytest.mark.parametrize("declared", [Point, Colour, Old, Old(), dict[str, int], int, lambda data: data])
def test_obj_may_be_the_third_argument(decorator, declared):
    assert decorator("request", "rep", declared)(handle).deserializer is declared


def test_obj_is_none_unless_given():
    assert bind_in("request", "rep", None)(handle).deserializer is None


NOT_CALLABLE = 5


@pytest.mark.parametrize(
    "name", ["start", "stop", "spawn", "setup", "stopping", "endpoints", "name", "sockets", "counts"]
)
def test_a_declaration_cannot_hide_what_every_server_has(name):
    with pytest.raises(DeclarationError, match=rf"Hiding\.{name} hides what every server has"):
        type("Hiding", (Server,), {name: bind_in(name, "pull")(lambda server, socket, received: None)})


@pytest.mark.parametrize("name", ["close", "items", "add"])
def test_a_socket_cannot_have_the_name_of_a_method_of_sockets(name):
    with pytest.raises(DeclarationError, match=rf"would be self\.sockets\.{name}, which is a method"):
        type("Hiding", (Server,), {name: bind(name, "pub")})
    assert type("Fine", (Server,), {"other": bind(name, "pub")}).description.socket_names == [name]


WRONG = {
    "an unknown type": (lambda: bind_in("request", "ruoter"), r"no socket type 'ruoter', did you mean 'router'\?"),
    "the swapped arguments": (lambda: bind_in("rep", "request"), r"\('request', 'rep'\), or as a keyword: \('rep', n"),
    "swapped arguments of bind": (lambda: bind("pub", "out"), "the name of a socket comes before its type"),
    "no type": (lambda: bind_in("request"), "a socket has a name and a type"),
    "no arguments": (lambda: connect(), "a socket has a name and a type"),
    "a name too many": (lambda: bind_in("a", "rep", name="b"), "a socket has a name and a type"),
    "four arguments": (lambda: bind_in("a", "rep", Point, 5), "a socket has a name and a type"),
    "obj twice": (lambda: bind_in("a", "rep", Point, obj=Point), "a socket has a name and a type"),
    "a name that is no str": (lambda: bind_in(5, "rep"), "the name of a socket is a str, not 5"),
    "an empty name": (lambda: bind("", "pub"), "the name of a socket is a str"),
    "pub with a handler": (
        lambda: bind_in("out", "pub"),
        r"a pub socket can have no handler \(it receives nothing\); use bind\(\)",
    ),
    "push with a handler": (lambda: connect_in("out", "push"), r"receives nothing.*use connect\(\)"),
    "req with a handler": (lambda: connect_in("ask", "req"), r"receives only after it sent.*use connect\(\)"),
    "xpub with a handler": (lambda: bind_in("out", "xpub"), "subscriptions, which are no envelopes"),
    "stream with a handler": (lambda: bind_in("raw", "stream"), "raw bytes, which are no envelopes"),
    "concurrency 0": (lambda: bind_in("a", "rep", concurrency=0), "concurrency is a whole number from 1 on, not 0"),
    "concurrency True": (lambda: bind_in("a", "rep", concurrency=True), "not True"),
    "concurrency 1.5": (lambda: bind_in("a", "rep", concurrency=1.5), "not 1.5"),
    "timeout 0": (lambda: bind_in("a", "rep", timeout=0), "timeout is a number of seconds above 0, not 0"),
    "timeout below 0": (lambda: bind_in("a", "rep", timeout=-1), "not -1"),
    "timeout as text": (lambda: bind_in("a", "rep", timeout="5"), "not '5'"),
    "timeout nan": (lambda: bind_in("a", "rep", timeout=float("nan")), "not nan"),
    "timeout for ever": (lambda: bind_in("a", "rep", timeout=float("inf")), "not inf"),
    "obj of no use": (lambda: bind_in("a", "rep", obj=NOT_CALLABLE), "cannot use obj=5"),
    "an unknown option": (lambda: bind_in("a", "rep", options={"sndhmw": 1}), "'sndhmw', did you mean 'sndhwm'"),
    "an option of a wrong type": (lambda: bind("a", "pub", options={"sndhwm": "1"}), "takes an int, not str"),
    "options of no form": (lambda: bind("a", "pub", options=5), "not of type int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_declaration_is_refused_where_it_stands(case):
    declare, message = WRONG[case]
    with pytest.raises(DeclarationError, match=message):
        declare()


def test_a_declaration_error_is_raised_at_the_line_of_the_decorator():
    source = [
        "class Wrong(Server):",
        "    @bind_in('request', 'rep', concurrency=0)",
        "    def handle(self, socket, received):",
        "        pass",
    ]
    with pytest.raises(DeclarationError) as caught:
        exec(compile("\n".join(source), "declared.py", "exec"), {"Server": Server, "bind_in": bind_in})
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == "declared.py"]
    assert frames[-1].lineno == 2


def test_what_is_decorated_must_be_callable():
    with pytest.raises(DeclarationError, match="decorates a method, not 'handle'"):
        bind_in("request", "rep")("handle")


@pytest.mark.parametrize("setup_type", ["bound", None])
def test_a_setup_type_is_bind_or_connect(setup_type):
    with pytest.raises(DeclarationError, match="'bind' or 'connect'"):
        SocketDescription("a", "rep", setup_type)


@pytest.mark.parametrize("seconds", [0, -1, True, "1", float("nan"), float("inf"), None])
def test_every_takes_a_number_of_seconds(seconds):
    with pytest.raises(DeclarationError, match="a number of seconds above 0"):
        servers.every(seconds)


# Inheritance ---------------------------------------------------------------------------------------------------


class Base(Server):
    out = bind("out", "pub")

    @bind_in("request", "rep", concurrency=3)
    def request(self, socket, received):
        return ["base", received]

    @servers.every(5)
    def tick(self):
        return "base ticks"


def server_of(server_cls):
    return server_cls("name", None, None, None)


def test_declarations_are_inherited():
    class Child(Base):
        pass

    assert list(Child.description.sockets) == ["out", "request"]
    assert Child.description.socket_names == ["out", "request"]
    assert Child.description.sockets["request"] is Base.description.sockets["request"]
    assert Child.description.periodic["tick"].seconds == 5
    assert Child.description.server_cls is Child


def test_a_new_declaration_replaces_the_inherited_one():
    class Child(Base):
        @connect_in("elsewhere", "pull")
        def request(self, socket, received):
            pass

        out = bind("feed", "push")

    assert Child.description.socket_names == ["feed", "elsewhere"]
    assert Child.description.sockets["request"].setup_type == "connect"
    assert Base.description.socket_names == ["out", "request"]


def test_a_plain_method_replaces_only_the_handler_and_reaches_the_inherited_one():
    class Child(Base):
        def request(self, socket, received):
            return ["child", *super().request(socket, received)]

    class Grandchild(Child):
        def request(self, socket, received):
            return ["grandchild", *super().request(socket, received)]

    description = Grandchild.description.sockets["request"]
    assert (description.name, description.socket_type, description.concurrency) == ("request", "rep", 3)
    server = server_of(Grandchild)
    assert description.input_handler(server, None, "x") == ["grandchild", "child", "base", "x"]
    assert server.request(None, "x") == ["grandchild", "child", "base", "x"]
    assert server_of(Base).request(None, "x") == ["base", "x"]


def test_a_plain_method_replaces_only_the_function_of_a_periodic_one():
    class Child(Base):
        def tick(self):
            return f"child, {super().tick()}"

    periodic = Child.description.periodic["tick"]
    assert periodic.seconds == 5
    assert periodic.function(server_of(Child)) == "child, base ticks"


def test_none_drops_a_declaration():
    class Child(Base):
        out = None
        request = None
        tick = None

    assert Child.description.sockets == {}
    assert Child.description.periodic == {}

    class Grandchild(Child):
        def request(self, socket, received):
            pass

    assert Grandchild.description.sockets == {}


def test_a_socket_gives_way_to_a_periodic_method_and_the_reverse():
    class Child(Base):
        @servers.every(1)
        def request(self):
            pass

        @bind_in("tick", "pull")
        def tick(self, socket, received):
            pass

    assert list(Child.description.sockets) == ["out", "tick"]
    assert list(Child.description.periodic) == ["request"]


def test_a_mixin_brings_declarations_and_handlers():
    class Declares:
        @bind_in("mixed", "rep")
        def mixed(self, socket, received):
            return "declared"

    class Handles:
        def mixed(self, socket, received):
            return "handled"

    class Both(Handles, Declares, Base):
        pass

    assert set(Both.description.socket_names) == {"mixed", "out", "request"}
    assert Both.description.sockets["mixed"].input_handler(server_of(Both), None, None) == "handled"

    class OtherOrder(Declares, Handles, Base):
        pass

    assert OtherOrder.description.sockets["mixed"].input_handler(server_of(OtherOrder), None, None) == "declared"


def test_an_abstract_base_declares_nothing():
    class Abstract(Server):
        def request(self, socket, received):
            raise NotImplementedError

    assert Abstract.description.sockets == {}

    class Concrete(Abstract):
        request = bind_in("request", "rep")(handle)

    assert Concrete.description.socket_names == ["request"]
    assert Server.description.sockets == {}


def test_two_sockets_of_one_name_are_refused():
    with pytest.raises(DeclarationError, match="Child declares two sockets named 'out': out and other"):

        class Child(Base):
            other = bind("out", "push")


def test_a_name_is_free_again_once_its_declaration_is_replaced():
    class Child(Base):
        out = bind("first", "pub")
        other = bind("out", "pub")

    assert set(Child.description.socket_names) == {"first", "out", "request"}


def test_a_description_can_be_read_of_any_class():
    class Plain:
        out = bind("publish", "pub")

    description = ServerDescription(Plain)
    assert description.sockets["out"].attribute == "out"
    assert description.socket_names == ["publish"]
    assert "'publish' pub" in repr(description.sockets["out"])


def test_a_declared_method_can_be_called_as_a_method():
    assert inspect.isfunction(server_of(Base).request)
    assert server_of(Base).request(None, "x") == ["base", "x"]
    assert server_of(Base).tick() == "base ticks"


def test_a_socket_without_handler_says_where_the_socket_is():
    with pytest.raises(AttributeError, match=r"use self\.sockets\.out"):
        server_of(Base).out  # noqa: B018 - the access is what is tested


# Handler classes -----------------------------------------------------------------------------------------------


class Echo(Handler):
    socket_type = "rep"
    deserializer = Point
    concurrency = 4
    timeout = 2.5
    options = {"sndhwm": 9}

    def __call__(self, server, socket, received):
        return [self, server, received]


@pytest.mark.parametrize("setup_type", ["bind", "connect"])
def test_a_handler_class_describes_a_socket(setup_type):
    description = getattr(Echo, setup_type)("request")
    assert (description.name, description.socket_type, description.setup_type) == ("request", "rep", setup_type)
    assert (description.deserializer, description.concurrency, description.timeout) == (Point, 4, 2.5)
    assert description.default_options == [("sndhwm", 9)]
    assert isinstance(description.input_handler, Echo)


def test_a_handler_class_is_called_with_the_server_and_can_be_extended():
    class Child(Server):
        echo = Echo.bind("request")

    class Grandchild(Child):
        def echo(self, socket, received):
            return ["extended", *super().echo(socket, received)]

    server = server_of(Grandchild)
    word, handler, given, received = Grandchild.description.sockets["echo"].input_handler(server, None, "x")
    assert (word, given, received) == ("extended", server, "x")
    assert isinstance(handler, Echo)


def test_a_handler_class_needs_a_socket_type():
    class Incomplete(Handler):
        pass

    with pytest.raises(DeclarationError, match="Incomplete needs a class attribute socket_type"):
        Incomplete.bind("request")


def test_a_handler_class_needs_a_call_method():
    class Incomplete(Handler):
        socket_type = "rep"

    with pytest.raises(NotImplementedError, match=r"Incomplete needs a method __call__\(self, server, socket, recei"):
        Incomplete.bind("request").input_handler(None, None, None)

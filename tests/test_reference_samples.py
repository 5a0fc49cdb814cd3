"""The samples of the original library's documentation work as printed, and its interface is here.

What differs: `print` is a function in Python 3, one sample has a stray letter that no Python ever took, and the fixed
ports are replaced by endpoints that are free.
"""

import contextlib
import doctest
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dploylib import servers, services, transport
from dploylib.errors import ReceiveTimeout
from dploylib.transport import Context, Envelope, Socket

ROOT = Path(__file__).parent.parent
ANY_ENDPOINT = re.compile(r"tcp://127\.0\.0\.1:\d+")
PATIENCE = 20  # seconds until a test gives up

MYSERVICE = """\
from dploylib import servers
from dploylib.services import Service

class EchoServer(servers.Server):
    @servers.bind_in('request', 'rep')
    def echo_request(self, socket, received):
        socket.send_envelope(received)

service = Service()
service.add_server('echo', EchoServer)

if __name__ == '__main__':
    config_dict = {
        "servers": {
            "echo": {
                "request": {
                    "uri": "tcp://127.0.0.1:5000",
                },
            },
        },
    }
    service.run(config_dict=config_dict)
"""

MYSERVICE_WITH_A_FILE = MYSERVICE.partition("    config_dict")[0] + '    service.run(config_file="config.yaml")\n'

CONFIG_YAML = """\
servers:  # Server configurations
  echo:   # Config for "echo" server
    request:   # Config for "echo" server's "request" socket
      uri: tcp://127.0.0.1:14445  # URI for "request" socket

# General configuration
general:
  someconfig1: somevalue1
  someconfig2: somevalue2
"""

SESSION = """\
>>> from dploylib.transport import Socket
>>> echo_socket = Socket.new('req', 'tcp://127.0.0.1:14445')
>>> echo_socket.send_text('hello')
>>> print(echo_socket.receive_text())
hello
"""

SERVERS = """\
from dploylib import servers

class BroadcastServer(servers.Server):
    # Bind a socket but don't listen for it's input. Useful for output
    publish = servers.bind('pub', name='out')

    @servers.bind_in('pull', name='in')
    def receive_message(self, socket, envelope):
        self.sockets.publish.send_envelope(envelope)

class QueueServer(servers.Server):
    @servers.bind_in('rep', name='request')
    def receive_request(self, socket, envelope):
        object = self.handle_queue(envelope)
        socket.send_obj(object)
"""

SERVER_PY = """\
from dploylib.transport import Context

def main():
    context = Context.new()
    socket = context.socket('rep')
    socket.bind('tcp://127.0.0.1:5555')

    while True:
        text = socket.receive_text()
        socket.send_text(text)

if __name__ == '__main__':
    main()
"""

CLIENT_PY = """\
from dploylib.transport import Context

def main():
    context = Context.new()
    socket = context.socket('req')
    socket.connect('tcp://127.0.0.1:5555')

    socket.send_text('hello')
    text = socket.receive_text()

    print(text)

if __name__ == '__main__':
    main()
"""


@pytest.fixture
def directory():
    """A directory for samples, with a path short enough for the endpoint in it."""
    path = Path(tempfile.mkdtemp(prefix="dl-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def endpoint(directory):
    """An endpoint that is free, known before anybody binds to it."""
    return f"ipc://{directory}/endpoint"


def write(path, sample, endpoint):
    """Write a sample with its endpoint replaced."""
    text, replaced = ANY_ENDPOINT.subn(endpoint, sample)
    assert replaced == 1
    path.write_text(text)


def start(script):
    return subprocess.Popen(
        [sys.executable, script.name],
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def running(script):
    """Run a script in a process of its own, which is ended when it has not ended by itself."""
    process = start(script)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def hold_session(endpoint):
    """Type the session of the documentation, and compare what is printed."""
    names = {}
    session = doctest.DocTestParser().get_doctest(ANY_ENDPOINT.sub(endpoint, SESSION), names, "session", None, 0)
    said = []
    results = doctest.DocTestRunner(verbose=False).run(session, out=said.append, clear_globs=False)
    session.globs["echo_socket"].close(linger=0)
    assert results == (0, 4), "".join(said)


# The samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configured", ["in the script", "in config.yaml"])
def test_the_echo_service_answers_the_session_and_stops_at_control_c(configured, directory, endpoint):
    script = directory / "myservice.py"
    if configured == "in the script":
        write(script, MYSERVICE, endpoint)
    else:
        script.write_text(MYSERVICE_WITH_A_FILE)
        write(directory / "config.yaml", CONFIG_YAML, endpoint)
    before = set(directory.iterdir())

    with running(script) as process:
        hold_session(endpoint)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)

    assert (process.returncode, output) == (0, "")
    assert set(directory.iterdir()) == before


def test_the_general_configuration_of_the_sample_reaches_the_server(directory):
    exec(compile(MYSERVICE_WITH_A_FILE, "myservice.py", "exec"), module := {"__name__": "myservice"})
    (directory / "config.yaml").write_text(ANY_ENDPOINT.sub("tcp://127.0.0.1:*", CONFIG_YAML))
    with module["service"] as service:
        service.start(config_file=directory / "config.yaml")
        settings = service.servers["echo"].settings
        assert (settings.get("someconfig1"), settings.get("someconfig2")) == ("somevalue1", "somevalue2")


def test_the_script_with_a_context_echoes_to_the_other_script(directory, endpoint):
    write(directory / "server.py", SERVER_PY, endpoint)
    write(directory / "client.py", CLIENT_PY, endpoint)
    with running(directory / "server.py"), running(directory / "client.py") as client:
        output, _ = client.communicate(timeout=PATIENCE)
    assert (client.returncode, output) == (0, "hello\n")


@pytest.mark.usefixtures("leak_check")
def test_the_broadcast_server_publishes_what_it_is_sent():
    exec(compile(SERVERS, "servers.py", "exec"), module := {"__name__": "sample"})
    with services.Service() as service, Context.new() as context:
        service.add_server("broadcast", module["BroadcastServer"])
        free = {"uri": "tcp://127.0.0.1:*"}
        service.start(config_dict={"servers": {"broadcast": {"in": free, "out": free}}})
        at = service.endpoints["broadcast"]
        listener = Socket.connect_new("sub", at["out"], options={"subscribe": "news"}, context=context)
        sender = Socket.connect_new("push", at["in"], context=context)
        received = None
        for _ in range(100 * PATIENCE):  # what is published before the subscription has arrived is lost
            sender.send_text("for nobody", id="olds", timeout=PATIENCE)
            sender.send_text("hello", id="news", timeout=PATIENCE)
            with contextlib.suppress(ReceiveTimeout):
                received = listener.receive_envelope(timeout=0.01)
                break
        assert received == Envelope("news", "text/plain", b"hello")


@pytest.mark.usefixtures("leak_check")
def test_the_queue_server_answers_with_an_object():
    exec(compile(SERVERS, "servers.py", "exec"), module := {"__name__": "sample"})

    class Queue(module["QueueServer"]):
        def handle_queue(self, envelope):
            return {"queued": envelope.text}

    with services.Service() as service:
        service.add_server("queue", Queue)
        service.start(config_dict={"servers": {"queue": {"request": {"uri": "tcp://127.0.0.1:*"}}}})
        with Socket.new("req", service.endpoints["queue"]["request"]) as client:
            client.send_text("a job")
            assert client.receive_json(timeout=PATIENCE) == {"queued": "a job"}


# The interface --------------------------------------------------------------------------------------------------------

# As the documentation has it: the object, its arguments in their order, and how many of them must be given.
INTERFACE = [
    (services.Service, ["templates", "config_mapper", "coordinator"], 0),
    (services.Service.add_server, ["name", "server_cls"], 2),
    (services.Service.start, ["config_file", "config_string", "config_dict"], 0),
    (services.Service.stop, [], 0),
    (services.Service.wait, [], 0),
    (servers.Server, ["name", "settings", "control_uri", "context", "poll_loop"], 4),
    (servers.ServerDescription, ["server_cls"], 1),
    (servers.DployServer, ["name", "settings", "control_uri", "context", "poll_loop"], 4),
    (servers.DployServer.add_socket, ["name", "socket", "handler"], 2),
    (servers.DployServer.start, [], 0),
    (transport.Context, ["zmq_context"], 1),
    (transport.Socket, ["zmq_socket", "zmq_context"], 2),
    (transport.Socket.bind, ["uri"], 1),
    (transport.Socket.bind_new, ["socket_type", "uri", "options", "context"], 2),
    (transport.Socket.bind_to_random, ["uri", "min_port", "max_port", "max_tries"], 1),
    (transport.Socket.connect, ["uri"], 1),
    (transport.Socket.connect_new, ["socket_type", "uri", "options", "context"], 2),
    (transport.Socket.new, ["socket_type", "context"], 1),
    (transport.Socket.receive_envelope, [], 0),
    (transport.Socket.receive_obj, ["handler"], 1),
    (transport.Socket.receive_text, [], 0),
    (transport.Socket.send_envelope, ["envelope"], 1),
    (transport.Socket.send_obj, ["obj", "id"], 1),
    (transport.Socket.send_text, ["text", "id"], 1),
    (transport.Socket.set_option, ["option", "value"], 2),
    (transport.Envelope, ["id", "mimetype", "data", "request_frames"], 3),
    (transport.Envelope.from_raw, ["raw"], 1),
    (transport.Envelope.new, ["mimetype", "data", "id", "request_frames"], 2),
    (transport.Envelope.response_envelope, ["mimetype", "data", "id"], 2),
    (transport.Envelope.transfer_object, [], 0),
    (transport.PollLoop, ["poller"], 1),
]


@pytest.mark.parametrize(
    ("documented", "names", "required"), INTERFACE, ids=lambda value: getattr(value, "__qualname__", "")
)
def test_a_documented_signature_takes_its_arguments_by_position_and_by_keyword(documented, names, required):
    signature = inspect.signature(documented)
    # Of a class or a bound class method, `self` is taken care of already.
    first = ["self"] if inspect.isfunction(documented) else []
    everything = [*first, *names]

    by_position = signature.bind(*everything).arguments
    assert list(by_position.items()) == [(name, name) for name in everything]
    assert signature.bind(*first, **{name: name for name in names}).arguments == by_position
    signature.bind(*first, *names[:required])
    if required:
        with pytest.raises(TypeError, match="missing a required"):
            signature.bind(*first, *names[: required - 1])


def test_run_takes_what_start_takes():
    assert inspect.signature(services.Service.run).bind("service", "config.yaml", config_dict=None)


class Deserializer:
    @staticmethod
    def deserialize(data):
        return data


@pytest.mark.parametrize("declare", [servers.bind_in, servers.connect_in])
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (("request", "rep", Deserializer), {}),
        (("request", "rep"), {"obj": Deserializer}),
        (("request",), {"socket_type": "rep", "obj": Deserializer}),
        ((), {"name": "request", "socket_type": "rep", "obj": Deserializer}),
        (("rep",), {"name": "request", "obj": Deserializer}),
    ],
)
def test_a_listening_socket_can_be_declared_in_every_documented_form(declare, arguments, keywords):
    description = declare(*arguments, **keywords)(lambda server, socket, received: None)
    assert isinstance(description, servers.SocketDescription)
    assert (description.name, description.socket_type, description.deserializer) == ("request", "rep", Deserializer)
    assert description.setup_type == declare.__name__.removesuffix("_in")
    assert description.input_handler is not None


@pytest.mark.parametrize("declare", [servers.bind, servers.connect])
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (("out", "pub"), {}),
        (("out",), {"socket_type": "pub"}),
        ((), {"name": "out", "socket_type": "pub"}),
        (("pub",), {"name": "out"}),
    ],
)
def test_another_socket_can_be_declared_in_every_documented_form(declare, arguments, keywords):
    description = declare(*arguments, **keywords)
    assert isinstance(description, servers.SocketDescription)
    assert (description.name, description.socket_type) == ("out", "pub")
    assert (description.setup_type, description.input_handler) == (declare.__name__, None)


def test_an_object_that_is_sent_may_have_the_documented_method(directory):
    class Documented:
        def __serialize__(self):
            return {"a": [1, "b"]}

    with Context.new() as context:
        receiver = Socket.bind_new("pull", "inproc://documented", context=context)
        sender = Socket.connect_new("push", "inproc://documented", context=context)
        sender.send_obj(Documented(), "an id")
        envelope = receiver.receive_envelope(timeout=PATIENCE)
        assert (envelope.id, envelope.mimetype, envelope.data) == ("an id", "application/json", b'{"a":[1,"b"]}')
        sender.send_obj(Documented())
        assert receiver.receive_obj(lambda data: data["a"], timeout=PATIENCE) == [1, "b"]


def test_every_documented_socket_type_is_available():
    with Context.new() as context:
        for name in transport.SOCKET_TYPES:
            assert context.socket(name).socket_type == name
    assert {"req", "rep", "dealer", "router", "pub", "sub", "xpub", "xsub", "push", "pull", "pair"} <= set(
        transport.SOCKET_TYPES
    )

"""The full stack of dploylib: a service, its configuration in YAML, servers as classes, handlers."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import tempfile
import time
import urllib.request

import gevent

from benchmarks.servers import common
from dploylib import Envelope, Server, Service, bind, bind_in, every
from dploylib.security import KeyPair, write_key_pair
from dploylib.servers.generic import QueueServer

SCRAPED = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"  # as Prometheus asks


def serve(
    server_class,
    servers=1,
    concurrency=None,
    timeout=None,
    rcvhwm=0,
    settings="",
    security="",
    key="",
    monitoring="",
):
    """Run a service of such servers, whose sockets are bound to any free port.

    `monitoring` is "off" for one that counts no more than it must, and "on" for one of which everything is known.
    """
    settled = f"uri: '{common.ANY_PORT}', options: {{sndhwm: 0, rcvhwm: {rcvhwm}}}"
    if concurrency is not None:
        settled += f", concurrency: {concurrency}"
    if timeout is not None:
        settled += f", timeout: {timeout}"
    names = [f"bench{number}" for number in range(servers)]
    lines = [f"settings: {{bench0: {settings}}}"] if settings else []
    lines += [f"security: {security}"] if security else []
    if monitoring:
        port = free_port() if monitoring == "on" else "null"
        lines += [f"monitoring: {{statistics: {monitoring}, http: {port}}}"]
    lines += ["servers:"]
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Service())
        for name in names:
            service.add_server(name, server_class)
            lines += [f"  {name}:", *(f"    {one}: {{{settled}}}" for one in server_class.description.socket_names)]
        if monitoring == "on":
            monitor(service, stack, port)
        service.start(config_string="\n".join(lines))
        endpoints = [service.endpoints[name][one] for name in names for one in server_class.description.socket_names]
        common.announce(*endpoints, *filter(None, [key]))
        service.wait()


def monitor(service, stack, port):
    """Let all there is to be known of a service be known: of its messages in a log of JSON, and asked each second.

    That is what `dploylib top` does. Prometheus asks less often.
    """
    from dploylib.control.http_side import http_side
    from dploylib.control.local import Local
    from dploylib.control.server import Control, Subject
    from dploylib.logs import JSONFormatter, MessageFields

    log = logging.StreamHandler()
    log.addFilter(MessageFields())
    log.setFormatter(JSONFormatter())
    logging.basicConfig(level="INFO", handlers=[log])
    local = Local(service, "benchmark")
    run_dir = stack.enter_context(tempfile.TemporaryDirectory())
    stack.enter_context(http_side(service, local))
    stack.enter_context(Control(Subject(local, service.stop), run_dir))
    asking = multiprocessing.get_context("spawn").Process(target=keep_asking, args=(run_dir, port), daemon=True)
    asking.start()
    stack.callback(asking.kill)


def keep_asking(run_dir, port):
    """Ask, in another process, whose time is its own. It begins before the service."""
    from dploylib.control.asking import ask

    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": SCRAPED})
    parent = os.getppid()
    while os.getppid() == parent:
        ask(run_dir, "STATS")
        with contextlib.suppress(OSError), urllib.request.urlopen(request) as answer:
            answer.read()
        time.sleep(1)


def free_port():
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def echo(arguments):
    """Send back what comes."""

    def by_send_envelope(self, socket, received):
        socket.send_envelope(received)

    def by_return(self, socket, received):
        return received.text

    def after_a_wait(self, socket, received):
        gevent.sleep(0)
        return received.text

    handlers = {"send_envelope": by_send_envelope, "return": by_return, "wait": after_a_wait}

    class EchoServer(Server):
        answer = bind_in("request", arguments.role)(handlers[arguments.handler])

    if arguments.tracing is not None:
        trace(arguments.tracing)
    with tempfile.TemporaryDirectory() as directory:
        secured = {}
        if arguments.curve:
            pair = KeyPair.generate()
            _, secret = write_key_pair(f"{directory}/server", pair)
            secured = {"security": f"{{secret_key: '{secret}', authorized_keys: any}}", "key": pair.public}
        serve(
            EchoServer,
            concurrency=arguments.concurrency,
            timeout=arguments.timeout,
            monitoring=arguments.monitoring,
            **secured,
        )


def trace(share):
    """Let OpenTelemetry record spans of a share of the messages, and write them to nowhere."""
    from opentelemetry import trace as opentelemetry
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    from dploylib.tracing.sdk import provider_of

    # On one line, by the encoder in C: about what OTLP takes.
    exporter = ConsoleSpanExporter(
        out=open(os.devnull, "w"),  # noqa: SIM115 - open to the end
        formatter=lambda span: span.to_json(indent=None),
    )
    opentelemetry.set_tracer_provider(provider_of("bench", share, [exporter]))


def pull(arguments):
    """Count what comes."""

    class Sink(Server):
        def setup(self):
            self.left = arguments.count

        @bind_in("messages", "pull")
        def note(self, socket, received):
            self.left -= 1
            if not self.left:
                self.left = arguments.count
                common.done()

    serve(Sink, rcvhwm=arguments.rcvhwm)


def pub(arguments):
    """Publish what comes, or a batch."""

    class Publisher(Server):
        out = bind("out", "pub")

        @bind_in("that", "pull")
        def publish(self, socket, received):
            if received.data == common.BURST:
                for _ in range(arguments.count):
                    self.sockets.out.send_envelope(Envelope.new("text/plain", common.BODY))
            else:
                self.sockets.out.send_envelope(received)

    serve(Publisher)


def objects(arguments):
    """Answer a JSON object with the same object, newly encoded."""
    from benchmarks.servers.articles import Article

    class Shop(Server):
        @bind_in("request", "rep", obj=Article)
        def answer(self, socket, received):
            return received.obj

    serve(Shop)


def waiting(arguments):
    """Answer each request after a second."""

    class Slow(Server):
        @bind_in("request", "rep")
        def answer(self, socket, received):
            gevent.sleep(common.WAIT_SECONDS)
            return received.text

    serve(Slow, concurrency=arguments.concurrency)


def backlog(arguments):
    """Block at the first message, and work off the others beside a method that ticks."""

    class Sink(Server):
        def setup(self):
            self.left = 0
            self.gap = common.Gap()

        @every(common.TICK_SECONDS)
        def tick(self):
            self.gap.tick()

        @bind_in("messages", "pull")
        def note(self, socket, received):
            if not self.left:
                common.block()
                self.gap.reset()
                self.left = arguments.count
                return
            self.left -= 1
            if not self.left:
                self.gap.tick()
                common.done(self.gap.longest)

    serve(Sink)


def queue(arguments):
    """A queue of jobs, in memory or in a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"path: '{directory}/queue.db'"
        settings = {"memory": "{}", "file": f"{{{path}}}", "no-fsync": f"{{{path}, fsync: false}}"}
        serve(QueueServer, settings=settings[arguments.handler])


def idle(arguments):
    """Wait at many sockets."""

    def drop(self, socket, received):
        pass

    sockets = {f"socket{number}": bind_in(f"socket{number}", "pull")(drop) for number in range(arguments.sockets)}
    serve(type("Idle", (Server,), sockets), servers=arguments.servers)


ROLES = {
    "rep": echo,
    "router": echo,
    "pull": pull,
    "pub": pub,
    "json": objects,
    "waiting": waiting,
    "backlog": backlog,
    "queue": queue,
    "idle": idle,
}

if __name__ == "__main__":
    common.play(ROLES)

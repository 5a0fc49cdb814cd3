"""The control server: what it answers, also while the service is busy, stops, or blocks its hub."""

import json
import logging
import os
import shutil
import time

import gevent
import gevent.monkey
import pytest
import zmq
from gevent.event import Event

import dploylib
from dploylib.control import Health, local
from dploylib.control.asking import ask
from dploylib.control.local import Local
from dploylib.control.protocol import Info, LogLevel, Ping, Text, control_pids
from dploylib.control.remains import read_remains
from dploylib.control.server import Control, Subject
from dploylib.servers import Server, bind, bind_in
from dploylib.services import Service
from dploylib.statistics import ProcessStatistics
from dploylib.transport import Context, Socket

PATIENCE = 10.0
allocate_lock = gevent.monkey.get_original("_thread", "allocate_lock")
start_new_thread = gevent.monkey.get_original("_thread", "start_new_thread")
sleep_blocking = gevent.monkey.get_original("time", "sleep")


class Waits(Server):
    news = bind("news", "pub")

    def setup(self):
        self.go_on = Event()

    @bind_in("request", "rep")
    def request(self, socket, received):
        if received.text == "wait":
            self.go_on.wait()
        return received.text


class Controlled:
    """A service in this process that can be asked, and what it was told to do."""

    def __init__(self, run_dir, **options):
        self.run_dir = str(run_dir)
        self.told = []
        self.service = Service()
        self.service.add_server("it", Waits)
        self.local = Local(self.service, "shop", **options)
        self.subject = Subject(
            self.local,
            lambda seconds: self.told.append(("stop", seconds)),
            lambda: self.told.append(("reload",)),
            target="shop:service",
            config="shop.yaml",
        )

    def start(self, **general):
        servers = {"it": {"request": {"uri": "tcp://127.0.0.1:*"}, "news": {"uri": "tcp://127.0.0.1:*"}}}
        self.service.start(config_dict={"servers": servers, "general": general})
        return self

    @property
    def server(self):
        return self.service.servers["it"]

    def ask(self, verb, argument=None, kind=object):
        [answer] = ask(self.run_dir, verb, argument, kind, timeout=PATIENCE)
        return answer

    def value(self, *asked, **how):
        answer = self.ask(*asked, **how)
        assert answer.error == ""
        assert answer.pid == os.getpid()
        return answer.value

    def statistics(self):
        return self.value("STATS", kind=ProcessStatistics)

    def health(self):
        return self.value("HEALTH", kind=Health)


@pytest.fixture
def controlled(leak_check, ipc_dir):
    """A service that runs, and can be asked."""
    it = Controlled(ipc_dir)
    with Control(it.subject, it.run_dir):
        yield it.start(password="hunter2")
        if "it" in it.service.servers:
            it.server.go_on.set()
        it.service.stop(0)


@pytest.fixture
def busy(controlled, spawn, wait_until):
    """One whose only handler waits; a client of it."""
    with Context.new() as context, Socket.connect_new("req", endpoint(controlled), context=context) as client:
        client.send_text("wait")
        wait_until(lambda: controlled.server.statistics().sockets["request"].in_flight == 1)
        yield client


def endpoint(controlled):
    return controlled.service.endpoints["it"]["request"]


# Each verb --------------------------------------------------------------------------------------------------------


def test_who_is_there(controlled):
    assert controlled.value("PING", kind=Ping) == Ping(
        service="shop", role="run", pid=os.getpid(), version=dploylib.__version__
    )


def test_a_verb_may_be_written_small(controlled):
    assert controlled.value("ping")["service"] == "shop"


def test_what_runs_there(controlled):
    found = controlled.value("INFO", kind=Info)
    assert (found.service, found.role, found.pid, found.state) == ("shop", "run", os.getpid(), "running")
    assert (found.target, found.config) == ("shop:service", "shop.yaml")
    assert set(found.versions) == {"dploylib", "python", "gevent", "greenlet", "pyzmq", "libzmq"}
    assert found.versions["libzmq"] == zmq.zmq_version()
    server = found.servers["it"]
    assert server.type == "Waits"
    assert {name: (one.type, one.handler) for name, one in server.sockets.items()} == {
        "request": ("rep", "Waits.request"),
        "news": ("pub", ""),
    }
    assert server.sockets["request"].endpoints == [endpoint(controlled)]
    assert "tcp://127.0.0.1:*" in found.settings


def test_statistics_are_those_of_the_service(controlled):
    with Context.new() as context, Socket.connect_new("req", endpoint(controlled), context=context) as client:
        client.send_text("four")
        client.receive_text(PATIENCE)
    found = controlled.statistics()
    assert (found.service, found.role, found.pid, found.instance) == (
        "shop",
        "run",
        os.getpid(),
        controlled.local.instance,
    )
    assert found.started <= found.taken
    assert found.cpu_seconds > 0
    assert found.resident > 1 << 20
    assert list(found.servers) == ["it"], "the control server tells nothing of itself"
    request = found.servers["it"].sockets["request"]
    assert (request.received, request.bytes_received, request.handler_time.count) == (1, 4, 1)


def test_health_is_good_while_it_runs(controlled):
    assert controlled.health() == Health(alive=True, ready=True, state="running")


@pytest.mark.parametrize(("argument", "seconds"), [(None, None), ({"graceful_timeout": 2.5}, 2.5), ({}, None)])
def test_it_is_told_to_stop(controlled, argument, seconds):
    assert controlled.value("STOP", argument)["text"] == "shop stops"
    assert controlled.told == [("stop", seconds)]


def test_it_is_told_to_reload(controlled):
    assert controlled.value("RELOAD")["text"] == "shop reloads"
    assert controlled.told == [("reload",)]


def test_what_cannot_be_done_there_is_said(controlled):
    controlled.subject.stop = controlled.subject.reload = None
    assert controlled.ask("STOP").error == "a run cannot stop the service: ask another process of it"
    assert "only what `dploylib serve` runs can be reloaded" in controlled.ask("RELOAD").error


def test_the_level_of_a_logger_is_told_and_changed(controlled):
    logger = logging.getLogger("tests.of.a.level")
    logger.setLevel(logging.WARNING)
    name = {"logger": logger.name}
    assert controlled.value("LOGLEVEL", name, LogLevel) == LogLevel(logger.name, "warning", "warning")
    assert controlled.value("LOGLEVEL", name | {"level": "DEBUG"}, LogLevel) == LogLevel(
        logger.name, "debug", "warning"
    )
    assert logger.level == logging.DEBUG
    assert controlled.ask("LOGLEVEL", name | {"level": "loud"}).error == (
        "LOGLEVEL: debug, info, warning, error or critical, not 'loud'"
    )
    assert logger.level == logging.DEBUG
    assert controlled.value("LOGLEVEL")["logger"] == ""


def test_stacks_show_where_a_handler_waits(controlled, busy):
    text = controlled.value("STACKS", kind=Text).text
    assert "server it" in text
    assert "self.go_on.wait()" in text


def test_a_profile_shows_where_the_time_goes(controlled):
    pytest.importorskip("pyinstrument")
    assert controlled.value("PROFILE", {"seconds": 0.05})["duration"] >= 0.04


# What is asked wrongly --------------------------------------------------------------------------------------------


def test_an_unknown_verb_is_answered_by_those_that_there_are(controlled):
    verbs = "PING, INFO, STATS, HEALTH, STOP, RELOAD, LOGLEVEL, STACKS, PROFILE"
    assert controlled.ask("EXPLODE").error == f"there is no command 'EXPLODE', but {verbs}"
    assert controlled.ask("").error == f"there is no command '', but {verbs}"


@pytest.mark.parametrize(
    ("verb", "argument", "says"),
    [
        ("STOP", {"graceful_timeout": "soon"}, "STOP: Expected `float | null`, got `str` - at `$.graceful_timeout`"),
        ("STOP", {"graceful_timeout": -1}, "STOP: a number of seconds from 0 on, not -1"),
        ("STOP", {"now": True}, "STOP: Object contains unknown field `now`"),
        ("STOP", [], "STOP: Expected `object`, got `array`"),
        ("LOGLEVEL", {"level": 3}, "LOGLEVEL: Expected `str | null`, got `int` - at `$.level`"),
        ("PROFILE", {"seconds": 0}, "PROFILE: for up to 600 seconds, not 0"),
        ("PROFILE", {"seconds": 601}, "PROFILE: for up to 600 seconds, not 601"),
        ("PROFILE", "x", "PROFILE: Expected `object`, got `str`"),
    ],
)
def test_a_wrong_argument_is_said_and_nothing_is_done(controlled, verb, argument, says):
    assert says in controlled.ask(verb, argument).error
    assert controlled.told == []


def test_what_is_no_json_or_no_envelope_is_said_to_who_knows_nothing_of_us(controlled):
    with zmq.green.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(f"ipc://{controlled.run_dir}/control.{os.getpid()}")
        for frames, status in (
            ([b"STOP", b"application/json", b"{"], 422),
            ([b"STOP", b"application/json", b"\xff"], 422),
            ([b"alone"], 400),
            ([b"NO", b"", b""], 404),
        ):
            req.send_multipart(frames)
            *_, mimetype, body = req.recv_multipart()
            assert (mimetype, json.loads(body)["status"]) == (b"application/problem+json", status)
        req.send_multipart([b"PING", b"", b""])
        assert json.loads(req.recv_multipart()[-1])["service"] == "shop"
    assert controlled.told == []


# When it is asked -------------------------------------------------------------------------------------------------


def test_many_may_ask_at_once(controlled, spawn):
    asking = [spawn(controlled.statistics) for _ in range(30)]
    assert all(one.get(timeout=PATIENCE).pid == os.getpid() for one in asking)


def test_it_answers_while_all_handlers_are_busy(controlled, busy):
    found = controlled.statistics().servers["it"].sockets["request"]
    assert (found.in_flight, found.concurrency) == (1, 1)
    assert controlled.health().ready


def test_it_answers_while_the_service_starts_and_stops(controlled, busy, spawn, wait_until):
    stopping = spawn(controlled.service.stop, PATIENCE)
    wait_until(lambda: controlled.server.stopping)
    found = controlled.statistics()
    assert (found.state, found.servers["it"].state) == ("stopping", "stopping")
    assert controlled.health() == Health(alive=True, ready=False, state="stopping", why=["the service is stopping"])
    controlled.server.go_on.set()
    stopping.get(timeout=PATIENCE)
    assert controlled.health().state == "stopped"
    found = controlled.statistics()
    assert (found.state, found.servers["it"].state, found.servers["it"].sockets["request"].received) == (
        "stopped",
        "stopped",
        1,
    )


def test_it_answers_before_the_service_starts(leak_check, ipc_dir):
    it = Controlled(ipc_dir)
    with Control(it.subject, it.run_dir):
        assert it.health() == Health(alive=True, ready=False, state="starting", why=["the service is starting"])
        assert it.statistics().servers == {}
        found = it.value("INFO", kind=Info)
        assert (found.state, found.servers, found.settings) == ("starting", {}, "")
        assert "thread" in it.value("STACKS", kind=Text).text.lower()


def test_it_answers_while_the_hub_of_the_service_is_blocked(controlled, monkeypatch, wait_until):
    wait_until(lambda: controlled.server.hub_ran_at is not None)
    monkeypatch.setattr(local, "_BLOCKED", 0.05)
    uri, answers, asked = f"ipc://{controlled.run_dir}/control.{os.getpid()}", [], allocate_lock()
    asked.acquire()

    def ask_again_and_again():
        with zmq.Context() as context:
            while not answers or answers[-1]["alive"]:
                with context.socket(zmq.REQ) as req:
                    req.linger, req.rcvtimeo = 0, int(PATIENCE * 1000)
                    req.connect(uri)
                    req.send_multipart([b"HEALTH", b"", b""])
                    answers.append(json.loads(req.recv_multipart()[-1]))
        asked.release()

    start_new_thread(ask_again_and_again, ())
    ends = time.monotonic() + PATIENCE
    while not asked.acquire(False):  # no greenlet runs meanwhile
        assert time.monotonic() < ends, answers
        sleep_blocking(0.005)
    assert answers[-1]["ready"] is False
    assert answers[-1]["why"] == ["the hub of server it has not run for 0 s"]
    wait_until(lambda: controlled.health().alive)


# Where it is, and what is left ------------------------------------------------------------------------------------


def test_its_socket_is_in_the_run_directory_for_as_long_as_it_is_there(leak_check, ipc_dir):
    it = Controlled(ipc_dir)
    assert control_pids(it.run_dir) == []
    control = Control(it.subject, it.run_dir)
    control.start()
    assert control_pids(it.run_dir) == [os.getpid()]
    control.stop()
    assert control_pids(it.run_dir) == []
    control.stop()
    assert os.listdir(it.run_dir) == []


@pytest.mark.parametrize("flaw", ["too long", "not there"])
def test_a_run_directory_that_cannot_be_used_is_logged_and_the_service_runs(leak_check, ipc_dir, flaw, caplog):
    path = ipc_dir / ("x" * 120 if flaw == "too long" else "nowhere")
    if flaw == "too long":
        path.mkdir()
    it = Controlled(path)
    with Control(it.subject, it.run_dir):
        it.start()
        assert it.service.statistics()["it"].state == "running"
        assert ask(it.run_dir, "PING") == []
        it.service.stop(0)
    [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert f"nothing: ipc://{path}/control.{os.getpid()}: " in record.getMessage()
    if flaw == "too long":
        path.rmdir()


def test_nobody_answers_where_there_is_nobody(ipc_dir):
    assert ask(str(ipc_dir), "PING") == []
    assert ask(str(ipc_dir / "nowhere"), "PING") == []


def test_who_does_not_answer_has_an_error(ipc_dir):
    path = ipc_dir / f"control.{os.getpid()}"
    with Context.new() as context, Socket.bind_new("rep", f"ipc://{path}", context=context):
        assert ask(str(ipc_dir), "PING", timeout=0.05) == [(os.getpid(), None, "no answer within 0.05 s")]


def test_of_several_processes_each_answers(controlled, ipc_dir):
    dead = 2**22 + 1  # no process has this id
    silent = os.getppid()
    with Context.new() as context, Socket.bind_new("rep", f"ipc://{ipc_dir}/control.{silent}", context=context):
        (ipc_dir / f"control.{dead}").touch()
        answers = ask(controlled.run_dir, "PING", timeout=0.5)
        (ipc_dir / f"control.{dead}").unlink()
        assert [one.pid for one in answers] == sorted([silent, os.getpid()])
        assert sorted(bool(one.error) for one in answers) == [False, True]


def test_with_leaves_what_was_counted_is_left(leak_check, tmp_path, ipc_dir):
    it = Controlled(ipc_dir)
    with Control(it.subject, it.run_dir, leaves=True):
        it.start()
        with Context.new() as context, Socket.connect_new("req", endpoint(it), context=context) as client:
            client.send_text("x")
            client.receive_text(PATIENCE)
        it.service.stop(0)
    found = read_remains(it.run_dir)
    assert found.instances == [it.local.instance]
    assert found.started == it.local.started
    request = found.servers["it"].sockets["request"]
    assert (request.received, request.concurrency, request.connections.open) == (1, 0, 0)
    for name in ("ended.json", "ended.lock"):
        (ipc_dir / name).unlink()


def test_what_cannot_be_left_is_logged(leak_check, ipc_dir, caplog):
    it = Controlled(ipc_dir / "gone")
    (ipc_dir / "gone").mkdir()
    control = Control(it.subject, it.run_dir, leaves=True)
    control.start()
    (ipc_dir / "gone").rename(ipc_dir / "elsewhere")
    control.stop()
    assert "what this process has counted is lost: " in caplog.text
    shutil.rmtree(ipc_dir / "elsewhere")

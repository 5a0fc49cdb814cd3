"""The figures of a service that runs elsewhere: of processes that come, end, are silent or killed."""

import os
import threading
import time

import msgspec
import pytest

from dploylib.control import Health, finding, remote
from dploylib.control.asking import Answer
from dploylib.control.remains import add_remains, read_remains
from dploylib.control.remote import Remote
from dploylib.control.run_dir import RunDir
from dploylib.control.snapshot import Snapshot
from dploylib.statistics import Connections
from tests.control.sources import a_process, a_socket

pytestmark = pytest.mark.once("files and figures: nobody is asked over a socket")


class Processes:
    """Those of a service: each tells what it has counted, unless it is silent."""

    def __init__(self, run_dir):
        self.run_dir = str(run_dir)
        self.told = {}
        self.silent = set()
        self.after = lambda: None

    def count(self, pid, received, **fields):
        socket = a_socket(
            received=received, handled=received - 1, concurrency=10, connections=Connections(opened=received, closed=1)
        )
        self.told[pid] = a_process(pid=pid, sockets={"request": socket}, **fields)

    def end(self, pid):
        add_remains(self.run_dir, self.told.pop(pid))

    def kill(self, pid):
        del self.told[pid]

    def ask(self, run_dir, verb, argument=None, kind=object, timeout=1.0):
        assert (run_dir, verb) == (self.run_dir, "STATS")
        said = [
            Answer(pid, None, "no answer") if pid in self.silent else Answer(pid, told, "")
            for pid, told in sorted(self.told.items())
        ]
        self.after()
        return said


@pytest.fixture
def processes(tmp_path, monkeypatch):
    processes = Processes(tmp_path)
    monkeypatch.setattr(remote, "ask", processes.ask)
    return processes


@pytest.fixture
def source(processes):
    return Remote(processes.run_dir, "shop")


def ever(source):
    """What was received by all processes that ever were, and of what is open and in flight."""
    socket = Snapshot(source).ever["echo"].sockets["request"]
    return socket.received, socket.in_flight, socket.connections.open, socket.concurrency


def pids(source):
    return [one.pid for one in source.statistics()]


# Processes that come and go ---------------------------------------------------------------------------------------


def test_processes_that_answer_are_told_with_the_front_last(processes, source):
    processes.count(1, 10, role="front")
    processes.count(2, 20)
    assert pids(source) == [2, 1]
    assert ever(source) == (30, 2, 28, 20)


def test_what_a_process_has_counted_that_ended_is_kept_whoever_asks(processes, source):
    processes.count(1, 10)
    processes.count(2, 20)
    assert ever(source) == (30, 2, 28, 20)
    processes.end(1)
    for one in (source, Remote(processes.run_dir, "shop")):
        assert pids(one) == [2, 0]
        assert ever(one) == (30, 1, 19, 10)
    processes.end(2)
    assert pids(source) == [0]
    assert ever(source) == (30, 0, 0, 0)
    [gone] = source.statistics()
    assert (gone.role, gone.state, gone.service, gone.servers["echo"].state) == ("gone", "stopped", "shop", "stopped")


def test_one_that_was_killed_is_remembered_by_who_asked_before(processes, source):
    processes.count(1, 10)
    processes.count(2, 20)
    assert ever(source)[0] == 30
    processes.count(1, 13)  # which nobody has asked for
    processes.kill(1)
    processes.count(3, 5)
    for _ in range(2):
        assert ever(source) == (35, 2, 23, 20)
        assert pids(source) == [2, 3, 0]
    assert ever(Remote(processes.run_dir, "shop"))[0] == 25


def test_one_that_was_killed_is_known_to_others_by_the_source_that_keeps_it(processes, monkeypatch):
    running = {1, 2}
    monkeypatch.setattr(remote, "runs", running.__contains__)
    monitor = Remote(processes.run_dir, "shop", keeps=True)
    processes.count(1, 10)
    processes.count(2, 20)
    assert ever(monitor)[0] == 30
    processes.kill(1)
    assert ever(monitor)[0] == 30
    assert read_remains(processes.run_dir).instances == [], "it may be about to add that itself"
    running.remove(1)
    for _ in range(3):
        assert ever(monitor) == (30, 1, 19, 10)
        assert ever(Remote(processes.run_dir, "shop", keeps=True))[0] == 30


def test_what_a_process_has_added_itself_is_not_added_again(tmp_path):
    one = a_process(sockets={"request": a_socket(received=5)})
    for _ in range(2):
        add_remains(str(tmp_path), one)
    assert read_remains(str(tmp_path)).servers["echo"].sockets["request"].received == 5


def test_what_cannot_be_kept_is_remembered(processes, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "runs", lambda pid: False)
    (tmp_path / "ended.lock").mkdir()
    monitor = Remote(processes.run_dir, "shop", keeps=True)
    processes.count(1, 10)
    assert ever(monitor)[0] == 10
    processes.kill(1)
    for _ in range(2):
        assert ever(monitor)[0] == 10


def test_killed_and_ended_ones_are_told_together(processes, source):
    for pid in (1, 2, 3):
        processes.count(pid, 10, started=float(pid))
    assert ever(source)[0] == 30
    processes.kill(1)
    processes.end(2)
    processes.end(3)
    [gone] = source.statistics()
    assert gone.servers["echo"].sockets["request"].received == 30
    assert gone.started == 1.0


def test_one_that_is_silent_is_told_as_it_was(processes, source):
    processes.count(1, 10)
    assert ever(source)[0] == 10
    processes.silent.add(1)
    processes.count(2, 7)
    assert pids(source) == [1, 2]
    assert ever(source) == (17, 2, 15, 20)
    processes.silent.clear()
    processes.count(1, 12)
    assert ever(source)[0] == 19


def test_one_that_was_silent_from_the_beginning_is_not_told(processes, source):
    processes.count(1, 10)
    processes.silent.add(1)
    assert source.statistics() == []


def test_one_that_ends_right_after_it_has_answered_is_not_counted_twice(processes, source):
    processes.count(1, 10)
    processes.after = lambda: processes.end(1) if 1 in processes.told else None
    assert ever(source) == (10, 0, 0, 0)
    assert ever(source) == (10, 0, 0, 0)


def test_another_process_with_the_same_id_is_another_one(processes, source):
    processes.count(1, 10, instance="first")
    assert ever(source)[0] == 10
    processes.count(1, 3, instance="second")
    assert ever(source)[0] == 13


def test_counts_never_go_back(processes, source):
    seen = []
    for pid in range(1, 30):
        processes.count(pid, 5)
        seen.append(ever(source)[0])
        processes.count(pid, 9)
        seen.append(ever(source)[0])
        (processes.end if pid % 2 else processes.kill)(pid)
        seen.append(ever(source)[0])
    assert seen == sorted(seen)
    assert seen[-1] == 29 * 9


# What they leave --------------------------------------------------------------------------------------------------


def test_many_processes_may_leave_something_at_once(tmp_path):
    def leave(number):
        add_remains(
            str(tmp_path), a_process(pid=number, started=100.0 - number, sockets={"request": a_socket(received=1)})
        )

    threads = [threading.Thread(target=leave, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = read_remains(str(tmp_path))
    assert found.servers["echo"].sockets["request"].received == 20
    assert set(found.instances) == {f"worker-{number}" for number in range(20)}
    assert found.started == 81.0
    assert sorted(os.listdir(tmp_path)) == ["ended.json", "ended.lock"]


def test_where_nothing_was_left_or_nothing_that_can_be_read_there_is_nothing(tmp_path):
    assert read_remains(str(tmp_path)).servers == {}
    (tmp_path / "ended.json").write_text("{")
    assert read_remains(str(tmp_path)).instances == []
    add_remains(str(tmp_path), a_process(sockets={"request": a_socket(received=1)}))
    assert read_remains(str(tmp_path)).servers["echo"].sockets["request"].received == 1


def test_what_is_left_is_for_its_user_alone_and_not_written_where_a_link_leads(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "ended.json.new").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        add_remains(str(tmp_path), a_process())
    assert not elsewhere.exists()
    (tmp_path / "ended.json.new").unlink()
    add_remains(str(tmp_path), a_process())
    assert (tmp_path / "ended.json").stat().st_mode & 0o077 == 0


def test_names_of_very_many_processes_are_not_kept(tmp_path):
    (tmp_path / "ended.json").write_bytes(msgspec.json.encode({"instances": [str(n) for n in range(1000)]}))
    add_remains(str(tmp_path), a_process(instance="latest"))
    assert read_remains(str(tmp_path)).instances == [*(str(n) for n in range(1, 1000)), "latest"]


# Health -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def leads(tmp_path):
    """Say what an arbiter says of itself."""
    directory = RunDir.make("shop", (os.geteuid(), os.getegid()), str(tmp_path / "run"))

    def say(**status):
        directory.write_status({"pid": os.getpid(), "mode": "serve", "started": 1.0, "written": time.time()} | status)
        return Remote(directory.path, "shop").health()

    yield say
    directory.remove()


@pytest.mark.parametrize("state", ["ready", "reloading"])
def test_a_service_is_ready_when_its_arbiter_says_so(leads, state):
    assert leads(state=state) == Health(alive=True, ready=True, state="running")


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_it_is_not_when_it_starts_or_stops(leads, state):
    assert leads(state=state) == Health(alive=True, ready=False, state=state, why=[f"the service is {state}"])


def test_it_is_not_when_its_arbiter_is_silent(leads):
    health = leads(state="ready", written=time.time() - finding.SILENT - 10)
    assert (health.alive, health.ready) == (True, False)
    assert health.why == [f"the arbiter {os.getpid()} has said nothing for 20 s"]


def test_one_that_does_not_run_is_not_alive(tmp_path):
    expected = Health(alive=False, ready=False, state="stopped", why=["the service is not running"])
    assert Remote(str(tmp_path), "shop").health() == expected
    assert Remote(str(tmp_path / "nowhere"), "shop").health() == expected


def test_what_run_runs_says_itself_how_it_is(leads, monkeypatch):
    said = Health(alive=True, ready=False, state="running", why=["server echo is stopped"])
    monkeypatch.setattr(remote, "ask", lambda *_, **__: [Answer(1, said, "")])
    assert leads(mode="run", state="ready") == said
    monkeypatch.setattr(remote, "ask", lambda *_, **__: [Answer(1, None, "no answer within 0.5 s")])
    assert leads(mode="run", state="ready") == Health(
        alive=True, ready=False, state="running", why=["process 1: no answer within 0.5 s"]
    )
    good = Health(alive=True, ready=True, state="running")
    monkeypatch.setattr(remote, "ask", lambda *_, **__: [Answer(1, good, ""), Answer(2, said, "")])
    assert leads(mode="run", state="ready") == said
    monkeypatch.setattr(remote, "ask", lambda *_, **__: [])
    assert leads(mode="run", state="ready").why == ["nobody can be asked"]


def test_who_takes_a_run_directory_over_begins_anew(tmp_path):
    """An arbiter that is started where one has ended, or was killed."""
    path, owner = str(tmp_path / "run"), (os.geteuid(), os.getegid())
    first = RunDir.make("shop", owner, path)
    add_remains(path, a_process(sockets={"request": a_socket(received=1)}))
    first.let_go()  # as when it is killed
    second = RunDir.make("shop", owner, path)
    assert read_remains(path).servers == {}
    assert Remote(path, "shop").statistics() == []
    add_remains(path, a_process(sockets={"request": a_socket(received=2)}))
    second.remove()
    assert os.listdir(path) == []

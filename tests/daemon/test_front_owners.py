"""The life of a front: its owners, what they configure, and what is left when it has ended."""

import os
import signal
import socket
import subprocess
import sys

import gevent
import msgspec
import psutil
import pytest

from dploylib.daemon.front_owner import FrontOwner
from tests.daemon.conftest import PATIENCE, Started, ask, reply, request
from tests.daemon.test_front import TEXT, Load, kind_of, logged

FREE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def test_an_arbiter_needs_neither_gevent_nor_zmq():
    statements = "import dploylib.daemon.front, dploylib.daemon.front_owner, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, check=True)
    assert not {"gevent", "zmq"} & set(done.stdout.split())


def test_it_ends_with_its_last_owner_and_leaves_nothing(stage):
    uri = stage.lane("request")
    stage.configure()
    [worker] = stage.start_workers()
    second = stage.own()
    stage.configure(second)
    assert stage.owners[0].release()
    client = stage.client(uri)
    assert ask(client, "echo on") == "on"
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert not second.release()
    assert stage.front.end() == 0
    assert [entry.name for entry in stage.directory.iterdir()] == []
    stage.owners.clear()


def test_it_ends_with_an_owner_that_was_killed(stage):
    stage.lane("request")
    stage.configure()
    stage.owners.pop().close()
    assert stage.front.end() == 0
    assert [entry.name for entry in stage.directory.iterdir()] == []


def test_it_answers_what_it_has_before_it_ends(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    client, late = stage.client(uri), stage.client(uri)
    request(client, "sleep 0.5")
    stage.wait_until(lambda: stage.status()["in_flight"] == 1)
    assert not stage.owners.pop().release()
    request(late, "echo late")
    assert kind_of(reply(late)) == "shutting-down"
    assert reply(client)[0] == TEXT
    assert stage.front.end() == 0


def test_what_was_pushed_before_the_end_is_handled_by_workers_that_stop(stage):
    uri = stage.lane("jobs", "pull")
    stage.configure()
    workers = stage.start_workers(2, "jobs", general={"job_seconds": 0.005})
    pusher = stage.client(uri, "push")
    for number in range(200):
        pusher.send_multipart([b"", TEXT, b"%d" % number])
    stage.wait_until(lambda: len(logged(stage)) > 5)
    assert not stage.owners.pop().release()
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.end() == 0
    assert stage.front.end() == 0
    handled = [int(line.split()[-1]) for line in logged(stage)]
    assert sorted(handled) == list(range(len(handled)))


def test_a_front_that_nobody_wants_ends(tmp_path):
    front = Started("front_process.py", tmp_path / "control", 0.1)
    assert front.end() == 0
    assert list(tmp_path.iterdir()) == []
    front.popen.stdout.close()


def test_there_is_one_front_at_a_path(stage):
    second = Started("front_process.py", stage.control)
    assert second.end() == 1
    second.popen.stdout.close()
    assert stage.status_of_all() == {}


@pytest.mark.parametrize("number", FREE)
def test_only_its_owners_end_it(stage, number):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    stage.front.signal(number)
    assert ask(stage.client(uri), "echo on") == "on"


def test_a_front_that_was_killed_is_replaced_at_the_same_endpoints(stage):
    uri = stage.lane("request", concurrency=2)
    stage.configure()
    workers = stage.start_workers(2)
    client = stage.client(uri)
    assert ask(client, "echo before") == "before"
    stage.front.kill()
    stage.owners.pop().close()
    stage.start_front()
    stage.configure()
    stage.wait_until(lambda: stage.pids() == {worker.pid for worker in workers})
    with gevent.Timeout(PATIENCE):
        assert ask(client, "echo after") == "after"
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


@pytest.mark.parametrize(("lane", "kind"), [("request", "rep"), ("peers", "router")])
def test_a_worker_that_stops_while_there_is_no_front_does_not_wait_for_ever(stage, lane, kind):
    stage.lane(lane, kind)
    stage.configure()
    [worker] = stage.start_workers(1, lane, graceful_timeout=1000)
    stage.front.kill()
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


# Configuring -----------------------------------------------------------------------------------------------------


def test_lanes_come_and_go(stage):
    first = stage.lane("request")
    stage.configure()
    stage.start_workers()
    second = stage.lane("peers", "router")
    stage.configure()
    stage.start_workers(1, "peers")
    assert ask(stage.client(first), "echo one") == "one"
    client = stage.client(second, "dealer")
    request(client, "echo two")
    assert reply(client)[1] == b"two"
    del stage.lanes[0]
    stage.configure()
    assert set(stage.status_of_all()) == {"tested.peers"}
    stage.wait_until(lambda: not (stage.directory / "tested.request").exists())


def test_a_lane_that_was_closed_can_be_opened_again(stage):
    uri = stage.lane("request")
    stage.configure()
    lane = stage.lanes.pop()
    stage.configure()
    stage.lanes.append(lane)
    stage.configure()
    stage.start_workers()
    assert ask(stage.client(uri), "echo again") == "again"


def test_endpoints_change_while_it_runs(stage):
    old = stage.lane("request")
    stage.configure()
    stage.start_workers()
    waiting = stage.client(old)
    request(waiting, "sleep 0.5")
    stage.wait_until(lambda: stage.status()["in_flight"] == 1)
    new = stage.listen()
    stage.lanes[0] = msgspec.structs.replace(stage.lanes[0], uris=(new,))
    stage.configure()
    assert ask(stage.client(new), "echo new") == "new"
    assert reply(waiting)[0] == TEXT
    stage.wait_until(lambda: stage.status()["endpoints"] == [new])


def test_what_can_be_taken_over_is_and_what_cannot_is_said(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    lane = stage.lanes[0]
    stage.lanes[0] = msgspec.structs.replace(lane, rejects=True)
    stage.configure()
    clients = [stage.client(uri) for _ in range(2)]
    request(clients[0], "sleep 0.3")
    stage.wait_until(lambda: stage.status()["in_flight"] == 1)
    request(clients[1], "echo x")
    assert kind_of(reply(clients[1])) == "overloaded"
    other = msgspec.structs.replace(lane, options=(("rcvhwm", 5),), max_frames=9)
    descriptors = {uri: stage.listening[uri].fileno()}
    [flaw] = stage.owners[-1].configure([other], descriptors, 1)
    assert flaw == "tested.request: to change options, max_frames needs a restart; it stays as it was"


def test_an_endpoint_that_cannot_be_had_is_said(stage):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stage.lane("request", uri=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        [flaw] = stage.owners[-1].configure(stage.lanes, {}, 1)
    assert flaw.startswith("tested.request: tcp://127.0.0.1:")
    assert "in use" in flaw


def test_the_lanes_of_one_owner_stay_when_another_one_has_others(stage):
    stage.lane("request")
    stage.configure()
    second = stage.own()
    stage.lane("peers", "router")
    [second_lane] = stage.lanes[1:]
    uri = second_lane.uris[0]
    assert second.configure([second_lane], {uri: stage.listening[uri].fileno()}, 1) == []
    assert set(stage.status_of_all()) == {"tested.request", "tested.peers"}
    stage.owners[0].release()
    stage.wait_until(lambda: set(stage.status_of_all()) == {"tested.peers"})


def test_many_descriptors_come_over(stage):
    uris = tuple(stage.listen() for _ in range(300))
    stage.lane("request", uri=uris[0])
    stage.lanes[0] = msgspec.structs.replace(stage.lanes[0], uris=uris)
    stage.configure()
    stage.start_workers()
    assert ask(stage.client(uris[-1]), "echo far") == "far"


def test_what_is_no_request_of_an_owner_ends_only_that_owner(stage):
    stage.lane("request")
    stage.configure()
    with socket.socket(socket.AF_UNIX) as odd:
        odd.connect(stage.control)
        odd.sendall(b"hello\n")
        assert odd.recv(1) == b""
    assert set(stage.status_of_all()) == {"tested.request"}


def test_nothing_is_left_of_workers_and_clients_that_came_and_went(stage):
    uri = stage.lane("request", concurrency=4)
    stage.configure()

    def come_and_go(kill):
        [worker] = stage.start_workers()
        load = Load(stage, uri)
        stage.wait_until(lambda: load.answers.total() > 20)
        if kill:
            [other] = stage.start_workers()
            worker.kill()
            load.end()
            worker = other
        else:
            load.end()
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        for client in stage.clients:
            client.close()
        stage.clients.clear()

    process = psutil.Process(stage.front.pid)
    come_and_go(kill=True)
    stage.wait_until(lambda: process.num_fds() < 60)
    gevent.sleep(0.3)
    before = process.num_fds()
    for kill in (False, True, False):
        come_and_go(kill)
    stage.wait_until(lambda: process.num_fds() <= before)
    assert stage.status()["workers"] == []
    assert process.num_threads() <= 3


def test_the_control_socket_is_for_nobody_else(stage):
    assert os.stat(stage.control).st_mode & 0o777 == 0o600
    with FrontOwner(stage.control):
        pass

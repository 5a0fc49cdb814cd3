"""The front: clients never notice that workers come and go."""

import collections
import json
import os
import signal

import gevent
import pytest
import zmq.green as zmq

from dploylib.clients import RequestClient
from tests.daemon.conftest import ask, reply, request

TEXT = b"text/plain"
PROBLEM = b"application/problem+json"


def kind_of(answer):
    """The text of a reply, or the last part of the type of a problem."""
    mimetype, body = answer
    return json.loads(body)["type"].rpartition(":")[2] if mimetype == PROBLEM else body.decode()


class Load:
    """Clients that ask one after the other, each waiting for its reply, and what they got."""

    def __init__(self, stage, uri, clients=8, text="sleep 0.005"):
        self.answers = collections.Counter()
        self.asked = 0
        self._text = text
        self._going_on = True
        self._greenlets = [gevent.spawn(self._ask, stage.client(uri)) for _ in range(clients)]

    def _ask(self, client):
        while self._going_on:
            self.asked += 1
            request(client, self._text)
            self.answers[kind_of(reply(client))] += 1

    def end(self):
        """Let each have its last reply. What there were, and none too many."""
        self._going_on = False
        gevent.joinall(self._greenlets, raise_error=True)
        assert self.answers.total() == self.asked
        return self.answers


# Who gets what ---------------------------------------------------------------------------------------------------


def test_a_request_is_answered_by_a_worker(stage):
    uri = stage.lane("request")
    stage.configure()
    [worker] = stage.start_workers()
    client = stage.client(uri)
    assert ask(client, "pid") == str(worker.pid)
    assert ask(client, "echo hello") == "hello"


def test_a_request_that_comes_before_any_worker_waits_for_one(stage):
    uri = stage.lane("request")
    stage.configure()
    client = stage.client(uri)
    request(client, "echo early")
    gevent.sleep(0.1)
    stage.start_workers()
    assert reply(client) == (TEXT, b"early")


def test_who_has_the_least_to_do_gets_the_next_message(stage):
    uri = stage.lane("request", concurrency=4)
    stage.configure()
    workers = stage.start_workers(3)
    clients = [stage.client(uri) for _ in range(9)]
    for client in clients:
        request(client, "sleep 0.3")
    answers = collections.Counter(int(reply(client)[1]) for client in clients)
    assert answers == {worker.pid: 3 for worker in workers}


def test_workers_with_nothing_to_do_take_turns(stage):
    uri = stage.lane("request")
    stage.configure()
    workers = stage.start_workers(2)
    client = stage.client(uri)
    pids = [ask(client, "pid") for _ in range(6)]
    assert collections.Counter(pids) == {str(worker.pid): 3 for worker in workers}


def test_a_worker_that_comes_later_gets_what_waits(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    clients = [stage.client(uri) for _ in range(30)]
    for client in clients:
        request(client, "sleep 0.1")
    [late] = stage.start_workers()
    assert any(int(reply(client)[1]) == late.pid for client in clients)


def test_pipelined_requests_have_their_own_replies(stage):
    uri = stage.lane("request", concurrency=10)
    stage.configure()
    stage.start_workers(2)
    client = stage.client(uri, "dealer")
    for number in range(200):
        request(client, f"echo {number}", id=b"%d" % number)
    got = {}
    for _ in range(200):
        _, id, _, body = client.recv_multipart()
        got[id] = body
    assert got == {b"%d" % number: b"%d" % number for number in range(200)}
    assert stage.status()["dropped"] == {"gone": 0, "undelivered": 0, "unmatched": 0}


def test_our_own_client_is_served(stage):
    uri = stage.lane("request", concurrency=10)
    stage.configure()
    stage.start_workers(2)
    with RequestClient(uri) as client:
        calls = [gevent.spawn(client.request, f"echo {number}") for number in range(50)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value.text for call in calls] == [str(number) for number in range(50)]


# How much of it --------------------------------------------------------------------------------------------------


def test_what_no_worker_takes_stays_with_the_clients(stage):
    uri = stage.lane("request", options=(("rcvhwm", 10),))
    stage.configure()
    stage.start_workers()
    client = stage.client(uri, "dealer")
    client.sndhwm = 10
    for _ in range(40):
        request(client, "sleep 0.05")
    status = stage.status()
    assert status["full"]
    assert status["workers"][0]["in_flight"] == status["workers"][0]["credit"]
    assert status["received"] < 40
    for _ in range(40):
        assert reply(client)[0] == TEXT


def test_an_overloaded_lane_rejects_what_is_too_much(stage):
    uri = stage.lane("request", concurrency=2, rejects=True)
    stage.configure()
    stage.start_workers(2)
    clients = [stage.client(uri) for _ in range(6)]
    for client in clients:
        request(client, "sleep 0.5")
    answers = collections.Counter(reply(client)[0] for client in clients)
    assert answers == {TEXT: 4, PROBLEM: 2}
    assert stage.status()["problems"]["overloaded"] == 2


# Workers that go -------------------------------------------------------------------------------------------------


def test_workers_that_stop_under_load_lose_nothing(stage):
    uri = stage.lane("request", concurrency=4)
    stage.configure()
    old = stage.start_workers(2)
    load = Load(stage, uri, clients=20)
    stage.wait_until(lambda: load.answers.total() > 100)
    for _ in range(3):
        new = stage.start_workers(2)
        for worker in old:
            worker.signal(signal.SIGTERM)
        for worker in old:
            assert worker.end() == 0
        old = new
    answers = load.end()
    assert not [answer for answer in answers if not answer.isdigit()], answers
    assert stage.status()["dropped"] == {"gone": 0, "undelivered": 0, "unmatched": 0}


def test_what_a_worker_had_not_begun_when_its_time_is_up_is_given_to_another_one(stage):
    uri = stage.lane("request")
    stage.configure()
    [slow] = stage.start_workers(graceful_timeout=0.5)
    first, *others = clients = [stage.client(uri) for _ in range(2)]
    for client in clients:
        request(client, "sleep 3")
        gevent.sleep(0.02)
    stage.wait_until(lambda: stage.status()["in_flight"] == 2)
    [other] = stage.start_workers()
    slow.signal(signal.SIGTERM)
    assert kind_of(reply(first)) == "handler-ended"
    for client in others:
        assert reply(client) == (TEXT, b"%d" % other.pid)


def test_a_handler_that_never_ends_is_said_to_be_lost_and_what_waited_behind_it_is_not(stage):
    uri = stage.lane("request")
    stage.configure()
    [hung] = stage.start_workers(graceful_timeout=0.2)
    first, second = stage.client(uri), stage.client(uri)
    request(first, "hang")
    stage.wait_until(lambda: stage.status()["in_flight"] == 1)
    request(second, "pid")
    stage.wait_until(lambda: stage.status()["in_flight"] == 2)
    [other] = stage.start_workers()
    hung.signal(signal.SIGTERM)
    assert kind_of(reply(first)) in ("worker-lost", "handler-ended")
    assert reply(second) == (TEXT, b"%d" % other.pid)


def test_of_killed_workers_each_request_has_one_answer_at_least_that_it_is_lost(stage):
    uri = stage.lane("request", concurrency=4)
    stage.configure()
    workers = stage.start_workers(3)
    load = Load(stage, uri, clients=20)
    for worker in workers[:2]:
        before = load.answers.total()
        stage.wait_until(lambda before=before: load.answers.total() > before + 50)
        worker.kill()
        stage.start_workers()
    stage.wait_until(lambda: load.answers["worker-lost"])
    answers = load.end()
    assert not [answer for answer in answers if not answer.isdigit() and answer != "worker-lost"], answers
    assert answers["worker-lost"] == stage.status()["problems"]["lost"]
    assert stage.status()["in_flight"] == 0


def test_an_idempotent_request_survives_the_worker(stage):
    uri = stage.lane("request", concurrency=4, idempotent=True)
    stage.configure()
    workers = stage.start_workers(2)
    load = Load(stage, uri, clients=20)
    for worker in workers:
        before = load.answers.total()
        stage.wait_until(lambda before=before: load.answers.total() > before + 50)
        worker.kill()
        stage.start_workers()
    assert not [answer for answer in load.end() if not answer.isdigit()]
    assert stage.status()["again"]


def test_a_request_that_kills_workers_is_given_up_in_the_end(stage):
    uri = stage.lane("request", idempotent=True)
    stage.configure()
    workers = stage.start_workers(4)
    client, other = stage.client(uri), stage.client(uri)
    request(client, "die")
    mimetype, body = reply(client)
    assert (mimetype, json.loads(body)["type"]) == (PROBLEM, "urn:dploylib:worker-lost")
    assert "3 workers are gone that had this message" in json.loads(body)["detail"]
    assert ask(other, "pid") in {str(worker.pid) for worker in workers}
    assert len(stage.pids()) == 1


def test_a_request_that_kills_one_worker_is_answered_by_the_next(stage):
    uri = stage.lane("request", idempotent=True)
    stage.configure()
    stage.start_workers(2)
    assert ask(stage.client(uri), f"once {stage.directory}/once") == "again"


def test_a_worker_that_is_stopped_keeps_what_it_has(stage):
    uri = stage.lane("request")
    stage.configure()
    [stopped] = stage.start_workers()
    client = stage.client(uri)
    stopped.signal(signal.SIGSTOP)
    request(client, "pid")
    stage.start_workers()
    gevent.sleep(0.3)
    assert stage.status()["in_flight"] == 1
    stopped.signal(signal.SIGCONT)
    assert reply(client) == (TEXT, b"%d" % stopped.pid)


def test_a_server_that_crashes_in_its_process_is_found_when_it_is_there_again(stage):
    uri = stage.lane("request")
    stage.configure()
    supervision = {"tested": {"restart": "on-failure", "backoff": 0.01}}
    [worker] = stage.start_workers(supervision=supervision)
    client = stage.client(uri)
    for _ in range(3):
        assert ask(client, "crash") == "crashing"
        assert ask(client, "pid") == str(worker.pid)
    stage.wait_until(lambda: len(stage.status()["workers"]) == 1)


def test_servers_in_threads_are_workers_too(stage):
    uri = stage.lane("request", concurrency=4)
    stage.configure()
    first, second = stage.start_workers(2, threads=True)
    load = Load(stage, uri)
    stage.wait_until(lambda: load.answers[str(second.pid)] > 20)
    first.signal(signal.SIGTERM)
    assert first.end() == 0
    assert not [answer for answer in load.end() if not answer.isdigit()]


# Other kinds of sockets ------------------------------------------------------------------------------------------


def test_a_router_may_say_more_later(stage):
    uri = stage.lane("peers", "router")
    stage.configure()
    stage.start_workers(2, "peers")
    peer = stage.client(uri, "dealer")
    request(peer, "later")
    assert [reply(peer)[1] for _ in range(4)] == [b"now", b"later 0", b"later 1", b"later 2"]


def test_of_a_router_it_is_known_which_messages_are_handled(stage):
    uri = stage.lane("peers", "router", concurrency=4)
    stage.configure()
    [worker] = stage.start_workers(1, "peers")
    peer = stage.client(uri, "dealer")
    for _ in range(100):
        request(peer, "silence")
    stage.wait_until(lambda: stage.status("peers")["received"] == 100 and not stage.status("peers")["in_flight"])
    request(peer, "sleep 30")
    stage.wait_until(lambda: stage.status("peers")["in_flight"] == 1)
    worker.kill()
    assert kind_of(reply(peer)) == "worker-lost"


def test_of_a_router_replies_may_come_when_others_are_done_without_one(stage):
    """By one route and under one id: it is told apart which of them is done, and which has had its reply."""
    uri = stage.lane("peers", "router", concurrency=4)
    stage.configure()
    [worker] = stage.start_workers(1, "peers")
    peer = stage.client(uri, "dealer")
    for text in ("sleep 0.5", "silence", "silence"):
        request(peer, text)
    assert reply(peer)[1] == b"%d" % worker.pid
    stage.wait_until(lambda: not stage.status("peers")["in_flight"])
    request(peer, "sleep 30")
    stage.wait_until(lambda: stage.status("peers")["in_flight"] == 1)
    worker.kill()
    assert kind_of(reply(peer)) == "worker-lost"
    assert stage.status("peers")["dropped"]["unmatched"] == 0


@pytest.mark.parametrize("idempotent", [False, True])
def test_what_a_router_has_answered_is_not_lost_with_its_worker(stage, idempotent):
    uri = stage.lane("peers", "router", idempotent=idempotent)
    stage.configure()
    peer = stage.client(uri)
    for number in range(2):
        [worker] = stage.start_workers(1, "peers")
        assert ask(peer, f"reply_and_die {number}") == str(number)
        worker.end()
        stage.wait_until(lambda: not stage.status("peers")["workers"])
    [worker] = stage.start_workers(1, "peers")
    assert ask(peer, "echo 2") == "2"  # and nothing that was said of the others
    status = stage.status("peers")
    assert (status["answered"], status["again"], status["problems"]["lost"]) == (3, 0, 0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_pushed_is_handled_by_some_worker(stage, how):
    uri = stage.lane("jobs", "pull", idempotent=True, concurrency=2)
    stage.configure()
    workers = stage.start_workers(2, "jobs", general={"job_seconds": 0.005})
    pusher = stage.client(uri, "push")
    for number in range(200):
        pusher.send_multipart([b"", TEXT, b"%d" % number])
    stage.wait_until(lambda: len(logged(stage)) > 20)
    workers[0].signal(how)
    stage.wait_until(lambda: {line.split()[-1] for line in logged(stage)} == set(map(str, range(200))))
    if how == signal.SIGTERM:
        assert len(logged(stage)) == 200
    assert {int(line.split()[0]) for line in logged(stage)} == {worker.pid for worker in workers}
    stage.wait_until(lambda: stage.status("jobs")["in_flight"] == 0)


def logged(stage):
    log = stage.directory / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_what_was_pushed_and_is_lost_is_counted(stage):
    uri = stage.lane("jobs", "pull")
    stage.configure()
    [worker] = stage.start_workers(1, "jobs", general={"job_seconds": 30})
    stage.client(uri, "push").send_multipart([b"", TEXT, b"slow"])
    stage.wait_until(lambda: stage.status("jobs")["in_flight"] == 1)
    worker.kill()
    stage.wait_until(lambda: stage.status("jobs")["problems"]["lost"] == 1)


# What clients do wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [b"no delimiter", b"", TEXT],
        [b"x"],
        [b""],
        [b"", b""],
        [b"", b"", b"", b"", b""],
        [b"", b"id", TEXT],
        [b"", *[b"many"] * 300],
        [*[b"many"] * 300, b"", b"", TEXT, b"echo x"],
        [b"\xff", b"", b"\xff", TEXT, b"echo x"],
    ],
)
def test_what_is_no_envelope_does_no_harm_and_is_answered(stage, frames):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    client = stage.client(uri, "dealer")
    client.send_multipart(frames)
    assert kind_of(reply(client)) == "malformed-envelope"
    stage.wait_until(lambda: stage.status()["in_flight"] == 0)
    assert ask(stage.client(uri), "echo fine") == "fine"


def test_more_frames_than_the_lane_takes_are_refused_by_the_front(stage):
    uri = stage.lane("request", max_frames=8)
    stage.configure()
    stage.start_workers()
    client = stage.client(uri, "dealer")
    request(client, "echo x", route=[b"hop"] * 12)
    assert kind_of(reply(client)) == "malformed-envelope"
    assert stage.status()["problems"]["malformed"] == 1


def test_an_empty_message_on_a_pull_is_no_control_message(stage):
    uri = stage.lane("jobs", "pull")
    stage.configure()
    stage.start_workers(1, "jobs")
    pusher = stage.client(uri, "push")
    for frames in ([b"", b"BYE", b""], [b"", b"HELLO", b"0"], [b""], [b"", b"GONE", b"1"], [b"", b"READY"]):
        pusher.send_multipart(frames)
    pusher.send_multipart([b"", TEXT, b"fine"])
    stage.wait_until(lambda: any(line.endswith(" fine") for line in logged(stage)))
    stage.wait_until(lambda: stage.status("jobs")["in_flight"] == 0)
    assert len(stage.pids("jobs")) == 1


def test_a_client_that_does_not_read_holds_up_nobody(stage):
    uri = stage.lane("request", concurrency=10, options=(("sndhwm", 1), ("sndbuf", 4096)))
    stage.configure()
    stage.start_workers()
    deaf = stage.context.socket(zmq.DEALER)
    deaf.linger = 0
    deaf.rcvhwm = 1
    deaf.rcvbuf = 4096
    deaf.connect(uri)
    body = "x" * 60_000
    for _ in range(200):
        request(deaf, f"echo {body}")
    client = stage.client(uri)
    for number in range(50):
        assert ask(client, f"echo {number}") == str(number)
    deaf.close()
    stage.wait_until(lambda: not stage.status()["in_flight"])


def test_a_client_that_is_gone_is_counted(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    client = stage.client(uri)
    request(client, "sleep 0.2")
    stage.wait_until(lambda: stage.status()["in_flight"] == 1)
    client.close()
    stage.wait_until(lambda: stage.status()["dropped"]["gone"] == 1)


def test_replies_that_are_for_no_request_are_dropped_and_counted(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    client = stage.client(uri)
    assert ask(client, "odd") == "odd"
    assert ask(client, "echo on") == "on"
    assert stage.status()["dropped"]["unmatched"] == 2


def test_what_a_worker_sends_that_is_no_message_is_dropped(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    odd = stage.client(stage.lanes[0].backend, "dealer")
    for frames in ([b"\xc1"], [b"no", b"list"], [b"\x90"], [b"", b"what"], [b"", b"READY", b"me"]):
        odd.send_multipart(frames)
    client = stage.client(uri)
    assert [ask(client, f"echo {number}") for number in range(10)] == [str(number) for number in range(10)]
    assert len(stage.pids()) == 1


def test_what_a_handler_sends_is_never_taken_for_a_word_of_its_worker(stage):
    uri = stage.lane("peers", "router")
    stage.configure()
    stage.start_workers(1, "peers")
    peer = stage.client(uri, "dealer")
    request(peer, "word")
    assert reply(peer)[1] == b"said"
    stage.wait_until(lambda: stage.status("peers")["dropped"]["gone"] == 1)
    assert len(stage.pids("peers")) == 1


def test_large_bodies_pass(stage):
    uri = stage.lane("request")
    stage.configure()
    stage.start_workers()
    body = "x" * 1_000_000
    client = stage.client(uri)
    assert ask(client, f"echo {body}") == body
    [pid] = stage.pids()
    assert os.path.exists(f"/proc/{pid}")

"""A queue and what talks to it: bare peers, clients, workers that come, answer, fail, fall silent and go."""

import json
import signal
from collections import Counter

import gevent
import pytest

from dploylib import Service
from dploylib.errors import DeclarationError, RemoteError
from dploylib.servers.generic import QueueServer, Worker
from dploylib.testing import call_handler
from dploylib.transport import Envelope, Metadata
from tests.servers.generic.bare import READY, attempt, problem

FAST = {"retry_delay": 0.01}


@pytest.fixture
def put(peer):
    """`put(it, "text")`: put a job with a bare REQ; its number."""

    def put(it, text, id=b"", mimetype=b"text/plain"):
        asking = peer("req", it.endpoint("jobs.put"))
        got_id, got_mimetype, body = asking.ask(id, mimetype, text.encode())
        assert (got_id, got_mimetype) == (id, b"application/json"), body
        asking.zmq_socket.close(0)
        return json.loads(body)["job"]

    return put


@pytest.fixture
def admin():
    """`admin(it, do="dead")`: what the admin socket says."""

    def admin(it, **request):
        client = it.client("jobs.admin")
        try:
            return client.request(request).json
        finally:
            client.close()

    return admin


@pytest.fixture
def settled(admin, wait_until):
    """Wait until there is no job but dead ones, of which there are so many."""

    def wait(it, dead=0):
        def over():
            status = admin(it)
            return status["waiting"] + status["held"] + status["delayed"] == 0 and status["dead"] == dead

        wait_until(over)

    return wait


def counts(it):
    return dict(+it.server("jobs").jobs.counts)


# Putting and taking -----------------------------------------------------------------------------------------------


def test_a_job_reaches_its_worker_as_it_was_put(start_queue, put, bare_worker, settled):
    it = start_queue()
    number = put(it, "ü", "ïd".encode(), b"text/x; a=b")
    job = bare_worker(it).job()
    assert job[1:] == [b"", "ïd".encode(), b"text/x; a=b", "ü".encode()]
    metadata = Metadata.find(job[:1])
    assert (str(metadata.request_id), metadata.attempt) == (number, 1)
    assert counts(it) == {"held": 1}


def test_a_dealer_that_puts_gets_its_request_frames_back(start_queue, peer):
    it = start_queue()
    dealer = peer("dealer", it.endpoint("jobs.put"))
    frames = dealer.ask(b"route", b"", b"", b"text/plain", b"hello")
    assert frames[:4] == [b"route", b"", b"", b"application/json"]


def test_a_worker_holds_no_more_jobs_than_its_credit(start_queue, put, bare_worker):
    it = start_queue()
    for number in range(5):
        put(it, str(number))
    worker = bare_worker(it, 2)
    first, second = worker.job(), worker.job()
    assert not worker.has_job()
    worker.answer(second)
    assert worker.job()[-1] == b"2"
    assert not worker.has_job()
    worker.ready(3)
    assert worker.job()[-1] == b"3"
    worker.answer(first)
    assert worker.job()[-1] == b"4"


def test_jobs_are_shared_out_to_workers_in_turn(start_queue, put, bare_worker, wait_until):
    it = start_queue()
    workers = [bare_worker(it, 4) for _ in range(3)]
    wait_until(lambda: len(it.server("jobs").workers) == 3)
    for number in range(6):
        put(it, str(number))
    taken = [[worker.job()[-1], worker.job()[-1]] for worker in workers]
    assert sorted(taken) == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_jobs_come_by_priority_and_then_in_the_order_in_which_they_were_put(start_queue, put, bare_worker):
    it = start_queue()
    for text, mimetype in [
        ("a", b"text/plain"),
        ("b", b"text/plain; priority=5"),
        ("c", b"text/plain;charset=utf-8;Priority=-1"),
        ("d", b"text/plain; priority=5; charset=utf-8"),
        ("e", b"text/plain; priority=high"),
    ]:
        put(it, text, mimetype=mimetype)
    worker = bare_worker(it)
    assert [worker.text() for _ in range(5)] == ["b", "d", "a", "e", "c"]


def test_a_subclass_decides_what_comes_first(start_queue, put, bare_worker):
    class ShortFirst(QueueServer):
        def priority(self, received):
            return -len(received.data)

    it = start_queue(ShortFirst)
    for text in ("long", "s", "mid"):
        put(it, text)
    worker = bare_worker(it)
    assert [worker.text() for _ in range(3)] == ["s", "mid", "long"]


def test_a_priority_that_is_none_is_an_error_to_who_puts_and_leaves_nothing_behind(start_queue, peer, tmp_path):
    class Undecided(QueueServer):
        def priority(self, received):
            return None if received.text == "bad" else 0

    it = start_queue(Undecided, path=str(tmp_path / "jobs.db"))
    req = peer("req", it.endpoint("jobs.put"))
    assert req.ask_problem(b"id", b"text/plain", b"bad")["type"] == "urn:dploylib:handler-failed"
    assert len(it.server("jobs").jobs) == 0
    assert req.ask(b"id", b"text/plain", b"good")[1] == b"application/json"


def test_a_job_whose_id_is_known_is_not_taken_again(start_queue, put, bare_worker, admin, settled):
    it = start_queue(max_tries=1)
    number = put(it, "first", b"id")
    assert put(it, "waiting", b"id") == number
    worker = bare_worker(it)
    job = worker.job()
    assert put(it, "held", b"id") == number
    worker.answer(job, *problem("bad"))
    settled(it, dead=1)
    assert put(it, "dead", b"id") == number
    admin(it, do="retry", job=number)
    assert worker.text() == "first"
    settled(it)
    assert put(it, "finished", b"id") == number
    assert len(it.server("jobs").jobs) == 0
    assert put(it, "another", b"another id") != number


def test_a_full_queue_says_so_and_takes_jobs_again_when_there_is_room(start_queue, put, peer, bare_worker, settled):
    it = start_queue(max_jobs=2)
    put(it, "1", b"known")
    put(it, "2")
    req = peer("req", it.endpoint("jobs.put"))
    refusal = req.ask_problem(b"", b"text/plain", b"3")
    assert (refusal["status"], refusal["type"]) == (503, "urn:dploylib:overloaded")
    assert put(it, "1", b"known")  # who asks again for what is there is told that it is
    worker = bare_worker(it)
    worker.answer(worker.job())
    worker.job()
    assert put(it, "3")


def test_what_never_fits_and_what_a_worker_cannot_tell_from_an_answer_is_refused(start_queue, peer):
    it = start_queue(max_bytes=100)
    req = peer("req", it.endpoint("jobs.put"))
    assert req.ask_problem(b"", b"text/plain", b"." * 100)["type"] == "urn:dploylib:invalid-data"
    mimetype, body = problem("bad")
    assert req.ask_problem(b"", mimetype, body)["type"] == "urn:dploylib:invalid-data"
    assert len(it.server("jobs").jobs) == 0


# Answers ------------------------------------------------------------------------------------------------------------


def test_a_job_that_failed_is_tried_again_and_is_dead_in_the_end(start_queue, put, bare_worker, admin, settled):
    it = start_queue(max_tries=3, **FAST)
    number = put(it, "bad", b"id")
    worker = bare_worker(it)
    for tried in (1, 2, 3):
        job = worker.job()
        assert attempt(job) == tried
        worker.answer(job, *problem("broken", 500))
    settled(it, dead=1)
    [dead] = admin(it, do="dead")
    assert (dead["job"], dead["id"], dead["failures"], dead["deliveries"]) == (number, "id", 3, 3)
    assert dead["reason"] == "broken: says the test"
    assert admin(it, do="retry", job=number)["failures"] == 0
    assert attempt(worker.job()) == 4


def test_a_job_that_is_refused_as_bad_is_dead_at_once(start_queue, put, bare_worker, admin, settled):
    it = start_queue()
    number = put(it, "bad")
    worker = bare_worker(it)
    worker.answer(worker.job(), *problem("invalid-data", 422))
    settled(it, dead=1)
    assert admin(it, do="discard", job=number)["job"] == number
    settled(it)


@pytest.mark.parametrize("path", [None, "jobs.db"])
def test_a_discarded_job_can_be_put_again_by_its_id(start_queue, put, bare_worker, admin, settled, tmp_path, path):
    it = start_queue(path=path and str(tmp_path / path))
    number = put(it, "bad", id=b"it")
    worker = bare_worker(it)
    worker.answer(worker.job(), *problem("invalid-data", 422))
    settled(it, dead=1)
    assert put(it, "good", id=b"it") == number  # it is known, and waits for a decision
    assert admin(it, do="discard", job=number)["job"] == number
    assert put(it, "good", id=b"it") != number
    assert worker.text() == "good"


@pytest.mark.parametrize("kind", ["shutting-down", "overloaded"])
def test_a_job_that_was_not_begun_goes_to_another_and_has_not_failed(start_queue, put, bare_worker, wait_until, kind):
    it = start_queue()
    put(it, "job")
    worker = bare_worker(it)
    worker.answer(worker.job(), *problem(kind))
    wait_until(lambda: counts(it) == {"waiting": 1})
    assert not worker.has_job()  # it gets nothing more until it is ready
    other = bare_worker(it)
    job = other.job()
    assert attempt(job) == 2
    assert it.server("jobs").jobs[Metadata.find(job[:1]).request_id].failures == 0
    other.answer(job)
    assert it.server("jobs").workers.credit == 1


def test_more_failures_than_a_float_can_count_doublings_of_a_delay(start_queue, put, bare_worker, settled):
    it = start_queue(max_tries=10_000, retry_delay=0)
    put(it, "stubborn")
    worker = bare_worker(it)
    [job] = it.server("jobs").jobs._jobs.values()
    job.failures = 5000
    worker.answer(worker.job(), *problem("broken", 500))
    assert worker.text() == "stubborn"
    settled(it)


def test_the_late_answer_of_a_worker_counts_although_another_one_has_the_job(
    start_queue, put, bare_worker, settled, wait_until
):
    it = start_queue()
    put(it, "job")
    late, other = bare_worker(it), bare_worker(it)
    job = late.job()
    it.server("jobs")._lose(next(iter(it.server("jobs").workers._workers)), "says the test")
    again = other.job()
    assert attempt(again) == 2
    late.answer(job, *problem("broken", 500))  # it has no say any more in whether it failed
    late.answer(job)
    settled(it)
    put(it, "next")
    other.answer(again)
    assert other.text() == "next"
    settled(it)


def test_answers_that_nobody_waits_for_change_nothing(start_queue, put, bare_worker, settled):
    it = start_queue()
    worker = bare_worker(it)
    for number in (0, -1, 2**63, "x", None):
        frame = Metadata(number).to_frame()
        worker.answer([frame, b"", b""])
        worker.answer([frame, b"", b""], *problem("broken", 500))
        worker.answer([frame, b"", b""], *problem("handler-failed", 422))
    put(it, "job")
    assert worker.text() == "job"
    settled(it)


def test_the_deadline_that_a_worker_sends_back_does_not_matter(start_queue, put, bare_worker, settled):
    it = start_queue()
    put(it, "job")
    worker = bare_worker(it)
    number = Metadata.find(worker.job()[:1]).request_id
    worker.answer([Metadata(number, milliseconds_left=-5.0).to_frame(), b"", b""])
    put(it, "next")
    assert worker.text() == "next"
    settled(it)


def test_malformed_and_foreign_messages_hurt_nobody(start_queue, put, peer, bare_worker, settled):
    it = start_queue()
    stranger = peer("dealer", it.endpoint("jobs.work"))
    for frames in (
        [b"one"],
        [b"", b"", b"text/plain", b"hello"],
        [b"", b"", READY, b'{"credit": -1}'],
        [b"", b"", READY, b"\xff"],
        [b"", b"", READY, b"[]"],
        [b"DPL1\xff", b"", b"", b"text/plain", b"hello"],
        [b"", b"\xff", b"text/plain", b"hello"],
    ):
        stranger.send(*frames)
    putter = peer("dealer", it.endpoint("jobs.put"))
    putter.send(b"", b"\xff", b"text/plain", b"no id")
    assert putter.problem_in(putter.receive())["type"] == "urn:dploylib:malformed-envelope"
    admin = peer("req", it.endpoint("jobs.admin"))
    assert admin.ask_problem(b"", b"application/json", b'{"do": "explode"}')["status"] == 422
    assert put(it, "job")
    assert bare_worker(it).text() == "job"
    settled(it)


def test_the_admin_is_told_when_there_is_no_such_job(start_queue, put, admin):
    it = start_queue()
    number = put(it, "waiting")
    for job in (None, "", "x", number, "9" * 20, "9" * 10_000):
        for do in ("retry", "discard"):
            with pytest.raises(RemoteError) as refused:
                admin(it, do=do, job=job)
            assert refused.value.type == "urn:dploylib:invalid-data"
    status = admin(it)
    assert status == {"waiting": 1, "held": 0, "delayed": 0, "dead": 0, "bytes": 17, "workers": 0, "credit": 0}


# Workers that go ----------------------------------------------------------------------------------------------------


def test_what_a_worker_held_that_was_killed_goes_to_another_and_says_so(start_queue, put, worker_process, bare_worker):
    it = start_queue()
    worker = worker_process("worker.py", it.endpoint("jobs.work"))
    assert worker.line() == "ready"
    for text in ("hold", "1", "2"):
        put(it, text)
    assert worker.line() == "hold 1"
    worker.signal(signal.SIGKILL)
    other = bare_worker(it, 3)
    jobs = [other.job() for _ in range(3)]
    assert [(job[-1], attempt(job)) for job in jobs] == [(b"hold", 2), (b"1", 2), (b"2", 2)]


def test_what_a_worker_held_that_stands_still_goes_to_another(
    start_queue, put, worker_process, bare_worker, wait_until
):
    it = start_queue(worker_timeout=2)
    worker = worker_process("worker.py", it.endpoint("jobs.work"))
    assert worker.line() == "ready"
    put(it, "hold")
    assert worker.line() == "hold 1"
    worker.signal(signal.SIGSTOP)
    other = bare_worker(it)
    while not other.peer.zmq_socket.poll(200):
        other.ready(1)
    assert attempt(other.job()) == 2
    worker.signal(signal.SIGCONT)
    wait_until(lambda: it.server("jobs").workers.credit >= 3)  # it is back, as a new one


def test_a_worker_that_closes_is_missed_within_some_seconds(start_queue, put, bare_worker):
    it = start_queue()
    put(it, "job")
    gone = bare_worker(it)
    gone.job()
    gone.close()
    assert attempt(bare_worker(it).job()) == 2


def test_a_worker_with_more_credit_than_it_reads_leaves_the_rest_to_others(
    start_queue, bare_worker, settled, wait_until
):
    it = start_queue(max_jobs=10_000)
    client = it.client("jobs.put")
    for group in range(5):
        asked = [gevent.spawn(client.request, b"." * 10_000, id=f"{group} {number}") for number in range(1000)]
        gevent.joinall(asked, timeout=10, raise_error=True)
    deaf = bare_worker(it, 100_000, rcvhwm=1, rcvbuf=4096)
    wait_until(lambda: it.server("jobs").counts["work"].handled and counts(it).get("held"))
    held = counts(it)["held"]
    assert 0 < held < 5000
    other = bare_worker(it, 50)
    for _ in range(5000 - held):
        other.text()
    wait_until(lambda: counts(it) == {"held": held})
    seen = {deaf.job()[2] for _ in range(held)}
    assert len(seen) == held


# Restarts and stops -----------------------------------------------------------------------------------------------


class Counting(Worker):
    concurrency = 2
    prefetch = 2

    def setup(self):
        super().setup()
        self.done = []

    def work(self, received):
        gevent.sleep(0)
        self.done.append((received.text, received.metadata.attempt))


def worker_service(cls=Counting):
    service = Service()
    service.add_server("worker", cls)
    return service


@pytest.mark.parametrize("durable", [False, True])
def test_all_goes_on_when_a_queue_comes_back_on_its_ports(
    ipc_dir, start_queue, service_runner, tmp_path, durable, wait_until
):
    ports = {name: {"uri": f"ipc://{ipc_dir}/{name}"} for name in ("put", "work")}
    settings = {"path": str(tmp_path / "jobs.db")} if durable else {}
    it = start_queue(**ports, **settings)
    workers = service_runner(worker_service(), worker={"jobs": ports["work"]}).server("worker")
    client = it.client("jobs.put", timeout=20)
    client.request("before", id="before", idempotent=True)
    wait_until(lambda: workers.done)
    it.service.stop()
    again = start_queue(**ports, **settings)
    client = again.client("jobs.put", timeout=20)
    for number in range(20):
        client.request(str(number), id=str(number), idempotent=True)
    wait_until(lambda: len({text for text, _ in workers.done}) == 21)
    assert Counter(text for text, _ in workers.done).most_common(1)[0][1] == 1
    wait_until(lambda: len(again.server("jobs").jobs) == 0)
    if durable:
        client.request("once more", id="before", idempotent=True)  # it is known from before
        assert len(again.server("jobs").jobs) == 0


def test_what_was_held_when_a_queue_stopped_is_in_its_file_and_is_handed_out_again(
    start_queue, put, bare_worker, tmp_path, admin
):
    it = start_queue(path=str(tmp_path / "jobs.db"))
    number = put(it, "job")
    bare_worker(it).job()
    it.service.stop()
    again = start_queue(path=str(tmp_path / "jobs.db"))
    job = bare_worker(again).job()
    assert (attempt(job), str(Metadata.find(job[:1]).request_id)) == (2, number)
    assert again.server("jobs").jobs[int(number)].failures == 0


def test_an_answer_to_the_queue_that_was_there_before_counts(start_queue, put, bare_worker, tmp_path):
    it = start_queue(path=str(tmp_path / "jobs.db"))
    put(it, "job")
    job = bare_worker(it).job()
    it.service.stop()
    again = start_queue(path=str(tmp_path / "jobs.db"))
    worker = bare_worker(again, 0)
    worker.answer(job)
    worker.ready(1)
    put(again, "next")
    assert worker.text() == "next"


def test_a_worker_that_stops_finishes_what_it_has_begun_and_the_rest_is_no_failure(
    start_queue, service_runner, put, bare_worker, wait_until, settled
):
    class Slow(Counting):
        concurrency = 1

        def work(self, received):
            self.done.append(received.text)
            while not self.stopping:
                gevent.sleep(0.001)

    it = start_queue()
    running = service_runner(worker_service(Slow), worker={"jobs": {"uri": it.endpoint("jobs.work")}})
    slow = running.server("worker")
    for number in range(3):
        put(it, str(number))
    wait_until(lambda: counts(it) == {"held": 3} and slow.done)
    running.service.stop(10)
    wait_until(lambda: counts(it) == {"waiting": 2})
    assert [job.failures for job in it.server("jobs").jobs._jobs.values()] == [0, 0]
    other = bare_worker(it)
    assert [other.text(), other.text()] == ["1", "2"]
    settled(it)
    assert slow.done == ["0"]


# The Worker class -------------------------------------------------------------------------------------------------


class Build(Worker):
    deserializer = dict[str, str]
    concurrency = 3

    def setup(self):
        super().setup()
        self.seen, self.errors, self.at_once, self.most = [], [], 0, 0

    def work(self, received):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            self.seen.append((received.obj["do"], received.metadata.attempt))
            if received.obj["do"] == "raise" and received.metadata.attempt < 3:
                raise RuntimeError("not yet")
            if received.obj["do"] == "hang" and received.metadata.attempt < 2:
                gevent.sleep(1000)
            gevent.sleep(0.01)
            return received.obj
        finally:
            self.at_once -= 1

    def on_error(self, socket, received, error):
        self.errors.append(type(error).__name__)


def test_a_worker_does_what_its_class_says(start_queue, service_runner, put, settled, admin):
    it = start_queue(**FAST)
    at = {"uri": it.endpoint("jobs.work"), "timeout": 1}
    worker = service_runner(worker_service(Build), worker={"jobs": at}).server("worker")
    for do in ("raise", "hang", *"abcdef"):
        put(it, json.dumps({"do": do}), mimetype=b"application/json")
    put(it, '{"do": 1}', mimetype=b"application/json")
    settled(it, dead=1)
    assert Counter(do for do, _ in worker.seen) == {"raise": 3, "hang": 2, **dict.fromkeys("abcdef", 1)}
    assert Counter(worker.errors) == {"RuntimeError": 2, "HandlerTimeout": 1, "InvalidData": 1}
    assert worker.most == 3
    [dead] = admin(it, do="dead")
    assert "$[...]" in dead["reason"]


def test_many_workers_share_the_jobs_and_each_is_done_once(start_queue, service_runner, wait_until, settled):
    it = start_queue()
    service = Service()
    for number in range(10):
        service.add_server(f"worker{number}", Counting)
    at = {"jobs": {"uri": it.endpoint("jobs.work")}}
    running = service_runner(service, **{f"worker{number}": at for number in range(10)})
    wait_until(lambda: len(it.server("jobs").workers) == 10)
    client = it.client("jobs.put")
    asked = [gevent.spawn(client.request, str(number)) for number in range(500)]
    gevent.joinall(asked, timeout=10, raise_error=True)
    settled(it)
    done = [running.server(f"worker{number}").done for number in range(10)]
    assert Counter(one for some in done for one in some) == {(str(number), 1): 1 for number in range(500)}
    assert all(done)


def test_a_worker_with_a_routing_id_of_its_own_is_refused(service_runner):
    options = {"options": {"routing_id": "me"}}
    with pytest.raises(DeclarationError, match="no routing_id of its own"):
        service_runner(worker_service(), worker={"jobs": options})


def test_a_worker_of_several_queues_is_refused(service_runner):
    with pytest.raises(DeclarationError, match="a worker has one endpoint"):
        service_runner(worker_service(), worker={"jobs": {"uri": ["inproc://one", "inproc://two"]}})


def test_the_handler_of_a_worker_can_be_called_without_a_queue():
    class Upper(Worker):
        def work(self, received):
            return f"{received.text.upper()} {received.metadata.attempt}"

    job = Envelope.new("text/plain", "hello", request_frames=[Metadata(1, attempt=2).to_frame()])
    assert call_handler(Upper, "jobs", job).reply.text == "HELLO 2"
    assert call_handler(Upper, "jobs", Envelope.new("application/vnd.dploylib.heartbeat", "")).reply is None

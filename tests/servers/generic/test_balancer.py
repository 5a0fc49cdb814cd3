"""A balancer, who asks it, and the workers behind it."""

import signal
from collections import Counter

import gevent
import pytest

from dploylib import RequestClient, Service
from dploylib.errors import RemoteError, RequestTimeout
from dploylib.servers.generic import BalancerServer, Worker
from dploylib.transport import Metadata
from tests.servers.generic.bare import problem


class Upper(Worker):
    concurrency = 4
    prefetch = 4

    def setup(self):
        super().setup()
        self.done = []

    def work(self, received):
        gevent.sleep(0.001)
        self.done.append(received.text)
        return received.text.upper()


def upper(cls=Upper):
    service = Service()
    service.add_server("worker", cls)
    return service


def asking(client, count, **options):
    return [gevent.spawn(client.request, f"r{number}", **options) for number in range(count)]


@pytest.fixture
def ask(peer):
    """`ask(it, "text")`: a bare REQ that has asked, and can receive the answer."""

    def ask(it, text):
        req = peer("req", it.endpoint("front.request"))
        req.send(b"id", b"text/plain", text.encode())
        return req

    return ask


def test_a_request_and_its_answer_pass_as_they_are(start_balancer, bare_worker, ask):
    it = start_balancer()
    caller = ask(it, "hello")
    worker = bare_worker(it)
    job = worker.job()
    assert job[1:] == [b"", b"id", b"text/plain", b"hello"]
    worker.answer(job, b"text/x", b"\xff\x00")
    assert caller.receive() == [b"id", b"text/x", b"\xff\x00"]


def test_the_worker_that_had_nothing_to_do_for_the_longest_time_is_next(start_balancer, bare_worker, ask, wait_until):
    it = start_balancer()
    workforce = it.server("front").workers
    workers, callers = [], []
    for _ in range(3):
        workers.append(bare_worker(it))
        wait_until(lambda: workforce.credit == len(workers))

    def asked(text):
        callers.append(ask(it, text))
        wait_until(lambda: workforce.held == len(callers))

    for text in ("a", "b", "c"):
        asked(text)
    jobs = [worker.job() for worker in workers]
    assert [job[-1] for job in jobs] == [b"a", b"b", b"c"]
    for free in (1, 2, 0):
        workers[free].answer(jobs[free])
        callers.pop().zmq_socket.close(0)
        wait_until(lambda: workforce.held == len(callers))
    for text in ("d", "e", "f"):
        asked(text)
    assert [workers[free].text() for free in (1, 2, 0)] == ["d", "e", "f"]


def test_requests_wait_for_a_free_worker_in_their_order(start_balancer, bare_worker, ask, wait_until):
    it = start_balancer()
    front = it.server("front")
    callers = []
    for number in range(5):
        callers.append(ask(it, str(number)))
        wait_until(lambda: len(front._waiting) == len(callers))
    worker = bare_worker(it)
    assert [worker.text() for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert [caller.receive()[-1] for caller in callers] == [b"done"] * 5


def test_without_a_worker_the_deadline_of_the_caller_holds_and_there_is_a_limit_to_who_waits(
    start_balancer, wait_until
):
    it = start_balancer(request={"concurrency": 3})
    front = it.server("front")
    client = it.client("front.request", timeout=10)
    waiting = asking(client, 3, timeout=1)
    wait_until(lambda: len(front._waiting) == 3)
    with pytest.raises(RemoteError) as refused:
        client.request("one too many")
    assert refused.value.type == "urn:dploylib:overloaded"
    for one in waiting:
        with pytest.raises((RequestTimeout, RemoteError)):
            one.get(timeout=10)
    wait_until(lambda: not front._waiting and not front._requests)


def test_callers_that_give_up_leave_nothing_behind(start_balancer, bare_worker, wait_until):
    it = start_balancer()
    front = it.server("front")
    client = it.client("front.request")
    for _ in range(3):
        for one in asking(client, 100, timeout=0.05):
            with pytest.raises((RequestTimeout, RemoteError)):
                one.get(timeout=10)
    wait_until(lambda: not front._waiting and not front._requests)
    worker = bare_worker(it)
    answer = gevent.spawn(client.request, "alive", timeout=10)
    assert worker.text() == "alive"
    assert answer.get(timeout=10).text == "done"


def test_a_worker_that_answers_after_the_deadline_gets_the_next_request(start_balancer, bare_worker, wait_until):
    it = start_balancer()
    front = it.server("front")
    client = it.client("front.request")
    impatient = gevent.spawn(client.request, "late", timeout=0.05)
    worker = bare_worker(it)
    job = worker.job()
    with pytest.raises((RequestTimeout, RemoteError)):
        impatient.get(timeout=10)
    wait_until(lambda: not front._requests)
    number = Metadata.find(job[:1]).request_id
    job[0] = Metadata(
        number, milliseconds_left=-1.0
    ).to_frame()  # as it is when the request was sent at the last moment
    worker.answer(job)
    patient = gevent.spawn(client.request, "next")
    assert worker.text() == "next"
    assert patient.get(timeout=10).text == "done"


def test_a_request_that_a_worker_did_not_begin_goes_to_another(start_balancer, bare_worker, ask):
    it = start_balancer()
    caller = ask(it, "hello")
    leaving = bare_worker(it)
    leaving.answer(leaving.job(), *problem("shutting-down"))
    other = bare_worker(it)
    job = other.job()
    assert Metadata.find(job[:1]).attempt == 2
    leaving.answer(job)  # which it has no say in any more
    other.answer(job, body=b"from the other")
    assert caller.receive()[-1] == b"from the other"


def test_a_problem_of_a_worker_is_that_of_the_caller_and_one_of_a_caller_is_refused(
    start_balancer, bare_worker, ask, peer
):
    it = start_balancer()
    caller = ask(it, "hello")
    worker = bare_worker(it)
    worker.answer(worker.job(), *problem("invalid-data", 422))
    assert caller.problem_in(caller.receive())["status"] == 422
    mimetype, body = problem("bad")
    refused = peer("req", it.endpoint("front.request")).ask_problem(b"", mimetype, body)
    assert refused["type"] == "urn:dploylib:invalid-data"


def test_who_asked_a_worker_that_is_killed_is_told_and_others_go_on(start_balancer, worker_process, bare_worker, ask):
    it = start_balancer()
    doomed = worker_process("worker.py", it.endpoint("front.work"))
    assert doomed.line() == "ready"
    unlucky = ask(it, "hold")
    assert doomed.line() == "hold 1"
    lucky = ask(it, "hello")
    doomed.signal(signal.SIGKILL)
    lost = [unlucky.problem_in(unlucky.receive())]
    assert [(one["type"], one["status"]) for one in lost] == [("urn:dploylib:worker-lost", 503)]
    assert lucky.problem_in(lucky.receive())["type"] == "urn:dploylib:worker-lost"  # it was on its way to the same one
    other = bare_worker(it)
    third = ask(it, "again")
    assert other.text() == "again"
    assert third.receive()[-1] == b"done"


def test_a_worker_that_stops_under_load_loses_no_request(start_balancer, service_runner):
    it = start_balancer()
    at = {"jobs": {"uri": it.endpoint("front.work")}}
    stays = service_runner(upper(), worker=at)
    goes = service_runner(upper(), worker=at)
    client = it.client("front.request", timeout=20)
    over, answers = [], Counter()

    def ask_on(number):
        while not over:
            answers[client.request(f"r{number}").text] += 1

    callers = [gevent.spawn(ask_on, number) for number in range(30)]
    for _ in range(3):
        done = goes.server("worker").done
        with gevent.Timeout(10):
            while len(done) < 50:
                gevent.sleep(0.002)
        goes.service.stop(10)
        goes = service_runner(upper(), worker=at)
    over.append(True)
    gevent.joinall(callers, timeout=20, raise_error=True)
    assert answers.keys() == {f"R{number}" for number in range(30)}
    assert stays.server("worker").done


def test_who_has_asked_a_balancer_that_stops_is_answered(start_balancer, service_runner, wait_until):
    it = start_balancer()
    running_worker = service_runner(upper(), worker={"jobs": {"uri": it.endpoint("front.work")}})
    client = it.client("front.request", timeout=10, retries=0)  # else it would wait for the balancer to come back
    callers = asking(client, 200)
    wait_until(lambda: running_worker.server("worker").done)
    it.service.stop(10)
    gevent.joinall(callers)
    kinds = Counter(
        caller.value.text[0] if caller.successful() else getattr(caller.exception, "type", repr(caller.exception))
        for caller in callers
        if getattr(caller.exception, "sent", True)  # what had not left this process was never asked
    )
    assert set(kinds) <= {"R", "urn:dploylib:shutting-down"}
    assert kinds["R"]


def test_a_service_whose_workers_stop_too_does_not_wait_for_them(service_runner, ask, wait_until):
    class UntilTheStop(Worker):
        def work(self, received):
            while not self.stopping:
                gevent.sleep(0.001)
            return "done"

    service = Service()
    service.add_server("front", BalancerServer)
    service.add_server("worker", UntilTheStop)
    it = service_runner(service, front={"work": {"uri": "inproc://work"}}, worker={"jobs": {"uri": "inproc://work"}})
    callers = [ask(it, "1"), ask(it, "2")]
    front = it.server("front")
    wait_until(lambda: len(front._waiting) == 1 and front.workers.held == 1)
    with gevent.Timeout(20):  # far less than the stop may take
        service.stop(600)
    done, told = sorted((caller.receive() for caller in callers), key=lambda frames: frames[-1] != b"done")
    assert done[-1] == b"done"
    assert callers[0].problem_in(told)["type"] == "urn:dploylib:shutting-down"


def test_many_ask_many_workers(start_balancer, service_runner, wait_until):
    it = start_balancer()
    service = Service()
    for number in range(5):
        service.add_server(f"worker{number}", Upper)
    at = {"jobs": {"uri": it.endpoint("front.work")}}
    workers = service_runner(service, **{f"worker{number}": at for number in range(5)})
    with RequestClient(it.endpoint("front.request"), timeout=20) as client:
        callers = asking(client, 900)
        gevent.joinall(callers, timeout=20, raise_error=True)
    assert [caller.value.text for caller in callers] == [f"R{number}" for number in range(900)]
    assert sum(len(workers.server(f"worker{number}").done) for number in range(5)) == 900
    assert not it.server("front")._requests
    wait_until(lambda: it.server("front").workers.held == 0)

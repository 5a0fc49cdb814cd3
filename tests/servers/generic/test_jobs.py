"""Jobs and workers, without any I/O: which job is next, what becomes of it, and who gets it."""

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from dploylib.servers.generic.jobs import STATES, Job, JobQueue, QueueFull, TooLarge
from dploylib.servers.generic.workforce import Workforce

HOLDERS = st.sampled_from([b"one", b"two"])
IDS = st.sampled_from([b"", b"", b"a", b"b", b"c"])
MAX_JOBS, MAX_BYTES, MAX_TRIES, REMEMBERED = 6, 60, 3, 2


class Entry:
    """What the model knows of a job."""

    def __init__(self, number, frames, priority):
        self.number, self.frames, self.priority = number, frames, priority
        self.state, self.holder, self.deliveries, self.failures = "waiting", None, 0, 0


class JobQueueMachine(RuleBasedStateMachine):
    """A `JobQueue` beside a model of it: a list that is sorted and searched."""

    numbers = Bundle("numbers")

    @initialize()
    def begin(self):
        self.queue = JobQueue(MAX_JOBS, MAX_BYTES, MAX_TRIES, REMEMBERED)
        self.entries: dict[int, Entry] = {}
        self.finished: OrderedDict[bytes, int] = OrderedDict()
        self.ever: set[int] = set()

    def matches(self, job, entry):
        assert (job is None) == (entry is None)
        if job is not None:
            assert (job.number, job.state, job.holder) == (entry.number, entry.state, entry.holder)
            assert (job.deliveries, job.failures) == (entry.deliveries, entry.failures)
            assert (job.frames, job.priority) == (entry.frames, entry.priority)

    def entry(self, number, state, holder=None):
        found = self.entries.get(number)
        return found if found is not None and (found.state, found.holder) == (state, holder) else None

    @rule(target=numbers, id=IDS, size=st.integers(0, 20), priority=st.integers(-1, 1))
    def put(self, id, size, priority):
        known = self.queue.find(id)
        model = {entry.frames[0]: entry.number for entry in self.entries.values() if id} | self.finished
        assert known == (model.get(id) if id else None)
        if known is not None:
            return known
        frames = (id, b"t", b"." * size)
        full = len(self.entries) >= MAX_JOBS or self.bytes() + len(id) + 1 + size > MAX_BYTES
        try:
            job = self.queue.put(frames, priority)
        except QueueFull:
            assert full
            return -1
        assert not full
        assert job.number not in self.ever
        self.ever.add(job.number)
        self.entries[job.number] = entry = Entry(job.number, frames, priority)
        self.matches(job, entry)
        return job.number

    @rule(holder=HOLDERS)
    def take(self, holder):
        waiting = [entry for entry in self.entries.values() if entry.state == "waiting"]
        entry = min(waiting, key=lambda entry: (-entry.priority, entry.number), default=None)
        if entry is not None:
            entry.state, entry.holder = "held", holder
            entry.deliveries += 1
        self.matches(self.queue.take(holder), entry)

    @rule(number=numbers)
    def done(self, number):
        entry = self.entries.get(number)
        self.finish(entry)
        job = self.queue.done(number)
        assert (job and job.number) == (entry and entry.number)

    @rule(number=numbers, holder=HOLDERS)
    def give_back(self, number, holder):
        entry = self.entry(number, "held", holder)
        if entry is not None:
            entry.state, entry.holder = "waiting", None
        self.matches(self.queue.give_back(number, holder), entry)

    @rule(number=numbers, holder=HOLDERS, for_good=st.booleans())
    def fail(self, number, holder, for_good):
        entry = self.entry(number, "held", holder)
        if entry is not None:
            entry.failures += 1
            entry.holder = None
            entry.state = "dead" if for_good or entry.failures >= MAX_TRIES else "delayed"
        job = self.queue.fail(number, holder, f"{holder!r} failed", for_good)
        self.matches(job, entry)
        assert job is None or job.reason == f"{holder!r} failed"

    @rule(number=numbers)
    def retry(self, number):
        entry = self.entry(number, "delayed")
        if entry is not None:
            entry.state = "waiting"
        self.matches(self.queue.retry(number), entry)

    @rule(number=numbers)
    def revive(self, number):
        entry = self.entry(number, "dead")
        if entry is not None:
            entry.state, entry.failures = "waiting", 0
        self.matches(self.queue.revive(number), entry)

    @rule(number=consumes(numbers))
    def discard(self, number):
        entry = self.entry(number, "dead")
        if entry is not None:
            del self.entries[number]
        job = self.queue.discard(number)
        assert (job and job.number) == (entry and entry.number)

    @rule()
    def restart(self):
        """What a queue with a file does: what was held or delayed waits."""
        jobs = []
        for entry in self.entries.values():
            job = Job(entry.number, entry.frames, entry.priority)
            job.deliveries, job.failures = entry.deliveries, entry.failures
            job.state = entry.state = "dead" if entry.state == "dead" else "waiting"
            entry.holder = None
            jobs.append(job)
        self.queue = JobQueue(MAX_JOBS, MAX_BYTES, MAX_TRIES, REMEMBERED, jobs, self.finished.items())

    def finish(self, entry):
        if entry is not None:
            del self.entries[entry.number]
            if entry.frames[0]:
                self.finished[entry.frames[0]] = entry.number
                while len(self.finished) > REMEMBERED:
                    self.finished.popitem(last=False)

    def bytes(self):
        return sum(len(b"".join(entry.frames)) for entry in self.entries.values())

    @invariant()
    def nothing_is_lost_and_everything_is_counted(self):
        assert len(self.queue) == len(self.entries)
        assert self.queue.bytes == self.bytes()
        states = [entry.state for entry in self.entries.values()]
        assert {state: self.queue.counts[state] for state in STATES} == {state: states.count(state) for state in STATES}
        assert [job.number for job in self.queue.dead()] == sorted(
            entry.number for entry in self.entries.values() if entry.state == "dead"
        )
        for number, entry in self.entries.items():
            self.matches(self.queue[number], entry)


TestJobQueue = JobQueueMachine.TestCase
TestJobQueue.settings = settings(max_examples=60, stateful_step_count=40)


def queue_of(*jobs, max_jobs=10, max_bytes=1000):
    return JobQueue(max_jobs, max_bytes, 3, 10, jobs)


def test_a_job_that_never_fits_is_something_else_than_a_full_queue():
    queue = queue_of(max_bytes=10)
    with pytest.raises(TooLarge, match="a job of 11 bytes is more than the 10"):
        queue.put((b"", b"t", b"." * 10))
    assert queue.put((b"", b"t", b"." * 9)).number


@pytest.mark.parametrize("priority", [None, "5", 1.5, float("nan"), 2**63, -(2**63)])
def test_a_priority_that_cannot_be_kept_leaves_no_job_behind(priority):
    queue = queue_of()
    with pytest.raises(ValueError, match="an integer of 64 bits"):
        queue.put((b"id", b"t", b""), priority)
    assert (len(queue), queue.find(b"id"), queue.bytes) == (0, None, 0)


def test_a_full_queue_says_how_many_of_its_jobs_are_dead():
    queue = queue_of(max_jobs=1)
    queue.put((b"", b"t", b""))
    queue.fail(queue.take(b"one").number, b"one", "it is bad", for_good=True)
    with pytest.raises(QueueFull, match="1 jobs with 1 bytes, 1 of which failed for good"):
        queue.put((b"", b"t", b""))


def test_numbers_go_on_after_those_that_were_there():
    queue = JobQueue(10, 1000, 3, 10, [Job(7, (b"", b"t", b""))], [(b"done", 2**40)])
    assert queue.put((b"", b"t", b"")).number > 2**40


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def handed_out(workforce, count):
    """To whom the next jobs go."""
    got = []
    for number in range(1000, 1000 + count):
        worker = workforce.next()
        if worker is not None:
            workforce.hold(worker, number)
        got.append(worker)
    return got


def test_workers_take_turns_and_none_gets_more_than_its_credit():
    workforce = Workforce()
    workforce.ready(b"one", 1)
    workforce.ready(b"three", 3)
    workforce.ready(b"none", 0)
    assert handed_out(workforce, 5) == [b"one", b"three", b"three", b"three", None]
    assert (workforce.held, workforce.credit, len(workforce)) == (4, 4, 3)


def test_a_worker_that_can_take_one_again_is_the_last_in_the_line():
    workforce = Workforce()
    for worker in (b"one", b"two", b"three"):
        workforce.ready(worker, 1)
    workforce.hold(b"one", 1)
    workforce.release(b"one", 1)
    assert handed_out(workforce, 4) == [b"two", b"three", b"one", None]


def test_to_say_again_that_it_is_ready_changes_no_ones_turn():
    workforce = Workforce()
    for worker in (b"one", b"two", b"one"):
        workforce.ready(worker, 2)
    assert handed_out(workforce, 4) == [b"one", b"two", b"one", b"two"]


def test_a_worker_with_less_credit_than_it_holds_gets_nothing_until_it_holds_less():
    workforce = Workforce()
    workforce.ready(b"one", 2)
    workforce.hold(b"one", 1)
    workforce.hold(b"one", 2)
    workforce.ready(b"one", 1)
    workforce.release(b"one", 1)
    assert workforce.next() is None
    workforce.release(b"one", 2)
    assert workforce.next() == b"one"


def test_a_worker_that_pauses_keeps_what_it_holds_and_goes_on_when_it_is_ready():
    workforce = Workforce()
    workforce.ready(b"one", 2)
    workforce.hold(b"one", 1)
    workforce.pause(b"one")
    assert (workforce.next(), workforce.holds(b"one", 1)) == (None, True)
    workforce.release(b"one", 1)
    assert workforce.next() is None
    workforce.ready(b"one", 2)
    assert workforce.next() == b"one"


def test_what_a_worker_held_is_known_when_it_is_gone():
    workforce = Workforce()
    workforce.ready(b"one", 3)
    handed_out(workforce, 2)
    assert workforce.remove(b"one") == {1000, 1001}
    assert workforce.remove(b"one") == set()
    assert (b"one" in workforce, workforce.next(), workforce.held) == (False, None, 0)


def test_who_is_not_known_changes_nothing():
    workforce = Workforce()
    workforce.pause(b"nobody")
    workforce.release(b"nobody", 1)
    assert (len(workforce), workforce.holds(b"nobody", 1), workforce.next()) == (0, False, None)


def test_a_worker_is_silent_when_it_neither_is_ready_nor_answers():
    clock = Clock()
    workforce = Workforce(clock)
    for worker in (b"answers", b"announces", b"silent"):
        workforce.ready(worker, 1)
    clock.now += 5
    workforce.release(b"answers", 1)
    workforce.ready(b"announces", 1)
    assert workforce.silent(5) == [b"silent"]
    clock.now += 5
    assert sorted(workforce.silent(5)) == [b"announces", b"answers", b"silent"]

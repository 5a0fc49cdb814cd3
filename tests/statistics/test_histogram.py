"""Histograms: what is read from them, and that those of several processes add up."""

import math
import struct
import threading

import gevent.monkey
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.statistics import Histogram, Timings

computes = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

DURATIONS = st.floats(1e-7, 1e5)
SEVERAL = st.lists(DURATIONS, max_size=30)
SOME = st.lists(DURATIONS, min_size=1, max_size=30)
WITHIN = 0.016  # of what was recorded


def recorded(seconds):
    made = Histogram()
    for one in seconds:
        made.record(one)
    return made


@computes
@given(SOME, st.floats(0, 1))
def test_a_quantile_is_within_1_6_percent_of_what_was_recorded(seconds, share):
    exact = sorted(seconds)[max(1, math.ceil(len(seconds) * share)) - 1]
    assert recorded(seconds).quantile(share) == pytest.approx(exact, rel=WITHIN)


@computes
@given(SEVERAL, SEVERAL)
def test_two_together_are_one_in_which_everything_was_recorded(one, other):
    both, sums = recorded(one + other), recorded(one) + recorded(other)
    assert sums.counts == both.counts
    assert sums.sum == pytest.approx(both.sum)


@computes
@given(SEVERAL, SEVERAL)
def test_the_difference_to_an_earlier_state_is_what_was_recorded_since(before, since):
    difference = recorded(before + since) - recorded(before)
    assert difference.counts == recorded(since).counts
    assert difference.sum == pytest.approx(sum(since), rel=1e-6, abs=1e-6)


@computes
@given(SEVERAL, SEVERAL)
def test_adding_changes_neither(one, other):
    first, second = recorded(one), recorded(other)
    first + second, first - second
    assert (first.counts, second.counts) == (recorded(one).counts, recorded(other).counts)


def single(seconds):
    """The float of 32 bits that is nearest: as such, durations are noted."""
    return struct.unpack("f", struct.pack("f", seconds))[0]


@computes
@given(SEVERAL, st.lists(st.integers(-20, 16), min_size=1, max_size=5))
def test_what_is_below_a_power_of_two_is_known_exactly(seconds, exponents):
    bounds = [2.0**exponent for exponent in exponents]
    around = [single(one) for one in (*seconds, *bounds, *(bound * (1 - 2.0**-24) for bound in bounds))]
    assert recorded(around).below(bounds) == [sum(one < bound for one in around) for bound in bounds]


@computes
@given(SOME, DURATIONS)
def test_what_is_below_another_bound_is_known_but_for_its_bucket(seconds, bound):
    [found] = recorded(seconds).below([bound])
    assert sum(one < bound / 1.04 for one in seconds) <= found <= sum(one < bound * 1.04 for one in seconds)


@computes
@given(SEVERAL)
def test_it_is_the_same_when_it_comes_back_as_json(seconds):
    made = recorded(seconds)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Histogram) == made


@computes
@given(SEVERAL)
def test_timings_count_as_a_histogram_does(seconds):
    timings = Timings()
    for one in seconds:
        timings.note(one)
    found = timings.count()
    assert found.counts == recorded(seconds).counts
    assert found.sum == pytest.approx(sum(seconds))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Histogram) == found
    assert timings.count() == found, "counting changes nothing"


@computes
def test_an_empty_one_tells_nothing():
    empty = Histogram()
    assert (empty.count, empty.mean, empty.sum, empty.quantile(0.5), empty.below([1.0])) == (0, 0, 0, 0, [0])


@computes
def test_what_took_no_time_or_very_long_is_counted_too():
    made = recorded([0.0, 1e9])
    assert made.count == 2
    assert made.quantile(0) < 1e-30
    assert made.quantile(1) == pytest.approx(1e9, rel=WITHIN)
    assert made.mean == 5e8


def test_a_thread_counts_while_others_note_and_nothing_is_lost_or_counted_twice():
    start_new_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    allocate_lock = gevent.monkey.get_original("_thread", "allocate_lock")
    timings, each, noters = Timings(), 20_000, 2
    ended = [allocate_lock() for _ in range(noters)]

    def note(lock):
        for _ in range(each):
            timings.note(0.001)
        lock.release()

    for lock in ended:
        lock.acquire()
        start_new_thread(note, (lock,))
    counts = [0]
    while any(lock.locked() for lock in ended):
        counts.append(timings.count().count)
    found = timings.count()
    assert found.count == each * noters
    assert found.sum == pytest.approx(each * noters * 0.001)
    assert counts == sorted(counts)


def test_what_was_told_of_timings_does_not_change_any_more():
    timings = Timings()
    timings.note(1.0)
    before = timings.count()
    timings.note(1.0)
    after = timings.count()
    assert (before.count, after.count, (after - before).count) == (1, 2, 1)


@computes
def test_several_threads_may_count():
    timings, barrier = Timings(), threading.Barrier(4)
    for _ in range(1000):
        timings.note(0.5)

    def count():
        barrier.wait()
        timings.count()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert timings.count().count == 1000

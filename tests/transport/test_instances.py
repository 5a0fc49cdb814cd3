"""The objects of this process, by their type."""

import sys
import threading

import pytest
from gevent.monkey import get_original

from dploylib.transport.instances import all_instances


class Thing:
    pass


class Other(Thing):
    pass


class Liar:
    """Says that it is a thing, as proxies do."""

    @property
    def __class__(self):
        raise RuntimeError("do not ask me")


def test_instances_of_a_type_and_of_those_derived_from_it_are_found():
    things = [Thing(), Other()]
    assert set(all_instances(Thing)) == set(things)
    assert all_instances(Other) == things[1:]


def test_proxies_are_not_asked():
    liar = Liar()
    assert all_instances(Thing) == []
    assert type(liar) is Liar


@pytest.fixture
def eager_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_another_thread_may_make_tuples_meanwhile(eager_switches):
    failures, done = [], []

    def make():
        try:
            while not done:
                assert len(tuple(number for number in range(100))) == 100
        except SystemError as error:
            failures.append(error)

    started = get_original("_thread", "start_new_thread")
    gone = threading.Event()
    started(lambda: (make(), gone.set()), ())
    for _ in range(50):
        all_instances(Thing)
    done.append(True)
    assert gone.wait(30)
    assert failures == []

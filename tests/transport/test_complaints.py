"""What peers do wrong is told to the log: at once, all of it, and not again and again."""

import logging
import re

import gevent
import pytest

from dploylib.transport import complaints
from dploylib.transport.complaints import Complaints

log = logging.getLogger("tests.complaints")
PATIENCE = 10.0  # seconds


@pytest.fixture
def tells(monkeypatch, caplog):
    """An object that tells, with short intervals."""
    monkeypatch.setattr(complaints, "_INTERVAL", 0.01)
    monkeypatch.setattr(complaints, "_LONGEST_INTERVAL", 0.04)
    caplog.set_level(logging.INFO)
    made = Complaints(log)
    yield made
    made.close()
    made._greenlets.join()


def told(caplog, text: str) -> int:
    """How often the log says that this has happened."""
    lines = [message for message in caplog.messages if message.startswith(text)]
    counts = [re.search(r"\(and (\d+) more since\)", line) for line in lines]
    return sum(int(count[1]) if count else 1 for count in counts)


def wait_until(condition) -> None:
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.001)


def test_the_first_is_told_at_once_and_the_others_are_counted(tells, caplog):
    for _ in range(100):
        tells.tell("kind", "it is wrong")
    tells.tell("other", "something else", logging.INFO)
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("WARNING", "it is wrong"),
        ("INFO", "something else"),
    ]
    wait_until(lambda: told(caplog, "it is wrong") == 100)
    assert len(caplog.messages) == 3


def test_what_goes_on_is_told_less_and_less_often_until_it_is_over(tells, caplog):
    count = 0
    with gevent.Timeout(PATIENCE):
        while len(caplog.messages) < 5:
            tells.tell("kind", "it is wrong")
            count += 1
            gevent.sleep(0.001)
    wait_until(lambda: not tells._untold)  # nothing has happened for an interval
    assert told(caplog, "it is wrong") == count
    lines = len(caplog.messages)
    tells.tell("kind", "it is wrong")
    assert len(caplog.messages) == lines + 1  # at once again


def test_the_hub_may_tell_too(tells, caplog):
    gevent.get_hub().loop.run_callback(tells.tell, "kind", "said in the hub")
    wait_until(lambda: told(caplog, "said in the hub") == 1)


def test_what_was_not_told_is_told_at_the_end(monkeypatch, caplog):
    monkeypatch.setattr(complaints, "_INTERVAL", 3600.0)
    made = Complaints(log)
    for _ in range(7):
        made.tell("kind", "it is wrong")
    gevent.sleep(0)
    made.close()
    made._greenlets.join()
    assert told(caplog, "it is wrong") == 7


def test_nobody_fills_the_log_with_kinds_of_his_own(monkeypatch, caplog):
    monkeypatch.setattr(complaints, "_INTERVAL", 3600.0)
    monkeypatch.setattr(complaints, "_MOST_KINDS", 5)
    made = Complaints(log)
    for number in range(100):
        made.tell(f"kind {number}", f"it is wrong: {number}")
    assert len(caplog.messages) == 6
    gevent.sleep(0)
    made.close()
    made._greenlets.join()
    assert told(caplog, "it is wrong") == 100

"""`dploylib serve` under clients that never pause, while its processes come, go and are killed: see `rolling.py`."""

import os

import pytest

from tests.hard.rolling import EVENTS, NUMBER, roll

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

SECONDS = float(os.environ.get("HARD_SECONDS", "8"))
SHORT = ["hup", "hup", "ttin", "ttou", "kill", "usr2"]


@pytest.mark.timeout(SECONDS + 120)  # starting and stopping take theirs on a loaded machine
@pytest.mark.parametrize("balance", ["messages", "connections"])
def test_every_request_is_answered_while_processes_come_and_go(tmp_path, balance):
    said = roll(tmp_path, balance, SECONDS, EVENTS if "HARD_SECONDS" in os.environ else SHORT)
    assert said["requests"] >= 10 * NUMBER
    assert (said["answers"], said["wrong"]) == (said["requests"], 0)
    if balance == "messages":  # the clients are bare REQ sockets, and hear of it when their worker was killed
        assert said["silent"] == 0
        assert set(said["problems"]) <= {"Worker lost"}
    else:
        assert said["errors"] == {}

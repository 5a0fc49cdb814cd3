"""What a service counts is what its clients know, while one of its workers goes: see `figures.py`."""

import pytest

from tests.hard.figures import BALANCES, measure

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")


@pytest.mark.timeout(120)  # starting and stopping take theirs on a loaded machine
@pytest.mark.parametrize("balance", BALANCES)
def test_what_is_told_in_each_way_is_what_clients_know(tmp_path, balance):
    outcome = measure(tmp_path, balance, workers=2, requests=2000, outstanding=100, milliseconds=5)
    assert [one for one in outcome.counts if not one.right] == []
    assert sum(one.known for one in outcome.counts if one.title.endswith(" received")) == 2000

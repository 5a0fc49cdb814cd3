"""Rates from two snapshots of the statistics of a service."""

import pytest

from dploylib.control.rates import by_process, by_socket, process_rates, socket_rates
from dploylib.statistics import Connections, Histogram, ProcessStatistics, ServerStatistics, SocketStatistics

pytestmark = pytest.mark.once("pure functions")


def times(**counts):
    """A histogram: so many durations of so many milliseconds, `ms5=3`."""
    histogram = Histogram()
    for name, count in counts.items():
        for _ in range(count):
            histogram.record(int(name.removeprefix("ms")) / 1000)
    return histogram


def process(pid=1, taken=100.0, started=50.0, role="worker", instance=None, cpu=0.0, hub=None, **sockets):
    """The statistics of a process whose server `echo` has these sockets."""
    servers = {"echo": ServerStatistics(type="Echo", hub_delay=hub or Histogram(), sockets=sockets)}
    return ProcessStatistics(
        service="parrot",
        role=role,
        pid=pid,
        instance=instance or str(pid),
        version="1",
        state="running",
        started=started,
        taken=taken,
        cpu_seconds=cpu,
        resident=1000,
        servers=servers,
    )


def socket(received=0, type="rep", **counts):
    return SocketStatistics(type=type, received=received, handled=counts.pop("handled", received), **counts)


def test_counts_become_numbers_a_second():
    before = process(taken=100.0, request=socket(10, sent=5, failed=1, bytes_received=100))
    now = process(taken=102.0, request=socket(30, sent=25, failed=2, timed_out=1, bytes_received=300, bytes_sent=50))
    [rates] = socket_rates([before], [now])
    assert (rates.name, rates.type, rates.pid) == ("echo.request", "rep", 1)
    assert (rates.received, rates.handled, rates.sent, rates.errors) == (10, 10, 10, 1)
    assert (rates.bytes_received, rates.bytes_sent) == (100, 25)


def test_what_there_is_at_the_end_is_no_rate():
    connections = Connections(opened=7, closed=4)
    before = process(taken=100.0, request=socket(10, handled=0, connections=Connections(opened=9)))
    now = process(taken=101.0, request=socket(30, handled=25, connections=connections))
    [rates] = socket_rates([before], [now])
    assert (rates.in_flight, rates.connections) == (5, 3)


def test_times_are_those_of_the_interval():
    before = process(request=socket(100, handler_time=times(ms1=100)))
    now = process(taken=101.0, request=socket(110, handler_time=times(ms1=100, ms50=10)))
    [rates] = socket_rates([before], [now])
    assert rates.handler_time.count == 10
    assert rates.handler_time.quantile(0.5) == pytest.approx(0.05, rel=0.02)


def test_a_process_that_is_new_counts_from_its_start():
    [rates] = socket_rates([], [process(started=90.0, taken=100.0, request=socket(50, handler_time=times(ms1=50)))])
    assert rates.received == 5
    assert rates.handler_time.count == 50


def test_one_that_has_the_process_id_of_another_is_new():
    before = process(instance="a", request=socket(1000))
    now = process(instance="b", started=100.0, taken=101.0, request=socket(3))
    [rates] = socket_rates([before], [now])
    assert rates.received == 3


def test_counts_that_go_back_began_anew_and_are_never_negative():
    before = process(taken=100.0, request=socket(1000, failed=9, handler_time=times(ms50=9)))
    now = process(taken=102.0, request=socket(4, failed=2, handler_time=times(ms1=4)))
    [rates] = socket_rates([before], [now])
    assert (rates.received, rates.errors) == (2, 1)
    assert rates.handler_time.counts == times(ms1=4).counts


def test_nothing_has_happened_in_a_process_that_is_silent():
    silent = process(request=socket(1000, handled=990, handler_time=times(ms1=4)))
    [rates] = socket_rates([silent], [silent])
    assert (rates.received, rates.in_flight, rates.handler_time.count) == (0, 10, 0)


def test_processes_that_have_gone_are_no_more():
    gone = process(pid=0, role="gone", request=socket(1000))
    before = [process(pid=1, request=socket(1000)), process(pid=2, request=socket(10))]
    now = [gone, process(pid=2, taken=101.0, request=socket(20))]
    assert [(one.pid, one.received) for one in socket_rates(before, now)] == [(2, 10)]
    assert [one.pid for one in process_rates(before, now)] == [2]


def test_a_socket_that_is_new_counts_from_nothing():
    before, now = process(request=socket(10)), process(taken=102.0, request=socket(10), more=socket(6))
    assert [(one.socket, one.received) for one in socket_rates([before], [now])] == [("request", 0), ("more", 3)]


def test_they_add_up_by_socket_and_by_process():
    before = [process(pid=pid, request=socket(), news=socket(type="pub")) for pid in (1, 2)]
    now = [
        process(pid=1, taken=101.0, request=socket(10, handler_time=times(ms1=10)), news=socket(type="pub", sent=3)),
        process(
            pid=2,
            taken=102.0,
            request=socket(10, handled=8, handler_time=times(ms50=10), connections=Connections(opened=2)),
            news=socket(type="pub"),
        ),
    ]
    rates = socket_rates(before, now)
    request, news = by_socket(rates)
    assert (request.name, request.type, request.pid, request.received) == ("echo.request", "rep", 0, 15)
    assert (request.in_flight, request.connections, request.handler_time.count) == (2, 2, 20)
    assert (news.name, news.type, news.sent, news.connections) == ("echo.news", "pub", 3, None)
    processes = by_process(rates)
    assert {pid: (one.received, one.sent, one.name) for pid, one in processes.items()} == {
        1: (10, 3, "echo."),
        2: (5, 0, "echo."),
    }


def test_a_process_has_its_share_of_a_processor_and_the_delays_of_its_hub():
    before = process(taken=100.0, cpu=5.0, hub=times(ms1=100))
    now = process(taken=102.0, started=50.0, cpu=6.0, hub=times(ms1=100, ms50=2))
    [rates] = process_rates([before], [now])
    assert (rates.pid, rates.role, rates.state, rates.uptime, rates.resident) == (1, "worker", "running", 52, 1000)
    assert rates.cpu == 0.5
    assert rates.hub_delay.count == 2

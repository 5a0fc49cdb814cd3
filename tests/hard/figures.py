"""Whether the figures of a service are right: `make figures`, or `python -m tests.hard.figures`.

Clients that know what they ask send requests to `dploylib serve`, one of whose workers is stopped when half of them are
sent. Then what they know is compared with what the service tells: to `Remote`, to `dploylib stats`, and to Prometheus.
Counts must be equal, and of the times of handlers p50 and p99 within 5 % of those of the clients, less the mean time of
the same way there and back to a handler that does nothing. `test_figures.py` looks at the counts of fewer requests.

With `--answers`, it is measured how soon a service answers who asks how it is: see `answers.py`.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from dploylib.control.remote import Remote
from dploylib.statistics import SocketStatistics, merged
from tests.daemon.running import RunningDaemon, wait_until
from tests.hard import answers

TARGET = Path(__file__).with_name("figures_target.py")
CLIENTS = Path(__file__).with_name("figures_clients.py")
SOCKETS = ("timed", "quick")
BALANCES = ("messages", "connections")
WITHIN = 0.05
ERRORS = {"failed": "handler-failed", "refused": "unexpected-mimetype", "malformed": "malformed-envelope"}
ERRORS |= {"timed_out": "deadline-exceeded", "rejected": "shutting-down", "unanswered": "no-reply"}
METRICS = {
    "received": "dploylib_messages_received_total",
    "handled": "dploylib_messages_handled_total",
    "sent": "dploylib_messages_sent_total",
    "replied": "dploylib_messages_replied_total",
    "bytes_received": "dploylib_received_bytes_total",
    "bytes_sent": "dploylib_sent_bytes_total",
    "handler_time": "dploylib_handler_seconds_count",
    "wait_time": "dploylib_wait_seconds_count",
}

Found = dict[str, Any]


class Row(NamedTuple):
    """A figure: what the clients know, what is told by each way, and whether that is right."""

    title: str
    known: float
    told: dict[str, float]
    right: bool


class Outcome(NamedTuple):
    """What was found out: counts, and times in milliseconds."""

    counts: list[Row]
    times: list[Row]


def measure(
    directory: Path, balance: str, workers: int, requests: int, outstanding: int, milliseconds: float, seed: int = 0
) -> Outcome:
    """Let the requests be sent, and compare."""
    configuration = {
        "servers": {"known": {name: {"uri": "tcp://127.0.0.1:*"} for name in SOCKETS}},
        "monitoring": {"http": "127.0.0.1:0"},
    }
    options = ["-w", str(workers), "--balance", balance, "--name", "known"]
    with RunningDaemon(directory, *options, configuration=configuration, target=TARGET) as daemon:
        wait_until(lambda: len(daemon.processes()) == workers)
        load = {
            "endpoints": {name: daemon.endpoint(f"known.{name}") for name in SOCKETS},
            "requests": requests,
            "outstanding": outstanding,
            "milliseconds": milliseconds,
            "seed": seed,
            # A client whose worker goes may have sent it something that it does not read any more.
            "pauses": balance == "connections",
        }
        with subprocess.Popen(
            [sys.executable, str(CLIENTS), json.dumps(load)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=daemon.environment,
            text=True,
        ) as clients:
            try:
                assert clients.stdout is not None
                assert clients.stdout.readline() == "half\n"
                daemon.send(signal.SIGTTOU)
                wait_until(lambda: len(workers_of(daemon)) == workers - 1, "one of the workers is gone")
                said, _ = clients.communicate("go on\n")
            finally:
                clients.kill()
        known = json.loads(said)
        assert known["wrong"] == 0, known
        remote = Remote(str(daemon.run_dir), "known")
        wait_until(lambda: all(not one.in_flight for one in told_to(remote).values()), "all is handled")
        return compared(known, told_to(remote), told_by_stats(daemon), told_by_http(daemon))


def workers_of(daemon: RunningDaemon) -> list[int]:
    """The process ids of its workers, whatever they do."""
    return [one["pid"] for one in daemon.status().get("workers", ()) if one["role"] == "worker"]


# What is told --------------------------------------------------------------------------------------------------


def told_to(remote: Remote) -> dict[str, SocketStatistics]:
    """What those are told who ask by the control sockets."""
    return merged(remote.statistics())["known"].sockets


def told_by_stats(daemon: RunningDaemon) -> dict[str, Found]:
    """What `dploylib stats` tells."""
    command = [sys.executable, "-m", "dploylib", "stats", "--run-dir", str(daemon.run_dir), "--json"]
    said = subprocess.run(command, env=daemon.environment, stdout=subprocess.PIPE, check=True).stdout
    sockets: dict[str, Found] = json.loads(said)["servers"]["known"]["sockets"]
    return sockets


def told_by_http(daemon: RunningDaemon) -> dict[tuple[str, ...], float]:
    """What `/metrics` tells: samples by name, socket, and reason or type."""
    url = daemon.log.partition("listening at ")[2].split()[0]
    with urllib.request.urlopen(f"{url}metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (one.name, one.labels["socket"], one.labels.get("reason") or one.labels.get("type", "")): one.value
        for family in families
        for one in family.samples
        if "socket" in one.labels and "le" not in one.labels
    }


# The comparison ------------------------------------------------------------------------------------------------


def compared(
    known: Found,
    remote: dict[str, SocketStatistics],
    stats: dict[str, Found],
    http: dict[tuple[str, ...], float],
) -> Outcome:
    """What is known and what is told, side by side."""
    counts = []
    for name in SOCKETS:
        one, by_command = remote[name], stats[name]
        for figure, number in expected(known, name).items():
            told = {"Remote": getattr(one, figure), "stats": by_command[figure]}
            if figure in ("handler_time", "wait_time"):
                told = {"Remote": told["Remote"].count, "stats": told["stats"]["count"]}
            reason = ("dploylib_message_errors_total", name, figure)
            told["metrics"] = http.get((METRICS[figure], name, "") if figure in METRICS else reason, 0)
            counts.append(row(f"{name} {figure}", number, told))
        for problem in sorted({*known["problems"][name], *one.problems, *by_command["problems"]}):
            told = {"Remote": one.problems.get(problem, 0), "stats": by_command["problems"].get(problem, 0)}
            told["metrics"] = http.get(("dploylib_problems_total", name, problem), 0)
            counts.append(row(f"{name} {problem}", known["problems"][name].get(problem, 0), told))
    return Outcome(counts, list(compared_times(known, remote, stats)))


def expected(known: Found, name: str) -> dict[str, int]:
    """What has to have been counted at a socket."""
    counts, problems = known["counts"][name], known["problems"][name]
    handled = counts["received"] - problems.get("malformed-envelope", 0)
    errors = {error: problems.get(problem, 0) for error, problem in ERRORS.items()}
    answers = {"handled": counts["received"], "replied": counts["sent"]}
    return {**counts, **answers, **errors, "handler_time": handled, "wait_time": handled}


def row(title: str, known: float, told: dict[str, float]) -> Row:
    return Row(title, known, told, all(one == known for one in told.values()))


def compared_times(known: Found, remote: dict[str, SocketStatistics], stats: dict[str, Found]) -> Iterator[Row]:
    """The times that clients have seen, and those that are told, in milliseconds."""
    took = {name: sorted(known["took"][name]) for name in SOCKETS}
    # By so much, on the average, a small addition of chance moves the quantiles of what is large beside it.
    there_and_back = sum(took["quick"]) / len(took["quick"])
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        seen = (quantile(took["timed"], share) - there_and_back) * 1000
        told = {
            "Remote": remote["timed"].handler_time.quantile(share) * 1000,
            "stats": stats["timed"]["handler_time"][name] * 1000,
        }
        right = all(abs(one / seen - 1) <= WITHIN for one in told.values())
        yield Row(f"handler_time {name}, ms", seen, told, right)
    waited = remote["quick"].wait_time.mean * 1000
    limit = there_and_back * 1000
    yield Row("wait_time, ms: less than there and back", limit, {"Remote": waited}, 0 < waited < limit)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The duration that this share of them does not exceed: the nearest rank."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


# The table -----------------------------------------------------------------------------------------------------


def show(outcome: Outcome) -> None:
    """Print what was found."""
    for one in (*outcome.counts, *outcome.times):
        if not (one.known or any(one.told.values())):
            continue
        told = "  ".join(
            f"{how} {number:12,.10g} ({number / (one.known or 1):.3f})" for how, number in one.told.items()
        )
        print(f"  {'ok   ' if one.right else 'WRONG'} {one.title:44} {one.known:12,.10g}  {told}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. The exit status: 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="figures", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--outstanding", type=int, default=100, help="requests on their way at once (100)")
    parser.add_argument("--milliseconds", type=float, default=50, help="the median of what handlers take (50)")
    parser.add_argument("--balance", choices=BALANCES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", action="store_true", help="measure how soon a service answers who asks how it is")
    options = parser.parse_args(arguments)
    if options.answers:
        return answers.main()
    wrong = 0
    for balance in options.balance or BALANCES:
        with tempfile.TemporaryDirectory() as directory:
            outcome = measure(
                Path(directory),
                balance,
                options.workers,
                options.requests,
                options.outstanding,
                options.milliseconds,
                options.seed,
            )
        print(f"{balance}: {options.requests:,} requests, {options.workers} workers")
        show(outcome)
        wrong += sum(not one.right for one in (*outcome.counts, *outcome.times))
    print(f"{wrong} figures are wrong" if wrong else "all figures are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

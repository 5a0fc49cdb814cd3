"""Runs the cases: all contenders of a case are there at once and take turns, in an order that changes each round."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import memory, startup
from benchmarks.cases import Case, Contender
from benchmarks.launch import ENVIRONMENT, ROOT, Launcher, LaunchError, RunningServer, Unavailable, last_line, running
from benchmarks.load import Load

GENERATOR_PATIENCE_SECONDS = 120.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How long to measure, and how often."""

    rounds: int | None = None  # those of each case
    seconds: float = 0.5
    warm_up_seconds: float = 0.15


@dataclass
class CaseResult:
    """What came out of a case: for each contender the figures of each round, in order."""

    case: Case
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class GeneratorFailed(Exception):
    """The load generator did not get to its end."""


def run_case(case: Case, settings: Settings, directory: Path, say: Callable[[str], None]) -> CaseResult:
    """Measure a case in all its rounds. A contender that fails is left out from then on."""
    result = CaseResult(case)
    launcher = Launcher(directory)
    contenders = available(case, launcher, result)
    with contextlib.ExitStack() as stack:
        # Clients that ask a server with the same command share it.
        start = functools.cache(lambda *command: stack.enter_context(running(command)))
        measures: dict[str, Callable[[], Figures]] = {}
        for one in contenders:
            with noting_failures(result, one.name):
                measures[one.name] = prepare(case, one, settings, launcher, start)
        for number in range(settings.rounds or case.rounds):
            say(f"{case.name}: round {number + 1}")
            for name in rotated([name for name in measures if name not in result.failed], number):
                with noting_failures(result, name):
                    figures = measures[name]() | {"round": number}
                    result.figures.setdefault(name, []).append(figures)
    return result


@contextlib.contextmanager
def noting_failures(result: CaseResult, name: str) -> Iterator[None]:
    """Note it if a contender fails."""
    try:
        yield
    except (GeneratorFailed, LaunchError) as error:
        result.failed[name] = str(error)


def available(case: Case, launcher: Launcher, result: CaseResult) -> list[Contender]:
    """Return the contenders that are installed here, and note why the others are not."""
    found = []
    for one in case.contenders:
        try:
            launcher.command(one, case)
        except Unavailable as error:
            result.skipped[one.name] = str(error)
        else:
            found.append(one)
    return found


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of this round."""
    start = number % max(len(names), 1)
    return [*names[start:], *names[:start]]


def prepare(
    case: Case, contender: Contender, settings: Settings, launcher: Launcher, start: Callable[..., RunningServer]
) -> Callable[[], Figures]:
    """Return what measures a contender once. Its server runs until the end of the case, unless it is to be fresh."""
    if case.kind == "import":
        return lambda: startup.import_time(contender.name.removeprefix("import "))
    command = launcher.command(contender, case)
    if case.kind == "first-reply":
        return lambda: startup.first_reply(contender, command)
    if case.kind == "memory":
        return lambda: memory.each(command, launcher.command(contender, case, **{case.vary: 1 + memory.MORE}))
    if case.fresh:
        return lambda: with_fresh_server(case, contender, settings, command)
    server = start(*command)
    return lambda: generate(case, contender, settings, server)


def with_fresh_server(case: Case, contender: Contender, settings: Settings, command: Sequence[str]) -> Figures:
    """Start a server, measure it and kill it."""
    with running(command) as server:
        return generate(case, contender, settings, server)


def generate(case: Case, contender: Contender, settings: Settings, server: RunningServer) -> Figures:
    """Run the load generator once, or the client that is measured.

    Its stdin is what the server says, and it can let a blocked server go.
    """
    process = server.process
    assert process.stdin is not None
    load = Load(
        kind=case.kind,
        pid=server.pid,
        endpoints=server.endpoints,
        protocol=contender.protocol,
        body_bytes=case.body_bytes,
        json=case.json,
        connections=case.connections,
        outstanding=case.outstanding,
        busy_hub=case.busy_hub,
        count=case.count,
        seconds=settings.seconds if case.seconds is None else case.seconds,
        warm_up_seconds=settings.warm_up_seconds,
        release_fd=process.stdin.fileno(),
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", *measuring(contender), json.dumps(asdict(load))],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=process.stdout,
            capture_output=True,
            text=True,
            pass_fds=[load.release_fd],
            timeout=GENERATOR_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GeneratorFailed(f"the load generator took longer than {error.timeout:.0f} s") from error
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise GeneratorFailed(why + last_line(server.log))
    figures: Figures = json.loads(done.stdout)
    return figures


def measuring(contender: Contender) -> list[str]:
    """Return the module that measures a contender, with the way in which a client calls."""
    if not contender.client:
        return ["benchmarks.generator"]
    module, way = contender.client
    return [f"benchmarks.clients.{module}", way]

"""Which service of this machine a command is about: how it is said, and how it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from .exit_codes import ExitCode
from .parameters import decorated

if TYPE_CHECKING:
    from ..control.asking import Answer

__all__ = [
    "Running",
    "answers_of",
    "found_services",
    "none_found",
    "one_of",
    "selection",
    "the_service",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Running(NamedTuple):
    """A service that runs. `statuses` are what its leaders say, of an upgrade the old one first.

    A leader is the process of `dploylib run`, or the arbiter of `dploylib serve`.
    """

    name: str
    run_dir: str
    statuses: list[dict[str, Any]]

    @property
    def pids(self) -> list[int]:
        """The process ids of its leaders."""
        return [status["pid"] for status in self.statuses]

    @property
    def is_one_process(self) -> bool:
        """Whether `dploylib run` runs it."""
        return all(status.get("mode") == "run" for status in self.statuses)

    @property
    def is_ready(self) -> bool:
        """Whether one of its leaders says so, and has done so of late."""
        from ..control.finding import READY, SILENT

        return any(one["state"] in READY and one["silent"] < SILENT for one in self.statuses)

    @property
    def statuses_now(self) -> list[dict[str, Any]]:
        """What its leaders say by now; [] when it has gone."""
        from ..control.finding import statuses

        return list(statuses(self.run_dir))

    @property
    def is_there(self) -> bool:
        """Whether any of its leaders still runs."""
        from ..control.finding import leaders_in

        try:
            return not set(self.pids).isdisjoint(leaders_in(self.run_dir))
        except FileNotFoundError:
            return False

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.pids))})"


def selection(function: _Function) -> _Function:
    """Take what says which service: `name`, `pidfile`, `run_dir`."""
    decorators = (
        click.argument("name", required=False, metavar="[NAME]"),
        click.option("-p", "--pid", "pidfile", metavar="FILE", help="The one with this pid file."),
        click.option("--run-dir", metavar="DIR", help="The one with this run directory."),
    )
    return decorated(function, decorators)


def the_service(name: str | None, pidfile: str | None, run_dir: str | None) -> Running:
    """The service that these select. Where there is none, or there are several, that is told, and the command ends."""
    found = found_services(name, pidfile, run_dir)
    if not found:
        none_found(pidfile, run_dir)
        raise SystemExit(ExitCode.NOT_RUNNING)
    return one_of(found)


def one_of(services: Sequence[Running]) -> Running:
    """The only one of these services. Raises `click.UsageError` where there are several."""
    if len(services) > 1:
        said = ", ".join(map(str, sorted(services)))
        raise click.UsageError(f"{len(services)} such services run: {said}; say which one, by its name or process id")
    return services[0]


def answers_of(service: Running, verb: str, argument: Any = None, timeout: float = 1.0) -> Iterator[Answer]:
    """What the processes of a service answer, by process id. The command ends with 1 after that, if some have not."""
    from ..control.asking import ask

    answers = ask(service.run_dir, verb, argument, timeout=timeout)
    yield from (answer for answer in answers if not answer.error)
    for answer in answers:
        if answer.error:
            click.echo(f"process {answer.pid}: {answer.error}", err=True)
    if not answers:
        click.echo(f"none of the processes of {service} can be asked", err=True)
    if not answers or any(answer.error for answer in answers):
        raise SystemExit(ExitCode.FAILED)


def found_services(name: str | None, pidfile: str | None, run_dir: str | None) -> list[Running]:
    """The services that run and that these select; without any, all of this user. A name may be a process id.

    A process id selects one leader of a service, a name or a run directory all of them.
    """
    from ..control.finding import silence_of, statuses

    services: dict[str, Running] = {}
    try:
        wanted = None if pidfile is None else _pid_in(pidfile)
    except (OSError, ValueError):
        return []
    for status in statuses(run_dir):
        pid, directory = status["pid"], status["run_dir"]
        if wanted in (None, pid) and name in (None, status["name"], str(pid)):
            status["silent"] = silence_of(status)
            services.setdefault(directory, Running(status["name"], directory, [])).statuses.append(status)
    return list(services.values())


def none_found(pidfile: str | None, run_dir: str | None) -> None:
    """Tell that there is no such service."""
    from ..control.finding import base_directory

    why = f"there is none in {base_directory()}; one of another user, or of systemd, is found by --run-dir"
    if run_dir is not None:
        why = f"there is none in {run_dir}"
    if pidfile is not None:
        try:
            _pid_in(pidfile)
        except (OSError, ValueError) as error:
            why = f"no process id in {pidfile}: {getattr(error, 'strerror', None) or error}"
    click.echo(f"no such service is running: {why}", err=True)


def _pid_in(file: str) -> int:
    with open(file) as opened:
        return int(opened.read())

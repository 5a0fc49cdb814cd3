"""`dploylib serve`: runs a service as a daemon, in several processes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..errors import MissingPackage
from ..targets import Target
from .exit_codes import ExitCode
from .failures import reported
from .parameters import SECONDS_OR_NONE, SERVICE_NAME, SIZE, configuration, decorated, service_options

if TYPE_CHECKING:
    from ..daemon.checking import Command
    from ..daemon.planning import Plan
    from ..services import Service

__all__ = ["command"]


class _Setting(NamedTuple):
    """An option that sets one of the settings of the section `daemon`, as gunicorn has it."""

    name: str
    flags: Sequence[str]
    text: str
    type: Any = str
    metavar: str | None = None

    def option(self, function: Any) -> Any:
        """Take it."""
        if self.type is bool:
            return click.option(*self.flags, self.name, is_flag=True, default=None, help=self.text)(function)
        return click.option(*self.flags, self.name, type=self.type, default=None, metavar=self.metavar, help=self.text)(
            function
        )


_LEVELS = click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False)
_MOST_WORKERS = 1000
_WORKERS, _COUNT = click.IntRange(1, _MOST_WORKERS), click.IntRange(0)
_SETTINGS = (
    _Setting(
        "workers",
        ("-w", "--workers"),
        "How many worker processes there are.  [WEB_CONCURRENCY, or 1]",
        _WORKERS,
        "N",
    ),
    _Setting(
        "balance",
        ("--balance",),
        "What is spread over them: each message, by a front process that has the connections, so that nothing is lost "
        "when workers come and go; or connections, by the kernel.  [messages, if there are several workers]",
        click.Choice(["messages", "connections"]),
    ),
    _Setting(
        "timeout",
        ("-t", "--timeout"),
        "A worker that is blocked for longer than this is replaced; 0: it is not.  [30]",
        SECONDS_OR_NONE,
    ),
    _Setting(
        "graceful_timeout",
        ("--graceful-timeout",),
        "How long running handlers may take to finish at a stop or reload.  [30]",
        SECONDS_OR_NONE,
    ),
    _Setting("max_requests", ("--max-requests",), "A worker is replaced after so many messages.", _COUNT, "N"),
    _Setting("max_requests_jitter", ("--max-requests-jitter",), "The most that chance adds to that.", _COUNT, "N"),
    _Setting("max_memory", ("--max-memory",), "A worker that uses more memory than this is replaced.", SIZE),
    _Setting("reload", ("--reload",), "Reload when the code changes; for development.", bool),
    _Setting("preload_app", ("--preload",), "Import the module before the workers fork.", bool),
    _Setting("pidfile", ("-p", "--pid"), "The file that the process id is written to.", str, "FILE"),
    _Setting("daemon", ("-D", "--daemon"), "Detach from the terminal.", bool),
    _Setting("user", ("-u", "--user"), "The user that workers run as.", str, "USER"),
    _Setting("group", ("-g", "--group"), "The group that workers run as.", str, "GROUP"),
    _Setting("umask", ("-m", "--umask"), "The umask of all processes, 0o027 say.", str, "INT"),
    _Setting(
        "name",
        ("-n", "--name"),
        "The name of the service, by which other commands find it, and of its processes.  [dploylib]",
        SERVICE_NAME,
        "NAME",
    ),
    _Setting("run_dir", ("--run-dir",), "The directory for what goes on between the processes.", str, "DIR"),
    _Setting("loglevel", ("--log-level",), "The least important level that is logged.  [info]", _LEVELS),
    _Setting("errorlog", ("--log-file", "--error-logfile"), "The file of the log, - for stderr.  [-]", str, "FILE"),
    _Setting(
        "log_format",
        ("--log-format",),
        "Lines of text, or an object of JSON a line.  [text]",
        click.Choice(["text", "json"]),
    ),
    _Setting("capture_output", ("--capture-output",), "Let stdout and stderr go to the log file, too.", bool),
    _Setting("syslog", ("--log-syslog",), "Log to syslog.", bool),
    _Setting("syslog_addr", ("--log-syslog-to",), "Where syslog is, as in udp://localhost:514.", str, "ADDRESS"),
    _Setting("syslog_prefix", ("--log-syslog-prefix",), "What its lines begin with.", str, "TEXT"),
    _Setting("syslog_facility", ("--log-syslog-facility",), "The facility of syslog.", str, "NAME"),
)


def _settings(function: Callable[..., Any]) -> Callable[..., Any]:
    return decorated(function, [setting.option for setting in _SETTINGS])


@click.command("serve", epilog="Example: dploylib serve examples/echo/service.py -c examples/echo/config.yaml -w 2")
@service_options
@_settings
@click.option("--chdir", metavar="DIR", help="The directory to change to, first of all.")
@click.option("-e", "--env", "environment", metavar="NAME=VALUE", multiple=True, help="Set an environment variable.")
@click.option("--check-config", is_flag=True, help="Check everything, say so, and do not start.")
@click.option("--print-config", is_flag=True, help="Print the configuration that is used, without its secrets.")
@click.option("--plan-fd", type=int, hidden=True)
def command(
    target: Target,
    config: str | None,
    overrides: tuple[tuple[str, str], ...],
    patch: bool,
    chdir: str | None,
    environment: tuple[str, ...],
    check_config: bool,
    print_config: bool,
    plan_fd: int | None,
    **given: Any,
) -> None:
    """Run a service as a daemon, in several processes, on gunicorn's arbiter.

    Its options have the names that they have in gunicorn, and can be set in the section "daemon" of the configuration,
    too. The signals of the main process: TERM stops and lets the running handlers finish, INT and QUIT stop at once;
    HUP reloads the configuration and the code, if both are good; TTIN and TTOU add and remove a worker; USR1 opens the
    log files again; USR2 starts another main process beside this one.
    """
    started_in = _change_to(chdir, environment)
    _check_concurrency()
    arguments = configuration(config, overrides)
    if importlib.util.find_spec("gunicorn") is None:
        raise MissingPackage("serve needs gunicorn: pip install 'dploylib[daemon]'")
    if plan_fd is not None or print_config:
        _plan(target, arguments, patch, given, plan_fd)
        return
    plan, checking = _checked_plan(started_in)
    if check_config:
        click.echo(_summary(plan))
        return
    from ..daemon.application import Application

    with reported():
        Application(plan, _Code(target, arguments, patch), checking).run()


def _change_to(directory: str | None, environment: tuple[str, ...]) -> str | None:
    """Change to a directory, and set environment variables. Returns the directory before, if it is another one now."""
    before = None
    if directory is not None:
        before = _here()
        try:
            os.chdir(directory)
        except OSError as error:
            raise click.UsageError(f"--chdir {directory}: {error.strerror}") from error
    for assignment in environment:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--env {assignment}: expected NAME=VALUE")
        os.environ[name] = value
    return before


def _here() -> str:
    """The current directory as the shell calls it: as a link, say, that leads somewhere else at the next upgrade."""
    called = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(called) and os.path.samefile(called, os.curdir):
            return called
    return os.getcwd()


def _check_concurrency() -> None:
    """Let WEB_CONCURRENCY be a number of workers, or not be set: gunicorn reads it, too, when it is imported."""
    text = os.environ.get("WEB_CONCURRENCY")
    if text is None:
        return
    if not text.strip():
        del os.environ["WEB_CONCURRENCY"]
        return
    if not text.strip().isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise click.UsageError(
            f"WEB_CONCURRENCY={text}: expected a number of workers from 1 to {_MOST_WORKERS}, or nothing"
        )


def _plan(target: Target, arguments: dict[str, Any], patch: bool, given: dict[str, Any], plan_fd: int | None) -> None:
    """In a process that does nothing else: find out what there is to run, or what is wrong with it."""
    import msgspec

    from ..daemon.planning import make_plan

    code = _Code(target, arguments, patch)
    code.prepare()
    service = code.load()
    settings = service.load(**arguments)
    plan = make_plan(service, settings, given)
    if plan_fd is None:
        from ..config import as_yaml

        click.echo(as_yaml(settings, daemon=plan.daemon), nl=False)
        return
    with open(plan_fd, "wb") as pipe:
        pipe.write(msgspec.json.encode(plan))


def _checked_plan(started_in: str | None) -> tuple[Plan, Command]:
    """The plan, made by another process, and the command of that. Ends this process when there is none.

    That process starts where this one did, for the sake of a relative PYTHONPATH, and changes to where this one is.
    """
    from multiprocessing.util import _args_from_interpreter_flags  # type: ignore[attr-defined]  # not in the stubs

    from ..daemon.checking import Checking, Command

    given = [argument for argument in sys.argv[1:] if argument != "--"]  # more options come behind them
    if started_in is not None:
        given += ["--chdir", os.getcwd()]  # of two, the last one counts
    command = Command([sys.executable, *_args_from_interpreter_flags(), "-m", "dploylib", *given], started_in)
    status, said, plan = Checking(command).wait()
    click.echo(said, err=True, nl=False)
    if plan is None:
        raise SystemExit(status or ExitCode.FAILED)
    return plan, command


def _summary(plan: Plan) -> str:
    parts = [f"{plan.workers} x {', '.join(plan.shared)}" if plan.shared else "", ", ".join(plan.single)]
    if plan.lanes:
        parts.append(f"a front for {', '.join(f'{lane.server}.{lane.socket}' for lane in plan.lanes)}")
    return f"OK: {'; '.join(filter(None, parts))}"


class _Code:
    """The user's code, for a worker."""

    def __init__(self, target: Target, arguments: dict[str, Any], patch: bool) -> None:
        self._target = target
        self._arguments = arguments
        self._patch = patch

    @property
    def origin(self) -> tuple[str, str]:
        """What is run, and the file of its configuration."""
        return str(self._target), str(self._arguments.get("config_file") or "")

    def prepare(self) -> None:
        """Patch the standard library, if it is to be."""
        if self._patch:
            import warnings

            from ..targets import patch_standard_library

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that ssl was imported: by gunicorn, which has no connections here
                patch_standard_library()

    def load(self) -> Service:
        """Import the service."""
        from ..targets import load_service

        return load_service(self._target)

    def start(self, service: Service) -> None:
        """Start it with its configuration."""
        service.start(**self._arguments)

    def tell(self, error: Exception) -> int:
        """Log why it cannot run, and return the exit status that says so."""
        from .failures import failure_of
        from .logs import log_failure

        failure = failure_of(error)
        log_failure(failure)
        return failure.code

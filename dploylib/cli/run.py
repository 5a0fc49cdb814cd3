"""`dploylib run`: runs a service in the foreground."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..targets import Target
from .exit_codes import ExitCode
from .failures import reported, tell
from .logs import LEVELS, configure, drop_what_cannot_be_written, log_failure
from .parameters import PROFILE, SECONDS_OR_NONE, SERVICE_NAME, configuration, service_options
from .profile import profiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..control.local import Local

__all__ = ["command"]

log = logging.getLogger(__name__)


@click.command("run", epilog="Example: dploylib run examples/echo/service.py -c examples/echo/config.yaml")
@service_options
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="The least important level that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines of text, or an object of JSON a line.",
)
@click.option(
    "--graceful-timeout",
    type=SECONDS_OR_NONE,
    show_default="30, unless the service says so itself",
    help="How long running handlers may take to finish when the service is stopped.",
)
@click.option(
    "--max-blocking",
    type=SECONDS_OR_NONE,
    show_default="1, unless the service says so itself",
    help="What keeps all greenlets from running for longer than this is logged, with its stack; 0 logs nothing.",
)
@click.option(
    "--profile",
    type=PROFILE,
    metavar="FILE",
    help="Write there in the end where the time has gone, as a flame graph: .html is a page for the browser, .json is "
    "for speedscope.app, .txt is text. A message costs about twice its time.",
)
@click.option(
    "-n",
    "--name",
    type=SERVICE_NAME,
    metavar="NAME",
    show_default="daemon.name, or that of the module",
    help="The name of the service, by which other commands find it.",
)
@click.option("--run-dir", metavar="DIR", help="The run directory, where other commands find it; else a new one.")
@click.option(
    "--control/--no-control",
    default=True,
    show_default=True,
    help="Whether other commands find it: without, nothing is written anywhere.",
)
def command(
    target: Target,
    config: str | None,
    overrides: tuple[tuple[str, str], ...],
    patch: bool,
    log_level: str,
    log_format: str,
    graceful_timeout: float | None,
    max_blocking: float | None,
    profile: Path | None,
    name: str | None,
    run_dir: str | None,
    control: bool,
) -> None:
    """Run a service in the foreground.

    MODULE is a dotted name, looked for from the current directory on, or the path of a .py file. ATTRIBUTE is the
    Service in it; without one it is "service".

    The first SIGINT or SIGTERM stops receiving and lets the running handlers finish, a second one stops at once. The
    log goes to stderr. Other commands find it meanwhile: ps, status, stats, top, health, stop, stacks, loglevel.
    """
    from ..targets import load_service, patch_standard_library

    arguments = configuration(config, overrides)
    if patch:
        patch_standard_library()
    fields = configure(log_level, log_format)
    with reported(log_failure if log_format == "json" else tell):
        from ..control.http_side import http_side
        from ..control.local import Local

        service = load_service(target)  # which may take long: there is nothing to hold up yet
        if graceful_timeout is not None:
            service.graceful_timeout = graceful_timeout
        service.exports_traces = True
        service.max_blocking = (service.max_blocking or 1.0) if max_blocking is None else max_blocking
        with contextlib.ExitStack() as stack:
            if profile is not None:
                stack.enter_context(profiled(service, profile))
            service.name, service.default_name = name or service.name, _name_of(target)
            fields.service = lambda: service.called
            local = Local(service)
            stack.enter_context(http_side(service, local))
            if control:
                stack.enter_context(_found(local, run_dir, str(target), config or ""))
            cut_short_by = service.run(**arguments)
    drop_what_cannot_be_written()
    raise SystemExit(ExitCode[cut_short_by.name] if cut_short_by else ExitCode.OK)


def _name_of(target: Target) -> str:
    return os.path.basename(target.module).removesuffix(".py") if target.is_file else target.module


@contextlib.contextmanager
def _found(local: Local, run_dir: str | None, target: str, config: str) -> Iterator[None]:
    """Let other commands find the service. Where no run directory can be made, it runs without: unless one is given."""
    import gevent

    from ..control.announcing import announced
    from ..control.server import Control, Subject
    from ..errors import DployError

    service: Any = local.service

    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(announced(service, local.name, run_dir))
        except (DployError, OSError) as error:
            if run_dir is not None:
                raise
            log.warning("other commands will not find this service: %s", error)
        else:
            subject = Subject(local, lambda seconds: gevent.spawn(service.stop, seconds), target=target, config=config)
            stack.enter_context(Control(subject, directory.path))
        yield

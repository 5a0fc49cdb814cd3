"""`dploylib check`: says whether a service would start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..targets import Target
from .columns import aligned
from .parameters import configuration, service_options

if TYPE_CHECKING:
    from ..config import Settings
    from ..security import Security
    from ..services import Service

__all__ = ["command"]


@click.command("check", epilog="Example: dploylib check examples/echo/service.py -c examples/echo/config.yaml")
@service_options
@click.option("--print-config", is_flag=True, help="Print the configuration that is used, without its secrets.")
def command(
    target: Target, config: str | None, overrides: tuple[tuple[str, str], ...], patch: bool, print_config: bool
) -> None:
    """Check a service and its configuration.

    Does everything that `run` does, but binds and connects nothing. Prints every problem, one a line, or what would
    run, and by what it is secured.
    """
    from ..targets import load_service, patch_standard_library

    arguments = configuration(config, overrides)
    if patch:
        patch_standard_library()
    service = load_service(target)
    settings = service.load(**arguments)
    if print_config:
        from ..config import as_yaml

        click.echo(as_yaml(settings), nl=False)
        return
    for line in _summary(service, settings):
        click.echo(line)


def _summary(service: Service, settings: Settings) -> list[str]:
    rows = [
        (
            f"{server}.{socket.name}",
            socket.socket_type,
            socket.setup_type,
            " ".join(infos[socket.name].uris),
            _secured_by(settings.security(server, socket.name), infos[socket.name].uris),
        )
        for server, cls in service.server_classes.items()
        for infos in [settings.server_info(server)]
        for socket in cls.description.sockets.values()
        if socket.name in infos
    ]
    summary = f"OK: {_counted(len(service.server_classes), 'server')}, {_counted(len(rows), 'socket')}"
    return [summary, *aligned(rows)]


def _secured_by(security: Security, uris: list[str]) -> str:
    """The mechanism of a socket, and for whom it is; '' for one that everybody may connect to."""
    from ..security import Credentials

    mechanism = Credentials(security).mechanism
    if mechanism == "none" or all(uri.startswith("inproc:") for uri in uris):
        return ""
    return " ".join((mechanism, *(f"for {','.join(groups)}" for groups in [security.groups] if groups)))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

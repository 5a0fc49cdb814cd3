"""`dploylib stacks`: what each greenlet of a service is doing."""

from __future__ import annotations

import json

import click

from .services import answers_of, selection, the_service

__all__ = ["command"]


@click.command("stacks", epilog="Example: dploylib stacks echo")
@selection
@click.option("--json", "as_json", is_flag=True, help="As an object of JSON a process and line.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, as_json: bool) -> None:
    """Print the stacks of the greenlets of a service.

    Of all its processes, by server and socket. NAME is the name of the service, or its process id; it may be left out
    where only one runs. The service goes on meanwhile. The exit status is 0 when all its processes have answered, 1
    when some have not.
    """
    service = the_service(name, pidfile, run_dir)
    for answer in answers_of(service, "STACKS", timeout=5.0):
        if as_json:
            click.echo(json.dumps({"pid": answer.pid, **answer.value}))
        else:
            click.echo(f"process {answer.pid} of {service.name}:\n\n{answer.value['text'].rstrip()}\n")

"""`dploylib ps`: the services that run on this machine, a line each."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from .columns import aligned
from .quantities import span
from .services import found_services, selection

__all__ = ["command"]

_HEADINGS = ("NAME", "PID", "MODE", "STATE", "UP", "WORKERS", "VERSION", "ENDPOINTS")


@click.command("ps", epilog="Example: dploylib ps")
@selection
@click.option("--json", "as_json", is_flag=True, help="As an object of JSON a line.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, as_json: bool) -> None:
    """List the services that run on this machine.

    Those of this user are found, of `run` and of `serve`. NAME is the name of a service, or its process id. The exit
    status is 0 also when there is none.

    WORKERS are those that are ready, of those that there are. VERSION is that of dploylib.
    """
    found = [_told(status) for service in found_services(name, pidfile, run_dir) for status in service.statuses]
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
    else:
        for line in aligned([_HEADINGS, *map(_row, found)]):
            click.echo(line)


def _told(status: dict[str, Any]) -> dict[str, Any]:
    workers = [worker for worker in status["workers"] if worker["role"] == "worker"]
    return {
        "name": status["name"],
        "pid": status["pid"],
        "mode": status.get("mode"),
        "state": status["state"],
        "started": status["started"],
        "up": round(time.time() - status["started"], 1),
        "workers": len(workers),
        "ready": sum(worker["state"] == "ready" for worker in workers),
        "version": status.get("version"),
        "endpoints": status["endpoints"],
        "run_dir": status["run_dir"],
    }


def _row(told: dict[str, Any]) -> list[str]:
    workers = "" if told["mode"] == "run" else f"{told['ready']} of {told['workers']}"
    known = [told["name"], str(told["pid"]), told["mode"] or "", told["state"], span(told["up"]), workers]
    return [*known, told["version"] or "", " ".join(told["endpoints"].values())]

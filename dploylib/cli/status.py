"""`dploylib status`: what the services of this machine do."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from .columns import aligned
from .exit_codes import ExitCode
from .services import found_services, none_found, selection

__all__ = ["command"]


@click.command("status", epilog="Example: dploylib status echo")
@selection
@click.option("--json", "as_json", is_flag=True, help="As an object of JSON a line.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, as_json: bool) -> None:
    """Show the services that run, and their workers.

    NAME is the name of a service, or its process id. Without it and without options, all of this user.

    The exit status is 0 when there is one, and all that there are are ready, and arbiters have said so within the last
    10 seconds; otherwise it is 1. During an upgrade a service is shown twice, the old one and the new one: it is ready
    when one of them is, and the new one has the pid file FILE.2.
    """
    found = found_services(name, pidfile, run_dir)
    if not found:
        none_found(pidfile, run_dir)
        raise SystemExit(ExitCode.FAILED)
    for status in [status for service in found for status in service.statuses]:
        for line in [json.dumps(status)] if as_json else _lines(status):
            click.echo(line)
    if not all(service.is_ready for service in found):
        raise SystemExit(ExitCode.FAILED)


def _lines(status: dict[str, Any]) -> list[str]:
    from ..control.finding import SILENT

    up = time.time() - status["started"]
    lines = [f"{status['name']} ({status['pid']}): {status['state']}, up {up:.0f} s, generation {status['generation']}"]
    if status["successor"] is not None:
        lines.append(f"  an upgrade goes on: this is the old one, and {status['successor']} the new one")
    if status["predecessor"] is not None:
        lines.append(f"  an upgrade goes on: this is the new one, and {status['predecessor']} the old one")
    if status["silent"] >= SILENT:
        lines.append(f"  the arbiter has written nothing for {status['silent']:.0f} s: this is how it was then")
    lines += aligned([("", owner, endpoint) for owner, endpoint in status["endpoints"].items()])
    rows = [
        (
            "",
            worker["role"],
            str(worker["pid"]),
            worker["state"],
            f"{worker.get('rss', 0) / 2**20:.0f} MiB",
            " ".join(f"{name}: {_counted(counts)}" for name, counts in worker.get("counts", {}).items()),
        )
        for worker in status["workers"]
    ]
    front = status.get("front", {}).get("pid")
    if front is not None and status["predecessor"] is None and front not in [one["pid"] for one in status["workers"]]:
        rows.insert(0, ("", "front", str(front), "ready", "", "of the arbiter before this one"))
    return [*lines, *aligned(rows)]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if name != "handled") or "nothing yet"

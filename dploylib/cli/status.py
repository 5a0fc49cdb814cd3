"""`dploylib status`: what the daemons of this machine do."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from .columns import aligned
from .exit_codes import ExitCode

__all__ = ["command"]

_SILENT = 10.0  # seconds: an arbiter writes its status every second, and rarely waits for longer than a few


@click.command("status", epilog="Example: dploylib status -p /run/echo.pid")
@click.option("-p", "--pid", "pidfile", metavar="FILE", help="The one with this pid file.")
@click.option("--run-dir", metavar="DIR", help="The one with this run directory.")
@click.option("-n", "--name", metavar="NAME", help="Those of this name.")
@click.option("--json", "as_json", is_flag=True, help="As an object of JSON a line.")
def command(pidfile: str | None, run_dir: str | None, name: str | None, as_json: bool) -> None:
    """Show the services that `dploylib serve` runs, each with its workers.

    Without options, all of this user. The exit status is 0 when there is one, and all that there are are ready and have
    said so within the last 10 seconds; otherwise it is 1. During an upgrade a service is shown twice, the old one and
    the new one: it is ready when one of them is, and the new one has the pid file FILE.2.
    """
    from ..control.finding import base_directory, statuses

    pid = None if pidfile is None else _pid_in(pidfile)
    found = [
        one for one in statuses(run_dir) if (pid is None or one["pid"] == pid) and (name is None or one["name"] == name)
    ]
    if not found:
        where = base_directory() if run_dir is None else run_dir
        hint = "; one of another user, or of systemd, is found by --run-dir" if run_dir is None else ""
        click.echo(f"no such service is running: there is none in {where}{hint}", err=True)
        raise SystemExit(ExitCode.FAILED)
    for status in found:
        status["silent"] = max(0.0, round(time.time() - status["written"], 1))
        for line in [json.dumps(status)] if as_json else _lines(status):
            click.echo(line)
    ready = {one["run_dir"] for one in found if one["state"] in ("ready", "reloading") and one["silent"] < _SILENT}
    if ready != {one["run_dir"] for one in found}:
        raise SystemExit(ExitCode.FAILED)


def _pid_in(file: str) -> int:
    try:
        with open(file) as opened:
            return int(opened.read())
    except (OSError, ValueError) as error:
        click.echo(f"no process id in {file}: {getattr(error, 'strerror', None) or error}", err=True)
        raise SystemExit(ExitCode.FAILED) from error


def _lines(status: dict[str, Any]) -> list[str]:
    up = time.time() - status["started"]
    lines = [f"{status['name']} ({status['pid']}): {status['state']}, up {up:.0f} s, generation {status['generation']}"]
    if status["successor"] is not None:
        lines.append(f"  an upgrade goes on: this is the old one, and {status['successor']} the new one")
    if status["predecessor"] is not None:
        lines.append(f"  an upgrade goes on: this is the new one, and {status['predecessor']} the old one")
    if status["silent"] >= _SILENT:
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

"""Run the benchmarks: `python -m benchmarks`. See README.md."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.cases import Case, chosen
from benchmarks.runner import CaseResult, Settings, run_case

COMPARED = ("dploylib", "pyzmq", "gevent", "msgspec", "zerorpc", "grpcio")


@click.command()
@click.option(
    "--only", "patterns", multiple=True, metavar="PATTERN", help="Only cases with such a name, as in 'pub-*'."
)
@click.option("--rounds", type=click.IntRange(min=1), help="How often to measure.  [default: 5, of some cases another]")
@click.option("--seconds", type=click.FloatRange(min=0.01), help="How long to measure each time.  [default: 0.5]")
@click.option("--quick", is_flag=True, help="Two short rounds, to see that everything works.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), default="build/bench/results.json", show_default=True
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw a figure, as SVG or PNG by its suffix.")
@click.option("--strict", is_flag=True, help="Fail if something that must hold does not.")
@click.option("--list", "listing", is_flag=True, help="List the cases and end.")
def main(
    patterns: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    quick: bool,
    json_file: Path,
    picture: Path | None,
    strict: bool,
    listing: bool,
) -> None:
    """Measure dploylib beside hand-written loops and other libraries."""
    cases = list(chosen(patterns))
    if not cases:
        raise click.UsageError("no case has such a name: see --list")
    if listing:
        click.echo("\n".join(f"{case.name:16}{case.title}" for case in cases))
        return
    draw = None if picture is None else painter(cases)
    settings = Settings(seconds=0.15, warm_up_seconds=0.05) if quick else Settings()
    settings = replace(settings, rounds=rounds, seconds=seconds or settings.seconds)
    results = measure([case.quicker() if quick else case for case in cases], settings)
    found = report.verdicts(results)
    click.echo(report.ratio_table(found))
    data = {"machine": machine(), **report.as_data(results, found, settings)}
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(data, indent=1) + "\n")
    click.echo(f"\nall figures are in {json_file}")
    if picture is not None and draw is not None:
        draw(data, picture)
        click.echo(f"the figure is in {picture}")
    if any(result.failed for result in results) or (strict and any(one.word != "ok" for one in found)):
        sys.exit(1)


def measure(cases: list[Case], settings: Settings) -> list[CaseResult]:
    """Run the cases one after the other, and print each table when it is there."""
    results = []
    click.echo(report.LEGEND)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for case in cases:
            result = run_case(case, settings, Path(directory), progress)
            progress("")
            click.echo(report.case_table(result))
            results.append(result)
    return results


def progress(text: str) -> None:
    """Say what is going on, on a terminal only."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    import zmq

    versions = {}
    for name in COMPARED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "libzmq": zmq.zmq_version(),
        "versions": versions,
    }


def painter(cases: Sequence[Case]) -> Callable[[dict[str, Any], Path], None]:
    """Return what draws the figure, or say now, and not after minutes, that it cannot be drawn."""
    try:
        from benchmarks.picture import CASE, draw_figure
    except ImportError as error:
        raise click.ClickException(f"no picture: {error}; pip install -r benchmarks/requirements.txt") from error
    if all(case.name != CASE for case in cases):
        raise click.UsageError(f"the picture shows {CASE}, which is not to be measured")
    return draw_figure


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

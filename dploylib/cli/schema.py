"""`dploylib schema`: prints the JSON Schema of the configuration."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("schema", epilog="Example: dploylib schema > dploylib.schema.json")
def command() -> None:
    """Print the JSON Schema of the configuration file."""
    from ..config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))

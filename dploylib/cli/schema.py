"""`dploylib schema`: prints the JSON Schema of the configuration, or of a message."""

from __future__ import annotations

import json

import click

from .parameters import TEXT

__all__ = ["command"]


class _Command(click.Command):
    """Lists the messages in its help, for which they are imported only then."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ..messages import MESSAGES

        with formatter.section("Messages"):
            formatter.write_dl([(name, _description(message.json_schema())) for name, message in MESSAGES.items()])
        super().format_epilog(ctx, formatter)


def _description(schema: dict[str, str]) -> str:
    return schema["description"].partition(". ")[0].rstrip(".")


@click.command("schema", cls=_Command, epilog="Example: dploylib schema > dploylib.schema.json")
@click.argument("name", type=TEXT, required=False, metavar="[NAME]")
def command(name: str | None) -> None:
    """Print the JSON Schema of the configuration file, or of the message NAME."""
    click.echo(json.dumps(_schema_of(name), indent=2))


def _schema_of(name: str | None) -> dict[str, object]:
    if name is None:
        from ..config import json_schema

        return json_schema()
    from ..config.problems import did_you_mean
    from ..messages import MESSAGES

    if name not in MESSAGES:
        raise click.UsageError(f"there is no message {name!r}{did_you_mean(name, MESSAGES, 'messages')}")
    return MESSAGES[name].json_schema()

"""The client: `python -m examples.dploy --help`."""

import contextlib
import itertools
import math
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import click
import msgspec

from dploylib.clients import ListeningClient, RequestClient
from dploylib.config import YAMLConfigMapper
from dploylib.errors import ConfigurationError, ReceiveTimeout, RemoteError, TransportError
from dploylib.messages import BroadcastMessage, BuildRequest, ZoneStopDeploy, new_broadcast_id

from .files import Unusable, checked_name, pack_app, read_processes

HERE = Path(__file__).parent
SERVICES = {"builds": "queues", "orders": "queues"}  # where a server has another name than its service
SILENCE = 2.0  # seconds after which we ask how a job has ended, since a broadcast may be lost
PATIENCE = 10.0  # seconds for an answer


def endpoint(server, socket):
    """Where a service listens, from its own configuration."""
    file = HERE / f"{SERVICES.get(server, server)}.yaml"
    return YAMLConfigMapper().process(str(file)).socket_info(server, socket).uri


def ask(server, socket, message, timeout=PATIENCE, **how):
    with RequestClient(endpoint(server, socket)) as client:
        return client.request(message, timeout=timeout, idempotent=True, **how).data


def ask_json(server, socket, message):
    return msgspec.json.decode(ask(server, socket, message))


# Jobs -----------------------------------------------------------------------------------------------------------------


class Progress:
    """Shows how a job goes: line by line, and on a terminal also how long the current step takes already."""

    def __init__(self):
        self.begun = time.monotonic()
        self.live = sys.stdout.isatty()
        self.step = ""
        self.spinner = itertools.cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

    @property
    def time(self):
        return f"{time.monotonic() - self.begun:5.1f} s"

    def show(self, message):
        kind, text = message.body.type, message.body.data or ""
        if message.type == "output":
            self.print(click.style(f"        │ {text}", dim=True))
        else:
            self.step = text if kind == "info" else ""
            color = {"completed": "green", "error": "red"}.get(kind)
            self.print(f"{self.time} {click.style(text, fg=color)}")

    def print(self, text):
        click.echo(f"\r\x1b[K{text}" if self.live else text)

    def tick(self):
        if self.live and self.step:
            click.echo(f"\r\x1b[K{self.time} {next(self.spinner)} {self.step}", nl=False)


def submit(queue, message, id):
    """Put a job into a queue, and follow it to its end."""
    with follower(id) as follow:
        ask(queue, "put", message, timeout=60, id=id)  # it may be put twice: the queue knows its id
        click.echo(f"accepted as {id}")
        follow()


@contextlib.contextmanager
def follower(id):
    """Listen to what is broadcast about a job from now on; what it yields shows that up to the end of the job."""
    with ListeningClient(endpoint("broadcast", "out"), id, obj=BroadcastMessage) as listener:
        listener.wait_connected(PATIENCE)

        def follow():
            try:
                watch(listener, id)
            except KeyboardInterrupt:
                click.echo(f"\nit goes on; to follow it again: dploy follow {id}", err=True)
                sys.exit(130)

        yield follow


def watch(listener, id):
    progress, heard = Progress(), time.monotonic()
    while True:
        message = None
        try:
            message = listener.receive(timeout=0.1).obj
            heard = time.monotonic()
        except ReceiveTimeout:
            progress.tick()
            if time.monotonic() - heard > SILENCE:
                message, heard = outcome_of(id), time.monotonic()
        if message is not None:
            progress.show(message)
            if message.type == "status" and message.body.type != "info":
                sys.exit(message.body.type == "error")


def outcome_of(id):
    """How a job has ended, from whoever knows; None if nobody does."""
    for server in ("zone", "build"):
        with contextlib.suppress(TransportError, RemoteError):
            known = ask(server, "outcome", id, timeout=1)
            if known != b"null":
                return BroadcastMessage.from_bytes(known)
    return None


def release_job(app, release, why, version=0):
    """A job that deploys a release again, or makes a new one of what it was made of."""
    id = new_broadcast_id(release["commit"])
    submit("builds", BuildRequest(id, app, release["archive_uri"], release["commit"], why, version), id)


def releases_of(app):
    releases = ask_json("build", "releases", checked_name(app))
    if not releases:
        raise click.ClickException(f"there is no release of {app}: make one with `dploy push DIR --app {app}`")
    with RequestClient(endpoint("zone", "outcome")) as zone:
        for release, reply in zip(releases, zone.request_many(one["broadcast_id"] for one in releases), strict=True):
            status = (reply.json or {}).get("body", {}).get("type")
            release["state"] = {"completed": "ran", "error": "failed"}.get(status, "on its way")
    return releases


def running(app):
    """The version of an app that runs; None if none does."""
    return next((one["version"] for one in ask_json("zone", "apps", "") if one["app"] == app), None)


# Commands -------------------------------------------------------------------------------------------------------------


class Commands(click.Group):
    """Says in one line what went wrong."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except RemoteError as error:
            raise click.ClickException(error.detail or error.title) from error
        except (ConfigurationError, Unusable, OSError) as error:
            hint = ""
            if isinstance(error, TransportError):
                hint = "\nDo all four services run, and with this DPLOY_HOME? README.md says how to start them."
            raise click.ClickException(f"{error}{hint}") from error


@click.group(cls=Commands)
def main():
    """Deploy applications: archive, build, run, see."""


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--app", help="The name of the app; that of the directory, if not given.")
@click.option("-m", "--message", default="", help="What is new.")
def push(directory, app, message):
    """Make a release of the app in DIRECTORY, and run it."""
    app = checked_name(app or directory.resolve().name)
    read_processes(directory)
    home = Path(os.environ.get("DPLOY_HOME") or ".dploy").resolve()
    if not home.is_dir():
        raise click.ClickException(f"there is no directory {home}: start the services first, as README.md says")
    archive, commit = pack_app(directory, home / "archives")
    click.echo(f"{app}: {archive.stat().st_size / 1024:.1f} KiB, commit {commit[:10]}")
    release_job(app, {"archive_uri": archive.as_uri(), "commit": commit}, message)


@main.command()
@click.argument("id")
def follow(id):
    """Show what becomes of a job from now on."""
    with follower(id) as follow:
        follow()


@main.command()
def ps():
    """List the apps and their processes."""
    for app in ask_json("zone", "apps", ""):
        state = f"v{app['version']}  {app['url'] or ''}" if app["version"] else "stopped"
        click.echo(f"{app['app']}  {state}")
        for one in app["processes"]:
            pid = f"pid {one['pid']}" if one["pid"] else "waits"
            again = f", started {one['starts']} times, the last one {one['ended']}" if one["ended"] else ""
            click.echo(f"  {one['name']:10} {pid:10} {one['seconds']} s{again}")


@main.command()
@click.argument("app")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True, help="How many from before.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on.")
def logs(app, lines, follow):
    """Show what an app logs."""
    topic = f"logs/{checked_name(app)}/"
    with ListeningClient(endpoint("broadcast", "out"), topic, obj=BroadcastMessage) as listener:
        if follow:
            listener.wait_connected(PATIENCE)
        shown = ask_json("zone", "logs", {"app": app, "lines": lines})
        for line in shown:
            click.echo(line)
        for received in listener if follow else ():
            if received.obj.body.data not in shown:  # it came while we asked
                click.echo(received.obj.body.data)


@main.command()
@click.argument("app")
def releases(app):
    """List the releases of an app."""
    current = running(app)
    for one in releases_of(app):
        made = datetime.fromtimestamp(one["made"]).isoformat(" ", "seconds")
        state = "runs" if one["version"] == current else one["state"]
        click.echo(f"v{one['version']:<3} {state:9} {made}  {one['commit'][:10]}  {one['message']}")


@main.command()
@click.argument("app")
@click.argument("version", type=click.IntRange(min=1), required=False)
def rollback(app, version):
    """Run an earlier release of an app again: VERSION, or the one before what runs."""
    known = {one["version"]: one for one in releases_of(app)}
    if version is None:
        current = running(app) or math.inf
        version = next((one for one in known if one < current and known[one]["state"] == "ran"), None)
        if version is None:
            raise click.ClickException(f"there is no earlier release of {app} that has run")
    if version not in known:
        raise click.ClickException(
            f"there is no v{version} of {app}; there are {', '.join(f'v{one}' for one in known)}"
        )
    release_job(app, known[version], f"back to v{version}", version)


@main.command()
@click.argument("app")
def stop(app):
    """Stop an app, until it is deployed again."""
    submit("orders", ZoneStopDeploy((checked_name(app),)), str(uuid4()))


@main.group()
def env():
    """See and change the environment variables of an app."""


@env.command("get")
@click.argument("app")
def env_get(app):
    """List the variables of an app."""
    for service, variables in ask_json("build", "env", {"app": app}).items():
        for name, value in variables.items():
            click.echo(f"{name}={value}  # of {service}")


def change_env(app, service, variables, no_release):
    ask("build", "env", {"app": app, "service": service, "variables": variables})
    if not no_release:
        current, releases = running(app), releases_of(app)
        release = next((one for one in releases if one["version"] == current), releases[0])
        release_job(app, release, f"env: {', '.join(variables)}")


SERVICE = click.option("--service", default="app", show_default=True, help="What the variables are for.")
NO_RELEASE = click.option("--no-release", is_flag=True, help="Leave it to the next release.")


@env.command("set")
@click.argument("app")
@click.argument("variables", nargs=-1, required=True, metavar="NAME=VALUE...")
@SERVICE
@NO_RELEASE
def env_set(app, variables, service, no_release):
    """Set variables, and make a release with them."""
    pairs = [variable.partition("=") for variable in variables]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.UsageError(f"expected NAME=VALUE, got {name!r}")
    change_env(app, service, {name: value for name, _, value in pairs}, no_release)


@env.command("unset")
@click.argument("app")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@SERVICE
@NO_RELEASE
def env_unset(app, names, service, no_release):
    """Remove variables, and make a release without them."""
    change_env(app, service, dict.fromkeys(names), no_release)


if __name__ == "__main__":
    main(prog_name="dploy")

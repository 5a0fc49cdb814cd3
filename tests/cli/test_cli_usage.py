"""What the command line says about itself and about wrong usage."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from dploylib import __version__
from dploylib.cli import cli
from dploylib.cli.exit_codes import EXIT_CODES, ExitCode, table
from dploylib.config import json_schema
from dploylib.messages import MESSAGES

pytestmark = pytest.mark.once("commands run in interpreters of their own, and patch nothing")

DOCS = Path(__file__).parent.parent.parent / "docs"
COMMANDS = (
    *("run", "serve", "ps", "status", "stats", "top", "health", "stop", "reload", "stacks", "loglevel"),
    *("profile", "check", "schema", "call", "send", "listen", "keygen", "key"),
)
SUBCOMMANDS = ("key show", "key authorize", "key revoke")


def run(*arguments: str):
    return CliRunner().invoke(cli, arguments, prog_name="dploylib")


def test_help_and_version_load_neither_sockets_nor_greenlets(dploylib, directory):
    (directory / "loaded.py").write_text(
        "import sys\nfrom dploylib.cli import main\n"
        "for option in sys.argv[1:]:\n    assert main(option.split()) == 0\n"
        "print(sorted({'zmq', 'gevent', 'yaml', 'dploylib.services'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "loaded.py",
            "--version",
            "--help",
            *(f"{command} --help" for command in (*COMMANDS, *SUBCOMMANDS)),
        ],
        cwd=directory,
        env={"PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == (f"dploylib {__version__}", "[]")


def test_the_help_lists_every_command_and_exit_code():
    output = run("--help").output
    assert re.findall(r"^  (\w+)  ", output[output.index("Commands:") :], re.MULTILINE)[: len(COMMANDS)] == list(
        COMMANDS
    )
    for line in table().splitlines():
        assert line in output


def test_every_exit_code_is_explained_in_the_documentation():
    page = (DOCS / "running.md").read_text(encoding="utf-8")
    assert set(EXIT_CODES) == set(ExitCode)
    for code, meaning in EXIT_CODES.items():
        assert f"| {code:d} | {meaning} |" in page


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_the_help_of_a_command_has_an_example(command):
    assert f"Example: dploylib {command}" in run(*command.split(), "--help").output


def test_the_schema_describes_the_configuration():
    schema = json.loads(run("schema").output)
    assert schema == json_schema()
    jsonschema.validate(yaml.safe_load("servers: {echo: {request: {uri: 'tcp://127.0.0.1:5000'}}}"), schema)


def test_the_schema_of_a_message_is_printed_by_its_name():
    for name, message in MESSAGES.items():
        assert json.loads(run("schema", name).output) == message.json_schema()


def test_the_help_of_schema_lists_every_message():
    output = run("schema", "--help").output
    listed = output[output.index("Messages:") : output.index("Example:")]
    assert re.findall(r"^  (\w+)  ", listed, re.MULTILINE) == list(MESSAGES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["schema", "buildreqest"], "no message 'buildreqest'; did you mean 'BuildRequest'? (messages: BuildRequest, "),
        (["run", "module"], "no configuration: give a file with -c FILE, or its values with --set PATH=VALUE"),
        (["run", "module:", "-c", "x"], "expected MODULE:ATTRIBUTE, as in package.module:service"),
        (["run", ":service", "-c", "x"], "expected MODULE:ATTRIBUTE, as in package.module:service"),
        (["run", "a..b", "-c", "x"], "expected MODULE:ATTRIBUTE, as in package.module:service"),
        (["run", "module", "-c", "x", "--set", "a"], "expected PATH=VALUE, as in servers.echo.request.uri=tcp://"),
        (["run", "module", "-c", "x", "--set", "=a"], "expected PATH=VALUE, as in servers.echo.request.uri=tcp://"),
        (["call", "5000", "x"], "a port needs a transport and a host: tcp://127.0.0.1:5000"),
        (["call", "inproc://x", "x"], "an inproc endpoint is known within one process only"),
        (["call", "tcp://127.0.0.1:1", "x", "--timeout", "0"], "expected a number of seconds above 0, as in 2.5"),
        (["run", "sample", "--max-blocking", "-1"], "expected a number of seconds from 0 on, as in 2.5"),
        (["call", "tcp://127.0.0.1:1", "x", "--timeout", "nan"], "expected a number of seconds above 0, as in 2.5"),
        (["call", "tcp://127.0.0.1:1", "x", "--timeout", "soon"], "expected a number of seconds above 0, as in 2.5"),
        (["call", "tcp://127.0.0.1:1", "\udcff"], "expected text in UTF-8"),
        (["call", "tcp://127.0.0.1:1", "--json", "{a: 1}"], "'{a: 1}' is not JSON: "),
        (["call", "tcp://127.0.0.1:1", "x", "--json", "1"], "TEXT and --json are given: expected one of them"),
        (["send", "tcp://127.0.0.1:1", "--file", "nothing"], "nothing"),
        (["listen", "tcp://127.0.0.1:1", "--type", "pull", "--id", "x"], "--id is for --type sub"),
        (["keygen", "alice.key"], "'alice.key': leave out the ending; NAME gets .key and .key_secret by itself"),
        (["keygen", "alice.key_secret"], "leave out the ending"),
        (["keygen"], "Missing argument 'NAME'"),
        (["key", "show"], "Missing argument 'FILE...'"),
        (["key", "shwo", "alice.key"], "No such command 'shwo'"),
        (["key", "authorize", "list", "0" * 40], "a key by itself has no name: give --name NAME, or the file that it"),
    ],
)
def test_wrong_usage_is_told_with_what_was_expected(arguments, expected):
    result = run(*arguments)
    assert expected in result.output
    assert result.output.startswith(f"Usage: dploylib {arguments[0]} ")
    assert result.exit_code == 2


@pytest.mark.parametrize("command", ["run", "serve"])
def test_the_name_of_a_service_must_not_steer_terminals(command):
    done = run(command, "service.py", "-n", "shop\n\x1b[31m")
    assert done.exit_code == ExitCode.USAGE
    assert "'shop\\n\\x1b[31m': a name has no control characters" in done.output

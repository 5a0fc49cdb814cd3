"""docs/serving.md and docs/operating.md list what there is: options, keys, signals, hooks, exit codes, messages."""

import ast
import inspect
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import gunicorn.arbiter
import pytest
from gunicorn.config import KNOWN_SETTINGS

from dploylib.cli.exit_codes import ExitCode
from dploylib.cli.serve import command
from dploylib.config.daemon import HOOKS, DaemonSettings
from dploylib.control import finding
from dploylib.daemon import passing, worker
from dploylib.daemon.arbiter import Arbiter
from dploylib.daemon.changes import Change
from dploylib.daemon.lane import Lane

pytestmark = pytest.mark.once("pages and source code: nothing depends on who waits how")

ROOT = Path(__file__).parent.parent
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")

# Tables -------------------------------------------------------------------------------------------------------------


def tables(page, first):
    """The rows of the tables whose first column is headed so, without their headings, as lists of cells."""
    found, rows = [], None
    for line in page.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if rows is None and cells[0] == first:
            rows = found
        elif rows is not None and not re.fullmatch("-+", cells[0]):
            rows.append(cells)
        elif rows is None:
            rows = []  # another table
    assert found, f"there is no table with a column {first!r}"
    return found


def spans(text):
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def options():
    """The options of `dploylib serve`, those that are hidden left out."""
    return [parameter for parameter in command.params if parameter.param_type_name == "option" and not parameter.hidden]


def flags(option):
    return {*option.opts, *option.secondary_opts}


def test_each_option_is_in_a_table_and_the_other_way_round():
    written = [span for row in tables(SERVING, "key") + tables(SERVING, "option") for span in spans(_flags_of(row))]
    assert len(written) == len(set(written))
    assert set(written) == set().union(*map(flags, options()))


def _flags_of(row):
    return row[1] if len(row) == 4 else row[0]


def test_each_key_is_in_the_table_with_its_option():
    by_key = {spans(row[0])[0]: set(spans(row[1])) for row in tables(SERVING, "key")}
    assert set(by_key) == set(DaemonSettings.__struct_fields__)
    with_options = {option.name: flags(option) for option in options() if option.name in by_key}
    assert {key: written for key, written in by_key.items() if written} == with_options


def test_defaults_are_those_of_gunicorn():
    defaults = {setting.name: setting.default for setting in KNOWN_SETTINGS}
    for key, _, _, unless_set in tables(SERVING, "key"):
        name = spans(key)[0]
        if re.fullmatch(r"\d+|`[^`]+`", unless_set) and name in defaults and name != "workers":
            assert str(defaults[name]) == unless_set.strip("`"), name


def test_each_hook_is_in_the_table_with_its_arguments():
    rows = {spans(row[0])[0]: spans(row[1])[0].split(", ") for row in tables(SERVING, "hook")}
    assert set(rows) == set(HOOKS)
    settings = {setting.name: setting for setting in KNOWN_SETTINGS}
    for hook, arguments in rows.items():
        wanted = len(inspect.signature(settings[hook].default).parameters)
        assert len(arguments) == wanted, hook


def test_each_signal_is_in_a_table():
    of_arbiter, of_worker = (
        {name for row in rows for name in row[0].split(", ")}
        for rows in (_signals("what the arbiter does"), _signals("what a worker does"))
    )
    assert of_arbiter == {number.name.removeprefix("SIG") for number in Arbiter.SIGNALS}
    taken = {number.name for number in (*worker._STARTING_SIGNALS, signal.SIGABRT)}
    assert {f"SIG{name}" for name in of_worker} == taken


def _signals(heading):
    part = SERVING[SERVING.index(f"| signal | {heading} |") :].partition("\n\n")[0]
    return tables(part, "signal")


def test_each_exit_code_is_in_the_table():
    of_clients = {ExitCode.TIMEOUT, ExitCode.PEER, ExitCode.NOT_RUNNING}
    unforeseen = 255  # of gunicorn's: sys.exit(-1)
    assert "sys.exit(-1)" in inspect.getsource(gunicorn.arbiter.Arbiter.run)
    codes = [int(row[0]) for row in tables(SERVING, "code")]
    assert codes == sorted((set(ExitCode) - of_clients) | {unforeseen})


def test_what_needs_a_restart_is_listed():
    from dploylib.daemon.changes import _FOR_A_RESTART, _OF_A_LANE

    listed = SERVING[SERVING.index("What needs a restart stays as it was") : SERVING.index("### Upgrading on the fly")]
    assert {*_FOR_A_RESTART, *_OF_A_LANE} <= set(spans(listed))


def test_times_are_those_of_the_code():
    from dploylib.cli import services
    from dploylib.daemon import arbiter, backoff, checking, reloading

    for seconds, sentence in {
        checking._LONGEST: "It has {:g} seconds.",
        reloading._READY_TIME: "They have {:g} seconds to become ready.",
        arbiter._CLOSING_TIME: "within `graceful_timeout` and {:g} seconds",
        backoff._SOON: "end within {:g} seconds after their start",
        backoff._LONGEST: "after up to {:g} seconds",
        services.SILENT: "{:g} seconds, otherwise with 1",
    }.items():
        assert sentence.format(seconds) in SERVING
    assert finding.status_file("RUN_DIR", 0).replace("0", "PID") in SERVING


def test_what_the_front_counts_is_explained():
    [problems] = [row[1] for row in tables(OPERATING, "in `--json`") if row[0] == "`problems`"]
    [dropped] = [row[1] for row in tables(OPERATING, "in `--json`") if row[0] == "`dropped`"]
    assert set(spans(problems)) == set(passing._PROBLEMS)
    assert set(spans(dropped)) == set(passing._DROPPED)


# The log ------------------------------------------------------------------------------------------------------------

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "exception": 40}
INFO, WARNING = LEVELS["info"], LEVELS["warning"]


class Message(NamedTuple):
    """What the code logs somewhere: the least important level that it may have there, and its text as a pattern."""

    level: int
    pattern: str
    where: str


def messages(source, where):
    """The messages that a source logs: by a logger, or as a complaint."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (level := level_of(node.func)) is not None:
            text = node.args[1] if called(node.func) == "_complain" else node.args[0]
            yield Message(level, pattern_of(text), f"{where}:{node.lineno}")


def level_of(function):
    """The level at which this call logs; None for another call. Of two that it chooses from, the higher one."""
    if isinstance(function, ast.IfExp):
        levels = [level_of(function.body), level_of(function.orelse)]
        return None if None in levels else max(levels)
    name = called(function)
    if name == "_complain" and isinstance(function.value, ast.Name) and function.value.id == "self":
        return WARNING
    if name in LEVELS and (called(function.value) or getattr(function.value, "id", "")) == "log":
        return LEVELS[name]
    return None


def called(function):
    return function.attr if isinstance(function, ast.Attribute) else ""


def pattern_of(text):
    """A pattern for a text with placeholders, of % or in braces."""
    if isinstance(text, ast.JoinedStr):
        return "".join(escaped(part.value) if isinstance(part, ast.Constant) else ".+?" for part in text.values)
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        parts = re.split(r"%[.\d]*[a-z]", text.value.partition("\n")[0])
        return ".+?".join(map(escaped, parts))
    return ".+?"


def escaped(text):
    return re.escape(text).replace("\\ ", " ")


def sources():
    package = ROOT / "dploylib"
    for path in [
        *sorted((package / "daemon").glob("*.py")),
        package / "control/server.py",
        package / "control/http.py",
    ]:
        if path.name == "planning.py":
            continue  # it logs nothing; its complaints are errors of the configuration
        yield path.read_text(encoding="utf-8"), path.name
    yield arbiter_of_gunicorn(), "gunicorn"


# Of gunicorn's arbiter, what ours has no use for.
UNUSED = re.compile("dirty|control|spawn_worker")


def arbiter_of_gunicorn():
    """The methods of gunicorn's arbiter that ours has not replaced, or calls."""
    ours = ast.parse(inspect.getsource(Arbiter).strip())
    called_by_ours = {
        node.func.attr
        for node in ast.walk(ours)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "super()"
    }
    methods = [
        function
        for name, function in vars(gunicorn.arbiter.Arbiter).items()
        if inspect.isfunction(function)
        and not UNUSED.search(name)
        and (name not in vars(Arbiter) or name in called_by_ours)
    ]
    return "".join("class Arbiter:\n" + inspect.getsource(method) for method in methods)


LOGGED = [message for source, where in sources() for message in messages(source, where)]

# Texts that are made elsewhere than where they are logged.
ELSEWHERE = {
    ".+?",  # a change, a flaw, an endpoint
    ".+? .+? .+?",  # how a process has ended
    ".+?: .+?",
}
FLAW = passing.Passing.flaw_of(
    SimpleNamespace(lane=Lane("echo", "request", "rep", (), "")),
    Lane("echo", "request", "rep", (), "", options=(("linger", 1),)),
)
EXAMPLES_OF_THEM = {
    str(Change("general.greeting", True)),
    "echo.request at tcp://127.0.0.1:14445",
    "Handling signal: hup",  # which gunicorn logs by a variable, as it does when the arbiter ends
    "Shutting down: echo",
}
UNUSUAL_EXAMPLES_OF_THEM = {
    str(Change("daemon.user", False)),
    FLAW,
    "worker 7134 was ended by SIGKILL",
    "worker 7134 exited with status 1",
    "Reason: worker 7134 could not start: it exited with status 1",
}
# That cannot happen: all signals that the arbiter takes are known, and handled.
NEVER = {"Unhandled signal: .+?", "Ignoring unknown signal: .+?"}


def the_log():
    """The examples of messages in the two tables: those that are no cause for concern, and the others."""
    usual, unusual = [], []
    for row in tables(OPERATING, "the log says"):
        (usual if len(row) == 2 else unusual).extend(spans(row[0]))
    assert len(usual) > 15
    assert len(unusual) > 25
    return usual, unusual


def matches(message, examples):
    return any(re.fullmatch(message.pattern, example) for example in examples)


@pytest.mark.parametrize(
    "message",
    [one for one in LOGGED if one.level >= INFO and one.pattern not in ELSEWHERE | NEVER],
    ids=lambda message: message.where,
)
def test_each_message_of_the_code_is_explained(message):
    usual, unusual = the_log()
    assert matches(message, unusual if message.level >= WARNING else usual), (
        f"docs/operating.md lacks a row for {message.pattern!r} ({message.where})"
    )


def test_what_the_code_logs_in_texts_made_elsewhere_is_known():
    """One more place that logs a text which this test cannot see needs its example here, and its row there."""
    vague = sorted(one.where.partition(":")[0] for one in LOGGED if one.level >= WARNING and one.pattern in ELSEWHERE)
    assert vague == ["arbiter.py", "front_keeper.py", "reloading.py", "reloading.py"]  # how one ended, flaws, a change


def test_texts_made_elsewhere_are_explained():
    usual, unusual = map(set, the_log())
    assert EXAMPLES_OF_THEM - usual == set()
    assert UNUSUAL_EXAMPLES_OF_THEM - unusual == set()


def test_the_tables_of_the_log_explain_nothing_that_is_not_logged():
    usual, unusual = map(set, the_log())
    known = [one for one in LOGGED if one.pattern not in ELSEWHERE]
    for example in (usual | unusual) - EXAMPLES_OF_THEM - UNUSUAL_EXAMPLES_OF_THEM:
        assert any(re.fullmatch(one.pattern, example) for one in known), f"nothing logs {example!r}"


def test_no_warning_is_explained_as_usual():
    usual, _ = the_log()
    for one in LOGGED:
        assert one.level < WARNING or one.pattern in ELSEWHERE or not matches(one, usual), one


# This test itself -----------------------------------------------------------------------------------------------------


def test_messages_are_found_in_source_code():
    source = """
self.log.info("a %s", b)
(self.log.debug if ok else self.log.error)("%s %d ends", b, c)
log.exception("d %.1f s\\n%s", e, f)
self._complain("kind", f"{g}: h")
other.info("not %s", i)
logging.shutdown()
"""
    found = [(one.level, one.pattern) for one in messages(source, "here")]
    assert found == [(20, "a .+?"), (40, ".+? .+? ends"), (40, "d .+? s"), (30, ".+?: h")]


def test_tables_are_found_in_pages():
    page = "| key | option |\n|---|---|\n| `a` | `-a`, `b\\|c` |\n\ntext\n\n| other | x |\n|---|---|\n| `z` | |\n"
    assert tables(page, "key") == [["`a`", "`-a`, `b|c`"]]
    assert spans(tables(page, "key")[0][1]) == ["-a", "b|c"]

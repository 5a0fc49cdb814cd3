"""Each example does what the comment at its top says: the commands that stand there are run, with free endpoints."""

import ast
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dploylib.config import YAMLConfigMapper

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SERVICES = sorted(path.parent.name for path in EXAMPLES.glob("*/service.py"))
PATIENCE = 30  # seconds until a process is given up
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.once("examples run in interpreters of their own, which decide to patch")


def commands(path):
    """The commands in the comment at the top of an example, by program and subcommand, in their order."""
    lines = re.findall(r"^    ((?:dploylib|python|pytest) .*)$", ast.get_docstring(ast.parse(path.read_text())), re.M)
    return [shlex.split(line) for line in lines]


def as_process(command):
    """The command for this interpreter, installed or not."""
    program, *arguments = command
    return [sys.executable, *([] if program == "python" else ["-m", program]), *arguments]


def run(command, directory=ROOT):
    """Run a command to its end, and return its status and what it said."""
    done = subprocess.run(
        as_process(command), cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def started(command, **options):
    """Run a command in the background, and end it unless it has ended by itself."""
    options = {"cwd": ROOT, "env": ENVIRONMENT, "text": True, **options}
    process = subprocess.Popen(as_process(command), **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def from_run_on(name):
    """The commands of an example from the one on that runs its service."""
    return list(
        itertools.dropwhile(
            lambda one: one[:2] not in (["dploylib", "run"], ["dploylib", "serve"]),
            commands(EXAMPLES / name / "service.py"),
        )
    )


@contextlib.contextmanager
def running(name, log=None):
    """Run the service of an example as its comment says, but for the ports. Yield the other commands of the comment.

    What it logs from then on is added to `log`, if there is one; otherwise it may log no errors.
    """
    command, *others = from_run_on(name)
    written = (EXAMPLES / name / "config.yaml").read_text()
    ports = re.findall(r"\$\{(\w+_PORT):-\d+\}", written)
    assert ports
    defaults = YAMLConfigMapper(environ={}).process_string(written)
    uris = {
        f"{server}.{socket}": info.uri
        for server in defaults.server_names
        for socket, info in defaults.server_info(server).items()
    }
    with started(
        [*command, "--log-format", "json"],
        env={**ENVIRONMENT, **dict.fromkeys(ports, "*")},
        stderr=subprocess.PIPE,
    ) as process:
        endpoints = {}
        while len(endpoints) < len(set(uris.values())):
            line = process.stderr.readline()
            assert line, f"the service ended with status {process.wait()} before it was ready"
            socket, is_at, endpoint = json.loads(line)["message"].partition(" is at ")
            if is_at:
                endpoints[uris[socket]] = endpoint
        yield [[endpoints.get(argument, argument) for argument in other] for other in others]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    entries = [json.loads(line) for line in said.splitlines()]
    if log is None:
        assert [entry for entry in entries if entry["level"] in ("error", "critical")] == []
    else:
        log += entries


def test_the_echo_service_echoes():
    with running("echo") as [call]:
        assert run(call) == (0, "hello\n", "")


def test_the_echo_service_runs_as_a_script_too(tmp_path):
    shutil.copytree(EXAMPLES / "echo", tmp_path, dirs_exist_ok=True)
    environment = {**ENVIRONMENT, "ECHO_PORT": "no port"}
    done = subprocess.run(
        [sys.executable, "service.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    # It has found its configuration, and has got as far as the port that it cannot use.
    assert "config.yaml:4: servers.echo.request.uri: found 'tcp://127.0.0.1:no port'" in done.stderr


def test_a_class_handler_serves_two_servers():
    with running("class_handler") as [call_quiet, call_loud]:
        assert run(call_quiet) == (0, "hello\n", "")
        assert run(call_loud) == (0, "!!! hello\n", "")


def test_a_broadcast_reaches_a_listener():
    with running("broadcast") as [listen, send], started([*listen, "--count", "1"], stdout=subprocess.PIPE) as listener:
        while listener.poll() is None:  # what is sent before the listener has subscribed is not for it
            assert run(send) == (0, "", "")
        assert "good morning" in listener.stdout.read()
        assert listener.returncode == 0


def test_a_build_is_followed_to_its_end():
    with running("build") as [client]:
        status, output, error = run(client)
    assert (status, error) == (0, "")
    shop = ["fetching shop", "building shop", "completed"]
    broken = ["fetching broken", "building broken", "broken failed: it does not compile"]
    assert output.splitlines() == [*shop, *broken]


def test_the_queue_gives_back_what_was_put_in():
    with running("queue") as [put, take, take_wrongly]:
        assert run(put) == (0, '{"position":1}\n', "")
        assert run(put) == (0, '{"position":2}\n', "")
        status, output, _ = run(take)
        assert (status, json.loads(output)) == (0, [{"app": "shop", "commit": "1f3a"}] * 2)
        assert run(take) == (0, "[]\n", "")

        status, output, error = run(take_wrongly)
        assert (status != 0, output) == (True, "")
        assert "Expected `int`, got `str` - at `$.limit`" in error


def test_jobs_are_done_by_workers(monkeypatch, tmp_path):
    monkeypatch.setitem(ENVIRONMENT, "JOBS_FILE", str(tmp_path / "jobs.db"))
    log = []
    with running("jobs", log) as [client]:
        status, output, error = run(client)
    assert (status, error) == (0, "")
    accepted = [f"accepted {name}.jpg" for name in ("lake", "moody", "wood")]
    assert output.splitlines() == [*accepted, "all done; 0 failed for good"]
    done = [entry["message"].partition(": ")[2] for entry in log if " pixels wide" in entry["message"]]
    assert sorted(done) == [
        "lake.jpg is 800 pixels wide (attempt 1)",
        "moody.jpg is 800 pixels wide (attempt 2)",
        "wood.jpg is 800 pixels wide (attempt 1)",
    ]


def test_only_cooks_cook(monkeypatch, tmp_path):
    monkeypatch.setitem(ENVIRONMENT, "KEYS", str(tmp_path))
    for command in commands(EXAMPLES / "secured" / "service.py")[:5]:
        status, _, error = run(command, tmp_path)
        assert (status, error) == (0, "")
    with running("secured") as [by_alice, by_bob, by_nobody, revoke, by_alice_again]:
        assert run(by_alice, tmp_path) == (0, "soup, by alice\n", "")
        status, output, error = run(by_bob, tmp_path)
        assert (status, output) == (6, "")
        assert "403 Forbidden: kitchen.cook is for cooks, and not for bob" in error
        status, output, error = run(by_nobody, tmp_path)
        assert (status, output) == (7, "")
        assert "the server wants CURVE, and this client has no key" in error
        assert run(revoke, tmp_path)[0] == 0
        while (last := run(by_alice_again, tmp_path)) == (0, "soup, by alice\n", ""):  # it is noticed within a second
            pass
        assert last[:2] == (7, "")
        assert "the server does not let this client in with its key SHA256:" in last[2]


def test_slow_handlers_run_at_once():
    with running("slow_handlers") as [ask]:
        status, output, error = run(ask)
    assert (status, error) == (0, "")
    at_once = int(re.match(r"20 replies; up to (\d+) handlers ran at once\nstarted\nfinished\n$", output)[1])
    assert at_once > 1


def test_the_ticker_publishes_and_says_goodbye():
    with contextlib.ExitStack() as stack:
        with running("ticker") as [listen]:
            listener = stack.enter_context(started(listen, stdout=subprocess.PIPE))
            lines = [listener.stdout.readline(), listener.stdout.readline()]
        while "goodbye" not in lines[-1]:
            lines.append(listener.stdout.readline())
            assert lines[-1], f"the listener ended with status {listener.wait()}"
    ticks = [line.split()[-1] for line in lines[:-1]]
    first = int(ticks[0])
    assert [int(tick) for tick in ticks] == list(range(first, first + len(ticks)))
    assert f"goodbye after {ticks[-1]}" in lines[-1]


def test_a_server_that_crashes_is_started_again_and_the_other_one_goes_on():
    log = []
    with running("supervised", log) as [ask]:
        status, output, error = run(ask)
    assert (status, error) == (0, "")
    processes, counted = re.search(r"^12 answers by (\d+) processes.*\n.*: ([\d ]+)$", output, re.M).groups()
    assert int(processes) > 1
    counts = list(map(int, counted.split()))
    assert counts == sorted(set(counts))  # a server that begins again counts from 1

    died = [entry["message"] for entry in log if entry["level"] == "error"]
    restarts = [entry["message"] for entry in log if entry["message"].startswith("restart ")]
    assert len(died) == len(restarts) >= int(processes) - 1
    assert {message.partition(",")[0] for message in died} == {"server careless died"}
    assert restarts[0].endswith(" was ended by SIGKILL")
    for number, message in enumerate(restarts, 1):
        assert message.startswith(f"restart {number} of careless, since: ")
    # What its last process has heard of, and tells the log of the service.
    assert f"counter has handled {counts[-1]} requests since it was started" in [entry["message"] for entry in log]


def test_a_trace_is_in_the_log_of_all_servers_that_it_goes_through():
    log = []
    with running("tracing", log) as [order]:
        status, output, error = run(order)
    assert (status, error) == (0, "")
    trace = re.fullmatch(r"on its way: trace ([0-9a-f]{32})\n", output)[1]
    entries = [entry for entry in log if entry.get("trace_id") == trace]
    assert {entry["service"] for entry in entries} == {"shop"}
    said = [(entry["server"], entry["logger"], entry["message"].partition(" in ")[0]) for entry in entries]
    assert sorted(said) == [
        ("orders", "dploylib.access", "orders.request handled text/plain of 5 bytes"),
        ("orders", "shop", "ordered"),
        ("stock", "dploylib.access", "stock.request handled text/plain of 5 bytes"),
        ("stock", "shop", "10 left"),
    ]


# What the log says when a signal has done its work, in the order in which they are sent.
ANSWERS = [
    ("TTIN", "3 workers"),
    ("TTOU", "2 workers"),
    ("HUP", "reloaded"),
    ("HUP", "not reloaded, nothing has changed"),
    ("KILL", "was ended by SIGKILL"),
    ("TERM", "Shutting down"),
]


@pytest.mark.timeout(180)
def test_the_daemon_goes_as_it_says(tmp_path):
    """Type the commands of its README, from top to bottom, in as many terminals as it has."""
    shutil.copytree(EXAMPLES / "serving", tmp_path / "examples" / "serving")
    config, log = tmp_path / "examples" / "serving" / "config.yaml", tmp_path / "log"
    with tempfile.TemporaryDirectory(prefix="dl-") as short, contextlib.ExitStack() as stack:
        config.write_text(re.sub(r"tcp://127\.0\.0\.1:\$\{\w+:-(\d+)\}", rf"ipc://{short}/\1", config.read_text()))
        page = (EXAMPLES / "serving" / "README.md").read_text()
        session = re.sub(r"tcp://127\.0\.0\.1:(\d+)", rf"ipc://{short}/\1", page)
        options = {"cwd": tmp_path, "env": {**ENVIRONMENT, "XDG_RUNTIME_DIR": short}, "text": True}
        answers, ask, asking = iter(ANSWERS), [], None
        for command, printed in re.findall(r"^\$ (.*)\n((?:(?!```|\$ ).*\n)*)", session, re.M):
            words = shlex.split(command)
            if words[:2] == ["dploylib", "serve"] and "--check-config" not in words:
                stderr = stack.enter_context(log.open("w"))
                daemon = stack.enter_context(started(words, **options, stderr=stderr))
                wait_logged(daemon, log, "clients connect to ")
            elif words[-1] == "10":
                pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
                asking = stack.enter_context(started([*words[:-1], "5"], **options, **pipes))  # seconds
            elif words[0] == "kill":
                signal_name, answer = next(answers)
                assert words[1] == f"-{signal_name}"
                assert answer in page or signal_name == "TERM"
                before = log.read_text().count(answer)
                assert typed(command, options) == (0, "")
                wait_logged(daemon, log, answer, before + 1)
            else:
                status, output = typed(command, options)
                assert (status, kinds(output)) == (0, kinds(printed)), command
                ask = words if "client.py" in command else ask
            if asking is not None and answer == "reloaded":
                output, error = asking.communicate(timeout=PATIENCE)
                assert (asking.returncode, error) == (0, "")  # nothing was lost
                assert set(re.findall(r"times (.*)", output)) <= {"hello, world", "good day, world"}
                asking = None
                _, output = typed(shlex.join(ask), options)
                assert re.findall(r"times (.*)|^numbers (\d+)", output, re.M) == [("good day, world", ""), ("", "4")]
        assert list(answers) == []
        assert daemon.wait(PATIENCE) == 0
    said = log.read_text()
    assert "general.greeting has changed: applied" in said
    assert said.count("1 worker processes have died since the start") == 1
    assert not (tmp_path / "serving.pid").exists()
    assert "greeting: hello" in config.read_text()


def typed(command, options):
    """What a shell does with a command: its status, and what it says."""
    done = subprocess.run(
        [*SHELL, command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, **options
    )
    return done.returncode, done.stdout


def kinds(output):
    """An output without what differs each time: numbers, widths, and what each worker has counted."""
    return sorted(
        re.sub(r"\d+", "N", " ".join(re.sub(r"(MiB).*", r"\1", line).split())) for line in output.splitlines()
    )


def wait_logged(process, log, text, times=1):
    """Wait until a service has logged this so many times."""
    ends = time.monotonic() + PATIENCE
    while log.read_text().count(text) < times:
        assert process.poll() is None or text in log.read_text(), log.read_text()
        assert time.monotonic() < ends, f"waited in vain for {text!r} in\n{log.read_text()}"
        time.sleep(0.05)


def test_the_scripts_need_no_service():
    serve, ask = commands(EXAMPLES / "scripts" / "server.py")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([*serve, "tcp://127.0.0.1:*"], **pipes) as server:
        endpoint = server.stdout.readline().strip().removeprefix("listening at ")
        assert run([*ask, endpoint]) == (0, "hello\n", "")
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert re.fullmatch(r"KeyboardInterrupt\n\S+Z\n", said)  # gevent says that much


def test_the_example_of_a_test_passes():
    [command] = commands(EXAMPLES / "in_a_test" / "test_greeting.py")
    status, output, _ = run([*command, "-p", "no:cacheprovider", "-p", "no:hypothesispytest"])
    assert status == 0, output
    assert "3 passed" in output


def test_the_demo_deploys_a_web_application():
    [command] = commands(EXAMPLES / "demo.py")
    status, output, error = run(command)
    assert (status, error) == (0, ""), output
    assert re.findall("<h1>(.*)</h1>", output) == ["Hello from dploy", "Moin from dploy"]
    assert output.endswith("sample: stopped\n\nThe services have stopped, and nothing is left.\n")


def test_the_demo_fails_when_the_application_does_not_run(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "dploy" / "sample" / "web.py").write_text("raise SystemExit('nothing works')")
    status, output, error = run(["python", "examples/demo.py"], tmp_path)
    assert (status, error) == (1, "dploy push failed with status 1\n"), output
    assert "│ web: nothing works" in output


def test_the_echo_service_shows_what_goes_over_the_wire():
    [command] = commands(EXAMPLES / "echo" / "wire.py")
    status, output, error = run(command)
    assert (status, error) == (0, ""), output
    for frame in ("'text/plain'", "'hello'", "'application/problem+json'"):
        assert frame in output


def test_what_is_shown_of_the_wire_is_checked(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    service = tmp_path / "examples" / "echo" / "service.py"
    working = "socket.send_envelope(received)"
    assert working in service.read_text()
    service.write_text(service.read_text().replace(working, "return 'nothing of the kind'"))
    status, _, error = run(["python", "examples/echo/wire.py"], tmp_path)
    assert (status, error) == (1, "expected 'hello', got 'nothing of the kind'\n")


def test_nothing_is_shown_of_the_wire_when_the_service_does_not_start(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "echo" / "config.yaml").write_text("servers: {}\n")
    (tmp_path / "examples" / "echo" / "service.py").write_text("import nothing_like_it\n")
    status, _, error = run(["python", "examples/echo/wire.py"], tmp_path)
    assert status == 1
    assert error.startswith("the service ended before it was ready, with status ")


def test_the_examples_would_pass_the_check_of_the_command_line(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**ENVIRONMENT, "KEYS": str(tmp_path)}}
    for command in commands(EXAMPLES / "secured" / "service.py")[:5]:
        assert run(command, tmp_path)[0] == 0
    with contextlib.ExitStack() as stack:
        checks = []
        for name in SERVICES:
            command = from_run_on(name)[0]
            checks.append(stack.enter_context(started(["dploylib", "check", *command[2:]], **pipes)))
        for check in checks:
            output, error = check.communicate(timeout=PATIENCE)
            assert (check.returncode, error) == (0, ""), output


def test_the_tutorial_goes_as_it_says(tmp_path):
    """Do what it says, from top to bottom: write its files, type its commands, compare what they print."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    with tempfile.TemporaryDirectory(prefix="dl-") as short, contextlib.ExitStack() as services:
        page = re.sub(r"tcp://127\.0\.0\.1:(\d+)", rf"ipc://{short}/\1", page)
        typed = 0
        for name, language, text in BLOCK.findall(page):
            if name:
                (tmp_path / name).write_text(text)
            elif language == "console" and "pip install" not in text:
                typed += type_in(text, tmp_path, services)
        services.close()
    assert typed > 10


BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)


def type_in(session, directory, services):
    """Type the commands of a block, and compare what they print. A service goes on until the next one is run."""
    parts = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", session, re.M)
    for command, printed in parts:
        if " run " in command:
            services.close()
            services.enter_context(serving(shlex.split(command), directory))
        else:
            done = subprocess.run(
                [*SHELL, command], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
            )
            assert (command, done.stderr + done.stdout) == (command, printed)
    return len(parts)


# What a shell of the tutorial's reader has, installed or not.
PROGRAMS = f"""python() {{ {shlex.quote(sys.executable)} "$@"; }}; dploylib() {{ python -m dploylib "$@"; }}"""
SHELL = ["sh", "-c", f'{PROGRAMS}; eval "$0"']


@contextlib.contextmanager
def serving(command, directory):
    """Run a service, and stop it as Ctrl-C does."""
    with started(command, cwd=directory, stderr=subprocess.DEVNULL) as process:
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0


def test_every_example_is_in_the_table():
    table = (EXAMPLES / "README.md").read_text()
    there = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"} | {"demo.py"}
    first = "\n".join(re.findall(r"^\|(.*?)\|", table, re.M))
    assert set(re.findall(r"\[(.+?)/?\]\(", first)) == there

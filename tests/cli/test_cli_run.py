"""`dploylib run` and `dploylib check`, as a user runs them."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

ROOT = Path(__file__).parent.parent.parent
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


def text(output: bytes) -> str:
    return output.decode()


# Starting -----------------------------------------------------------------------------------------------------------


def test_a_service_answers_a_call_from_another_process(sample, dploylib):
    done = dploylib("call", sample.endpoint("echo"), "hello")
    assert (done.stdout, done.stderr, done.returncode) == (b"hello\n", b"", 0)


def test_the_log_is_json_an_object_a_line(start_service, dploylib):
    service = start_service()
    first = service.wait_for("sample.news is at tcp://127.0.0.1:")
    assert first.keys() == {"time", "level", "logger", "message", "service"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (first["level"], first["logger"]) == ("info", "dploylib.services.service")

    dploylib("call", service.endpoint("fail"), "x")
    failed = service.wait_for("the handler of sample.fail failed")
    assert failed["level"] == "error"
    assert failed["exception"].startswith("Traceback")
    assert failed["exception"].endswith("ValueError: the secret of the handler")

    dploylib("call", service.endpoint("spawn"), "alone")
    died = service.wait_for("Sample.die")
    assert (died["logger"], died["exception"].splitlines()[-1]) == ("gevent", "ZeroDivisionError: a greenlet died")


def test_the_log_is_text_by_default(start):
    service = start("run", "sample", "-c", "config.yaml")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO dploylib\.services\.service: sample\.\w+ is at tcp://\S+\n",
        service.stderr.readline(),
    )


def test_a_log_level_leaves_lesser_records_out(start_service, dploylib):
    service = start_service("--log-level", "ERROR", "--set", "servers.sample.fail.uri=ipc://fail.sock")
    assert dploylib("call", "ipc://fail.sock", "x", "--timeout", "20").returncode == 6
    service.wait_for("the handler of sample.fail failed")
    assert len(service.records) == 1


def test_values_are_set_on_the_command_line(start_service, dploylib):
    start_service("--set", "servers.sample.echo.uri=ipc://other.sock", "--set", "servers.sample.echo.timeout=1")
    assert dploylib("call", "ipc://other.sock", "hello", "--timeout", "20").stdout == b"hello\n"


def test_values_alone_are_a_configuration(dploylib, directory):
    (directory / "small.py").write_text(
        "from dploylib import Server, Service, bind\n"
        "class Small(Server):\n    out = bind('out', 'pub')\n"
        "service = Service()\nservice.add_server('small', Small)\n"
    )
    done = dploylib("check", "small", "--set", "servers.small.out.uri=tcp://127.0.0.1:*")
    assert (text(done.stdout), done.returncode) == (
        "OK: 1 server, 1 socket\nsmall.out  pub  bind  tcp://127.0.0.1:*\n",
        0,
    )


def test_check_says_what_sockets_are_secured_by(dploylib, directory):
    (directory / "small.py").write_text(
        "from dploylib import Server, Service, bind\n"
        "class Small(Server):\n    near, far, inner = (bind(name, 'pub') for name in ('near', 'far', 'self'))\n"
        "service = Service()\nservice.add_server('small', Small)\n"
    )
    (directory / "users").touch(0o600)
    (directory / "users").write_text("ann secret staff\n")
    (directory / "small.yaml").write_text(
        "security: {passwords: users}\n"
        "servers:\n"
        "  small:\n"
        "    near: {uri: 'ipc://near'}\n"
        "    far: {uri: 'tcp://127.0.0.1:*', security: {groups: [staff, cooks]}}\n"
        "    self: {uri: 'inproc://self'}\n"
    )
    assert text(dploylib("check", "small", "-c", "small.yaml").stdout).splitlines()[1:] == [
        "small.near  pub  bind  ipc://near         plain",
        "small.far   pub  bind  tcp://127.0.0.1:*  plain for staff,cooks",
        "small.self  pub  bind  inproc://self",
    ]


def test_check_takes_settings_of_templates_and_tells_what_they_require(dploylib, directory):
    (directory / "small.py").write_text(
        "from dploylib import Server, Service, bind\n"
        "from dploylib.services import ServiceTemplate, required\n"
        "class Small(Server):\n    out = bind('out', 'pub')\n"
        "class Ready(ServiceTemplate):\n"
        "    servers = {'small': Small}\n"
        "    settings = {'servers': {'small': {'out': {'uri': '${OUT:-ipc://@out}'}}}}\n"
        "class Wants(Ready):\n    servers = {'more': required(Small)}\n"
        "service, lacking = Service([Ready]), Service([Wants])\n"
    )
    (directory / "empty.yaml").touch()
    done = dploylib("check", "small", "-c", "empty.yaml")
    assert text(done.stdout) == "OK: 1 server, 1 socket\nsmall.out  pub  bind  ipc://@out\n"
    for command in ("check", "run"):
        done = dploylib(command, "small:lacking", "-c", "empty.yaml")
        assert text(done.stderr) == (
            "template Wants: servers.more: template Wants requires a server 'more', a subclass of Small: add it by "
            "add_server('more', ...)\n"
        )
        assert done.returncode == 3


def test_the_module_is_imported_after_patching(sample, dploylib):
    done = dploylib("call", sample.endpoint("describe"), "x")
    assert json.loads(done.stdout)["patched"] is True


@pytest.mark.parametrize(("option", "patched"), [("--patch", True), ("--no-patch", False)])
def test_patching_can_be_left_to_the_module(dploylib, directory, option, patched):
    with (directory / "sample.py").open("a") as file:
        file.write("print(PATCHED)\n")
    done = dploylib("check", "sample", "-c", "config.yaml", option)
    assert (done.stdout.splitlines()[0], done.returncode) == (str(patched).encode(), 0)


def test_an_unpatched_service_runs(start_service, dploylib):
    service = start_service("--no-patch")
    done = dploylib("call", service.endpoint("describe"), "x")
    assert json.loads(done.stdout)["patched"] is False


# Blocking -----------------------------------------------------------------------------------------------------------


def test_a_handler_that_blocks_everything_is_named_in_the_log(start_service, start):
    service = start_service()
    start("call", service.endpoint("block"), "for ever", "--timeout", "30")
    blocked = service.wait_for("sample.block: the handler Sample.block has blocked the hub for ")
    assert (blocked["level"], blocked["logger"]) == ("error", "dploylib.services.blocking")
    assert "sample.py:" in blocked["message"]
    assert "in block\n    while True:" in blocked["stack"] or "in block\n    pass" in blocked["stack"]


@pytest.mark.parametrize(("seconds", "between_looks"), [("2", "0.5 s"), ("0", "no monitor thread")])
def test_the_time_that_is_too_long_can_be_chosen(start_service, directory, seconds, between_looks):
    with (directory / "sample.py").open("a") as file:
        file.write(
            "def setup(self):\n    thread = gevent.get_hub().periodic_monitoring_thread\n"
            "    log.info('looks: %s', 'no monitor thread' if thread is None else f'{thread.min_sleep_time} s')\n"
            "Sample.setup = setup\n"
        )
    assert start_service("--max-blocking", seconds).wait_for("looks: ")["message"] == f"looks: {between_looks}"


def test_a_hub_that_is_blocked_by_its_log_goes_on_when_somebody_reads_it(start, directory):
    (directory / "verbose.py").write_text(
        textwrap.dedent("""\
        import logging, pathlib
        from dploylib import Server, Service, bind_in

        def note(record):  # which the monitor thread calls before it takes any lock
            pathlib.Path("reporting").touch()
            return True

        logging.getLogger("dploylib.services.blocking").addFilter(note)

        class Verbose(Server):
            @bind_in("request", "rep")
            def request(self, socket, received):
                logging.error("x" * 1_000_000)  # more than a pipe takes
                return "done"

        service = Service()
        service.add_server("verbose", Verbose)
        """)
    )
    service = start("run", "verbose", "--set", "servers.verbose.request.uri=ipc://v.sock", "--max-blocking", "0.1")
    call = start("call", "ipc://v.sock", "x", "--timeout", "30")
    while not (directory / "reporting").exists():
        assert service.poll() is None
        time.sleep(0.01)
    while "verbose.request: the handler Verbose.request has blocked the hub for " not in service.stderr.readline():
        assert service.poll() is None
    assert call.communicate(timeout=30) == ("done\n", "")


def test_the_hub_itself_can_log_while_another_thread_does():
    program = """
    from gevent import monkey; monkey.patch_all()
    import gevent, logging
    from dploylib.cli.logs import configure
    configure("info", "text")
    [handler] = logging.getLogger().handlers
    taken = monkey.get_original("_thread", "allocate_lock")()
    taken.acquire()
    def log_slowly():
        with handler.lock:
            taken.release()
            monkey.get_original("time", "sleep")(0.2)
    monkey.get_original("_thread", "start_new_thread")(log_slowly, ())
    taken.acquire()
    gevent.get_hub().loop.run_callback(logging.info, "from the hub")
    gevent.sleep(0)
    """
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True)
    assert done.stderr.endswith(b"INFO root: from the hub\n")


# Stopping -----------------------------------------------------------------------------------------------------------


@SIGNALS
def test_a_signal_lets_the_running_handler_finish(start_service, start, directory, number):
    service = start_service()
    gate = directory / "gate"
    call = start("call", service.endpoint("slow"), str(gate), "--timeout", "30")
    service.wait_for("handling")
    service.process.send_signal(number)
    service.wait_for(f"{number.name}: stopping")
    gate.touch()
    output, errors = call.communicate(timeout=30)
    assert (output, errors, call.returncode) == ("finished\n", "", 0)
    assert service.ended() == 0
    assert service.records[-1]["message"] == "stopped"


def test_a_service_that_is_blocked_ends_by_further_signals(start_service, start):
    services = {signal.SIGINT: start_service(), signal.SIGTERM: start_service()}
    for number, service in services.items():
        start("call", service.endpoint("block"), "for ever", "--timeout", "30")
        service.wait_for("blocking")
        service.process.send_signal(number)
    for number, service in services.items():
        for _ in range(20):  # it ends by one that is more than a second later
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(timeout=0.3)
                break
            service.process.send_signal(number)
        assert service.process.returncode == 128 + number
        assert "the hub is blocked" in service.process.stderr.read()


@SIGNALS
def test_a_second_signal_ends_the_running_handler_at_once(start_service, start, number):
    service = start_service()
    call = start("call", service.endpoint("slow"), "never-there", "--timeout", "30")
    service.wait_for("handling")
    service.process.send_signal(number)
    service.wait_for(f"{number.name}: stopping")
    service.process.send_signal(number)
    assert service.ended() == 128 + number
    _, errors = call.communicate(timeout=30)
    assert "503 Handler ended" in errors
    assert call.returncode == 6


def test_the_time_that_handlers_have_in_a_stop_can_be_chosen(start_service, start):
    service = start_service("--graceful-timeout", "0.1")
    call = start("call", service.endpoint("slow"), "never-there", "--timeout", "30")
    service.wait_for("handling")
    service.process.send_signal(signal.SIGTERM)
    assert service.ended() == 0  # it was no second signal that ended the handler
    _, errors = call.communicate(timeout=30)
    assert "503 Handler ended" in errors


def test_a_service_whose_server_dies_ends_with_a_status_of_its_own(start_service, dploylib):
    service = start_service()
    dploylib("call", service.endpoint("spawn"), "with the server")
    assert service.ended() == 1
    last = service.records[-1]
    assert "server 'sample' died" in last["message"]
    assert "exception" not in last
    assert any("ZeroDivisionError: a greenlet died" in record.get("exception", "") for record in service.records)


# What can be wrong --------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_one_message(sample, dploylib):
    endpoint = sample.endpoint("echo")
    done = dploylib("run", "sample", "-c", "config.yaml", "--set", f"servers.sample.echo.uri={endpoint}")
    assert done.returncode == 7
    assert "Traceback" not in text(done.stderr)
    last = text(done.stderr).splitlines()[-1]
    assert last.startswith(f"Error: server 'sample', socket 'echo': {endpoint} is in use by another socket")


def test_a_failing_setup_shows_its_traceback(dploylib, directory):
    with (directory / "sample.py").open("a") as file:
        file.write("def setup(self):\n    raise RuntimeError('no database')\nSample.setup = setup\n")
    done = dploylib("run", "sample", "-c", "config.yaml")
    assert done.returncode == 1
    assert "in setup\n    raise RuntimeError('no database')" in text(done.stderr)
    assert text(done.stderr).splitlines()[-1] == "Error: RuntimeError: no database"


def test_check_and_run_report_all_problems_with_their_lines(dploylib, directory):
    (directory / "bad.yaml").write_text(
        textwrap.dedent("""\
        servers:
          sample:
            echo: {urii: "tcp://127.0.0.1:*"}
            news:
              uri: 5000
            typo: {uri: "tcp://127.0.0.1:*"}
        """)
    )
    checked = dploylib("check", "sample", "-c", "bad.yaml", "--set", "servers.sample.fail.timeout=-1")
    lines = text(checked.stderr).splitlines()
    assert (checked.returncode, checked.stdout) == (3, b"")
    for beginning in (
        "bad.yaml:3: servers.sample.echo.urii: unknown key",
        "bad.yaml:5: servers.sample.news.uri: found 5000",
        "--set: servers.sample.fail.timeout: found -1",
    ):
        assert sum(line.startswith(beginning) for line in lines) == 1, lines
    run = dploylib("run", "sample", "-c", "bad.yaml", "--set", "servers.sample.fail.timeout=-1")
    assert (run.returncode, run.stderr) == (3, checked.stderr)


def test_check_says_what_the_service_and_its_configuration_do_not_share(dploylib):
    done = dploylib("check", "sample", "-c", "config.yaml", "--set", "servers.sample.nwes.uri=tcp://127.0.0.1:*")
    assert done.returncode == 3
    assert "--set: servers.sample.nwes: the configuration has a socket 'nwes'" in text(done.stderr)


def test_check_lists_what_would_run_and_binds_nothing(sample, dploylib):
    endpoint = sample.endpoint("echo")
    done = dploylib("check", "sample.py", "-c", "config.yaml", "--set", f"servers.sample.echo.uri={endpoint}")
    lines = text(done.stdout).splitlines()
    assert (lines[0], done.returncode, done.stderr) == ("OK: 1 server, 8 sockets", 0, b"")
    assert f"sample.echo      rep     bind  {endpoint}" in lines


def test_a_configuration_that_is_not_there_is_one_message(dploylib):
    done = dploylib("run", "sample", "-c", "nothing.yaml", "--log-format", "json")
    [line] = done.stderr.splitlines()
    assert json.loads(line)["message"].startswith("nothing.yaml: no such file")
    assert done.returncode == 3


# Loading the module -------------------------------------------------------------------------------------------------


def check(dploylib, directory, target: str, source: str, file: str = "mine.py") -> tuple[int, list[str]]:
    (directory / file).parent.mkdir(exist_ok=True)
    (directory / file).write_text(source)
    done = dploylib("check", target, "-c", "config.yaml")
    return done.returncode, text(done.stderr).splitlines()


def test_the_directory_of_a_file_is_on_the_path(dploylib, directory):
    source = "import beside\nfrom sample import service as inner\nclass group: service = inner\n"
    (directory / "deeper").mkdir()
    (directory / "deeper" / "beside.py").touch()
    (directory / "sample.py").rename(directory / "deeper" / "sample.py")
    assert check(dploylib, directory, "deeper/mine.py:group.service", source, "deeper/mine.py") == (0, [])


def test_a_file_may_have_the_name_of_a_module_that_is_imported_already(dploylib, directory):
    source = "from sample import service\nimport queue\nqueue.SimpleQueue\n"
    assert check(dploylib, directory, "deeper/queue.py", source, "deeper/queue.py") == (0, [])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("smaple", "Error: no module 'smaple': No module named 'smaple'; did you mean sample?"),
        ("sample.deeper", "Error: no module 'sample.deeper': No module named 'sample.deeper'; 'sample' is not a"),
        ("./sample", "Error: no file './sample' in {}; did you mean ./sample.py?"),
        ("gone.py", "Error: no file 'gone.py' in {}"),
        ("sample:app", "Error: sample has no attribute 'app'; there is sample:service"),
        ("sample.py:service.x", "Error: sample.py.service has no attribute 'x'; there is sample.py:service"),
        ("sample:Sample", "Error: sample:Sample is not a Service but a server class (add it to a service"),
        ("sample:log", "Error: sample:log is not a Service but a Logger; there is sample:service"),
    ],
)
def test_what_is_not_there_is_one_message(dploylib, directory, target, message):
    done = dploylib("check", target, "-c", "config.yaml")
    [line] = text(done.stderr).splitlines()
    assert line.startswith(message.format(directory))
    assert done.returncode == 4


@pytest.mark.parametrize("target", ["mine", "mine.py"])
def test_a_missing_import_inside_the_module_is_not_taken_for_a_missing_module(dploylib, directory, target):
    code, lines = check(dploylib, directory, target, "x = 1\nimport not_installed\n")
    assert lines == [
        "Traceback (most recent call last):",
        f'  File "{directory / "mine.py"}", line 2, in <module>',
        "    import not_installed",
        "ModuleNotFoundError: No module named 'not_installed'",
        f"Error: {target} failed to import: ModuleNotFoundError: No module named 'not_installed'",
    ]
    assert code == 4


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("def broken(:\n", "Error: mine failed to import: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import sys\nsys.exit(0)\n", "Error: mine failed to import: SystemExit: 0"),
        ("1 / 0\n", "Error: mine failed to import: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_shows_where(dploylib, directory, source, last):
    code, lines = check(dploylib, directory, "mine", source)
    assert (code, lines[-1]) == (4, last)
    assert any(f'File "{directory / "mine.py"}", line' in line for line in lines)
    assert "importlib" not in "\n".join(lines)

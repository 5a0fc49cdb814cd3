"""Fixtures for the tests of examples/dploy: all of it in one service, or as the processes that a user runs."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dploylib.servers import offload
from dploylib.services import Service
from examples.dploy import broadcast, build, queues, zone
from examples.dploy.__main__ import main
from examples.dploy.processes import find_marked

ROOT = Path(__file__).parent.parent.parent
DPLOY = ROOT / "examples" / "dploy"
SAMPLE = DPLOY / "sample"
SERVICES = ("queues", "broadcast", "build", "zone")
PATIENCE = 40.0  # seconds; an upper bound for a command, on a loaded machine too


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home of dploy: a directory whose path is short enough for ipc endpoints. No process may be left in it."""
    path = Path(tempfile.mkdtemp(prefix="dl-")).resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPLOY_HOME", str(path))
        yield path
    left = {name: find_marked(str(path / name)) for name in ("build", "zone")}
    shutil.rmtree(path)
    assert not any(left.values()), f"processes left: {left}"


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., Path]:
    """`app("web: python web.py")`: a directory with the sample, but for its Procfile."""

    def make(*procfile: str) -> Path:
        directory = tmp_path / "app"
        shutil.copytree(SAMPLE, directory, dirs_exist_ok=True)
        (directory / "Procfile").write_text("\n".join(procfile))
        return directory

    return make


def get(url: str) -> str:
    """A page. In a thread, since what serves it may be in our hub."""
    return offload(_get, url)


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as response:
        return str(response.read().decode())


# In one service -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def all_in_one() -> Iterator[Service]:
    """All four services in one, as they are configured."""
    configuration: dict[str, Any] = {}
    for name in SERVICES:
        for section, values in yaml.safe_load((DPLOY / f"{name}.yaml").read_text()).items():
            configuration.setdefault(section, {}).update(values)
    templates = [queues.QueuesTemplate, broadcast.BroadcastTemplate, build.BuildTemplate, zone.ZoneTemplate]
    with Service(templates=templates) as service:
        yield service.start(config_dict=configuration)


def command(*arguments: Any) -> tuple[int, str]:
    """What a command of the client returns, and what it says."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    """All four services in one, which run."""
    with all_in_one() as service:
        yield service


@pytest.fixture
def dploy(service: Service) -> Callable[..., tuple[int, str]]:
    """`dploy("push", directory)`: a command of the client, while the services run."""
    return command


# As processes -------------------------------------------------------------------------------------------------------


class Processes:
    """The services as processes of their own, and the client."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "DPLOY_HOME": str(home)}
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[subprocess.Popen[str]] = []

    def start(self, *names: str) -> None:
        for name in names:
            command = [sys.executable, "-m", "dploylib", "run", f"examples.dploy.{name}", "-c", DPLOY / f"{name}.yaml"]
            with (self.home / f"{name}.log").open("ab") as log:
                self._services[name] = subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=log)

    def kill(self, name: str) -> None:
        """End a service as a crash does."""
        self._services[name].kill()
        self._services[name].wait(PATIENCE)

    def stop(self) -> dict[str, int]:
        """Stop all services, and return their statuses."""
        for process in self._services.values():
            process.terminate()
        return {name: process.wait(PATIENCE) for name, process in self._services.items()}

    def begin(self, *arguments: Any) -> "subprocess.Popen[str]":
        """Start a command of the client."""
        command = [sys.executable, "-m", "examples.dploy", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._clients.append(subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, **pipes))
        return self._clients[-1]

    def dploy(self, *arguments: Any) -> tuple[int, str]:
        """Run a command of the client; its status, and what it says."""
        process = self.begin(*arguments)
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def end(self) -> None:
        for process in (*self._services.values(), *self._clients):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture(scope="module")
def processes(home: Path) -> Iterator[Processes]:
    """The four services, which run."""
    running = Processes(home)
    try:
        running.start(*SERVICES)
        yield running
        statuses = running.stop()
    finally:
        running.end()
    assert statuses == dict.fromkeys(SERVICES, 0)

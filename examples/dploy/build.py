"""The build center: makes releases of archives.

    dploylib run examples.dploy.build -c examples/dploy/build.yaml

A build that was killed begins anew when its job comes again, and makes the same release.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import gevent
import msgspec

from dploylib import servers
from dploylib.clients import RequestClient
from dploylib.messages import AppRelease, BuildRequest, EnvVars, ZoneDeployOrder
from dploylib.messages.store import EnvVarsStore
from dploylib.services import Service, ServiceTemplate

from .files import Unusable, checked_name, fetch, pack, read_processes, unpack
from .jobs import HomeSettings, JobWorker
from .processes import kill_group, kill_strays, lines_of, start


class BuildSettings(HomeSettings, frozen=True, kw_only=True):
    orders: str  # the endpoint of the queue for the zone
    build_timeout: float = 600.0  # seconds for each command of a build


class EnvChange(msgspec.Struct):
    """Variables to set; those that are null are removed. Without any, the others are told."""

    app: str
    service: str = "app"
    variables: dict[str, str | None] = {}


class BuildCenter(JobWorker):
    """Makes a release of each build request, and orders the zone to deploy it."""

    deserializer = BuildRequest
    settings_type = BuildSettings
    schema = """
        CREATE TABLE IF NOT EXISTS releases (
            app TEXT, version INTEGER, broadcast_id TEXT UNIQUE, archive_uri TEXT, "commit" TEXT, message TEXT,
            env TEXT, processes TEXT, made REAL, PRIMARY KEY (app, version)
        );
    """

    def setup(self):
        super().setup()
        self.env = EnvVarsStore(f"sqlite:///{self.home / 'env.db'}")
        self.orders = RequestClient(self.own.orders, context=self.context)
        self.building = self.home / "building"
        kill_strays(str(self.home))  # what a center that was killed was building
        shutil.rmtree(self.building, ignore_errors=True)
        self.building.mkdir()

    def teardown(self):
        self.orders.close()
        self.env.close()
        super().teardown()

    def do(self, id, request):
        checked_name(request.app)
        with self.lock(request.app):
            release = self.release_of(id) or self.earlier(request) or self.build(id, request)
        self.info(id, f"v{release.version} waits for the zone")
        # The queue of orders keeps it; if it has it already, since we come a second time, this changes nothing.
        order = ZoneDeployOrder(release.app, self.cargo_of(release).as_uri())
        self.orders.request(order, id=id, timeout=float("inf"), idempotent=True)

    # Building --------------------------------------------------------------------------------------------------

    def build(self, id, request):
        with tempfile.TemporaryDirectory(dir=self.building) as temporary:
            directory = Path(temporary)
            self.info(id, "fetching the archive")
            servers.offload(fetch, request.archive_uri, directory / "archive.tar.gz")
            servers.offload(unpack, directory / "archive.tar.gz", directory / "cargo" / "app")
            processes = read_processes(directory / "cargo" / "app")
            self.info(id, f"building {request.commit[:10]}")
            self.install_requirements(id, directory / "cargo")
            env = self.env.get(request.app)
            release = self.new_release(id, request, env, processes)
            self.info(id, f"packing v{release.version}")
            (directory / "cargo" / "release.json").write_bytes(release.to_bytes())
            servers.offload(pack, directory / "cargo", self.cargo_of(release), without_interpreter)
            return release

    def install_requirements(self, id, directory):
        requirements = directory / "app" / "requirements.txt"
        if requirements.exists() and requirements.read_text().strip():
            venv = directory / "venv"
            self.run(id, [sys.executable, "-m", "venv", "--without-pip", venv], directory)
            pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--disable-pip-version-check"]
            self.run(id, [*pip, "install", "-r", "requirements.txt"], directory / "app")
            for script in (venv / "bin").iterdir():  # which will be somewhere else: see `without_interpreter`
                text = script.read_bytes()
                if text.startswith(b"#!") and not script.is_symlink():
                    script.write_bytes(b"#!/usr/bin/env python\n" + text.partition(b"\n")[2])

    def run(self, id, command, directory):
        """Run a command, and broadcast what it says."""
        name, seconds = " ".join(map(str, command[1:4])), self.own.build_timeout
        process = start(list(map(str, command)), directory, {}, str(self.home))
        try:
            with gevent.Timeout(seconds, Unusable(f"{name} takes longer than {seconds:g} s")):
                for line in lines_of(process):
                    self.line(id, line)
                status = process.wait()
        finally:
            kill_group(process)  # also if this handler is ended
        if status != 0:
            raise Unusable(f"{name} failed with status {status}: see above")

    # Releases --------------------------------------------------------------------------------------------------

    def new_release(self, id, request, env, processes):
        """Give the release of a job its number: the next one of the app, and the same one when the job comes again."""
        self.database.execute(
            "INSERT INTO releases SELECT ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM releases"
            " WHERE app = ? ON CONFLICT (broadcast_id) DO NOTHING",
            [
                *(request.app, id, request.archive_uri, request.commit, request.update_message),
                *(env.to_bytes(), msgspec.json.encode(processes), time.time(), request.app),
            ],
        )
        return self.select("broadcast_id = ?", id)

    def release_of(self, id):
        """The release that was made of a job before, with its cargo."""
        release = self.select("broadcast_id = ?", id)
        return release if release and self.cargo_of(release).exists() else None

    def earlier(self, request):
        """The release that a request asks for by its number."""
        if not request.release_version:
            return None
        release = self.select("app = ? AND version = ?", request.app, request.release_version)
        if release is None or not self.cargo_of(release).exists():
            raise Unusable(f"there is no v{request.release_version} of {request.app}: see `dploy releases`")
        return release

    def select(self, where, *values):
        row = self.database.execute(f"SELECT * FROM releases WHERE {where}", values).fetchone()
        return row and AppRelease(
            row["version"],
            row["app"],
            row["commit"],
            EnvVars.from_bytes(row["env"]),
            msgspec.json.decode(row["processes"]),
        )

    def cargo_of(self, release):
        return self.home / "cargos" / f"{release.app}-v{release.version}.tar.gz"

    @servers.bind_in("releases", "rep")
    def releases(self, socket, received):
        """The releases of the app in the body, the newest first."""
        columns = 'version, broadcast_id, archive_uri, "commit", message, made'
        query = f"SELECT {columns} FROM releases WHERE app = ? ORDER BY version DESC"
        return list(map(dict, self.database.execute(query, [received.text])))

    @servers.bind_in("env", "rep", obj=EnvChange)
    def change_env(self, socket, received):
        """Change variables of an app, for its next release, and tell all that it has."""
        change = received.obj
        checked_name(change.app)
        given = {name: value for name, value in change.variables.items() if value is not None}
        if given:
            self.env.set(change.app, change.service, given)
        if change.variables.keys() - given.keys():
            self.env.unset(change.app, change.service, sorted(change.variables.keys() - given.keys()))
        return self.env.get(change.app)


def without_interpreter(entry):
    """Leave out the links of a virtual environment to its interpreter: the zone puts the one there that it has."""
    return None if entry.issym() and entry.name.startswith("./venv/bin/") else entry


class BuildTemplate(ServiceTemplate):
    servers = {"build": BuildCenter}


service = Service(templates=[BuildTemplate])

"""The zone: runs releases of apps.

    dploylib run examples.dploy.zone -c examples/dploy/zone.yaml

A new release takes over when it is up, and nobody who asks meanwhile notices. If it does not come up, the one before
goes on.
"""

import contextlib
import logging
import os
import shutil
import socket
import sqlite3
import sys
import time
import urllib.request
from collections import Counter, deque
from datetime import datetime
from http.client import HTTPException
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import gevent
import msgspec
from gevent.server import StreamServer
from gevent.socket import create_connection

from dploylib import servers
from dploylib.errors import PeerError
from dploylib.messages import AppRelease, ZoneDeployOrder, ZoneStopDeploy
from dploylib.services import Service, ServiceTemplate

from .files import Unusable, checked_name, fetch, unpack
from .jobs import HomeSettings, JobWorker
from .processes import AppProcess, born, kill_strays

log = logging.getLogger(__name__)

LOG_SIZE, LOGS_KEPT = 1024 * 1024, 3  # bytes of a file, and how many full ones of each app
DRAINING = 5.0  # seconds for connections to a release that another one has replaced
STEADY = 0.5  # seconds for which each process of a new release has to run, at least


class ZoneSettings(HomeSettings, frozen=True, kw_only=True):
    health_path: str = "/health"
    health_timeout: float = 20.0
    stop_timeout: float = 5.0


class LogRequest(msgspec.Struct):
    app: str
    lines: Annotated[int, msgspec.Meta(ge=0)] = 100


class Order:
    """What a zone is told: a ZoneDeployOrder, or a ZoneStopDeploy."""

    @staticmethod
    def deserialize(data):
        return (ZoneStopDeploy if "apps" in data else ZoneDeployOrder).deserialize(data)


class Door(StreamServer):
    """Where an app is found, whichever release of it runs: passes connections on to the port of that one."""

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), self.pass_on)
        self.target = None
        self.open = Counter()  # connections, by target
        try:
            self.start()
        except OSError:  # somebody has taken the port while the zone was away
            self.address = ("127.0.0.1", 0)
            self.start()

    def pass_on(self, client, _):
        target = self.target
        self.open[target] += 1
        try:
            with create_connection(("127.0.0.1", target)) as app:
                back = gevent.spawn(self.copy, app, client)
                self.copy(client, app)
                back.join()
        except OSError:
            pass  # there is nobody at the moment: the client sees that its connection is closed
        finally:
            self.open[target] -= 1

    @staticmethod
    def copy(source, destination):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                destination.sendall(data)
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_WR)

    def drain(self, target, seconds):
        with gevent.Timeout(seconds, False):
            while self.open[target]:
                gevent.sleep(0.02)


class Deployment:
    """A release of an app that runs: its processes, in a directory of their own."""

    def __init__(self, zone, app, directory):
        self.zone = zone
        self.directory = directory
        self.release = AppRelease.from_bytes((directory / "release.json").read_bytes())
        if self.release.app != app:
            raise Unusable(f"the cargo is one of {self.release.app!r}, not of {app}")
        # Nobody else is given this port while we have it. The app may listen there: servers set SO_REUSEADDR, too.
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = self.reserved.getsockname()[1]
        self.said = deque(maxlen=10)
        self.processes = {name: self.start(name, command) for name, command in self.release.processes.items()}

    def start(self, name, command):
        env = {key: value for variables in self.release.env.values() for key, value in variables.items()}
        path = [str(self.directory / "venv" / "bin"), os.path.dirname(sys.executable), os.environ["PATH"]]
        env = {"PATH": os.pathsep.join(path), **env, **({"PORT": str(self.port)} if name == "web" else {})}

        zone = self.zone

        def said(text):
            self.said.append(f"{name}: {text}")
            zone.log_line(self.release.app, name, text)

        return AppProcess(
            command, self.directory / "app", env, str(zone.home), zone.note_process, zone.forget_process, said
        )

    def wait_until_up(self):
        """Return when all processes run and the web process answers. Raises `Unusable` with the reason if not."""
        url = f"http://127.0.0.1:{self.port}{self.zone.own.health_path}"
        deadline = time.monotonic() + self.zone.own.health_timeout
        reason = "its processes do not start"
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                if process.ended:
                    raise Unusable(f"its process {name} {process.ended}")
            if all(process.seconds >= STEADY for process in self.processes.values()):
                reason = servers.offload(health_flaw, url) if "web" in self.processes else None
                if reason is None:
                    return
            gevent.sleep(0.05)
        raise Unusable(f"it is not healthy after {self.zone.own.health_timeout:g} s: {reason}")

    def stop(self):
        gevent.joinall([gevent.spawn(one.stop, self.zone.own.stop_timeout) for one in self.processes.values()])
        self.reserved.close()


def health_flaw(url):
    """Why the app at this address is not healthy; None if it is."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=2) as response:
            response.read(1024)
    except (OSError, HTTPException) as error:
        return f"{url}: {error}"
    return None


class Zone(JobWorker):
    """Runs one release of each app, as it is ordered to."""

    deserializer = Order
    settings_type = ZoneSettings
    schema = """
        CREATE TABLE IF NOT EXISTS apps (
            app TEXT PRIMARY KEY, directory TEXT NOT NULL, port INTEGER NOT NULL, runs INTEGER NOT NULL
        );
        CREATE TABLE IF NOT EXISTS processes (pid INTEGER PRIMARY KEY, born TEXT NOT NULL);
    """

    def setup(self):
        super().setup()
        self.doors, self.deployments, self.logs = {}, {}, {}
        strays = kill_strays(str(self.home), map(tuple, self.database.execute("SELECT pid, born FROM processes")))
        self.database.execute("DELETE FROM processes")
        if strays:
            log.warning("killed %d processes that a zone before this one has left", len(strays))
        for row in self.database.execute("SELECT * FROM apps").fetchall():
            try:
                self.resume(row["app"], Path(row["directory"]), row["port"], row["runs"])
            except (OSError, PeerError):  # somebody has changed the files: the others run all the same
                log.exception("%s does not run again: deploy it", row["app"])

    def resume(self, app, directory, port, runs):
        self.tidy(app, directory)
        if runs:
            self.run(Deployment(self, app, directory), port)

    def teardown(self):
        self.stop_apps(list(self.deployments))
        for file in self.logs.values():
            file.close()
        super().teardown()

    def do(self, id, order):
        return self.stop_by_order(id, order.apps) if isinstance(order, ZoneStopDeploy) else self.deploy(id, order)

    # Deploying -------------------------------------------------------------------------------------------------

    def deploy(self, id, order):
        app = checked_name(order.app)
        with self.lock(app):
            self.info(id, "the zone fetches the cargo")
            directory = self.home / "apps" / app / uuid4().hex
            cargo = directory.with_suffix(".cargo")
            try:
                servers.offload(fetch, order.cargo_uri, cargo)
                servers.offload(unpack, cargo, directory)
            finally:
                cargo.unlink(missing_ok=True)
            if (directory / "venv").exists():
                for name in ("python", "python3"):
                    (directory / "venv" / "bin" / name).symlink_to(os.path.realpath(sys.executable))
            self.replace(id, app, directory)
            url = self.url_of(app)
            return f"v{self.deployments[app].release.version} of {app} runs" + (f" at {url}" if url else "")

    def replace(self, id, app, directory):
        """Start what is in a directory, and let it take over when it is up. Else all stays as it is."""
        before = self.deployments.get(app)
        new = Deployment(self, app, directory)
        try:
            self.info(id, f"v{new.release.version} starts")
            new.wait_until_up()
        except BaseException as error:
            new.stop()
            shutil.rmtree(directory, ignore_errors=True)
            if not isinstance(error, Unusable):
                raise
            for line in new.said:
                self.line(id, line)
            goes_on = f"v{before.release.version} goes on" if before else "nothing runs"
            raise Unusable(f"v{new.release.version} of {app} did not come up: {error}; {goes_on}") from error
        known = self.database.execute("SELECT port FROM apps WHERE app = ?", [app]).fetchone()
        self.run(new, known["port"] if known else 0)
        self.database.execute(
            "REPLACE INTO apps VALUES (?, ?, ?, ?)", [app, str(directory), self.doors[app].server_port, True]
        )
        if before:
            self.doors[app].drain(before.port, DRAINING)
            before.stop()
        self.tidy(app, directory)

    def tidy(self, app, directory):
        """Remove what there is of an app but this directory."""
        for path in (self.home / "apps" / app).iterdir():
            if path.is_file():
                path.unlink()
            elif path != directory:
                shutil.rmtree(path, ignore_errors=True)

    def run(self, deployment, port):
        """Let a release be the one that runs."""
        app = deployment.release.app
        if app not in self.doors:
            self.doors[app] = Door(port)
        self.doors[app].target = deployment.port
        self.deployments[app] = deployment

    def stop_by_order(self, id, apps):
        for app in apps:
            with self.lock(checked_name(app)):
                self.info(id, f"stopping {app}")
                self.database.execute("UPDATE apps SET runs = 0 WHERE app = ?", [app])
                self.stop_apps([app])
        return f"{', '.join(apps)}: stopped"

    def stop_apps(self, apps):
        running = [self.deployments.pop(app) for app in apps if app in self.deployments]
        for deployment in running:
            self.doors.pop(deployment.release.app).stop()
        gevent.joinall([gevent.spawn(deployment.stop) for deployment in running])

    def url_of(self, app):
        return f"http://127.0.0.1:{self.doors[app].server_port}/" if "web" in self.deployments[app].processes else None

    # Processes and logs ----------------------------------------------------------------------------------------

    def note_process(self, pid):
        with contextlib.suppress(sqlite3.Error):  # a full disk: it has our mark, too
            self.database.execute("REPLACE INTO processes VALUES (?, ?)", [pid, born(pid) or ""])

    def forget_process(self, pid):
        with contextlib.suppress(sqlite3.Error):
            self.database.execute("DELETE FROM processes WHERE pid = ?", [pid])

    def log_line(self, app, process, text):
        line = f"{datetime.now().isoformat(timespec='milliseconds')} {process}: {text}"
        self.log_file(app).emit(logging.makeLogRecord({"msg": line}))
        self.line(f"logs/{app}/", line)

    def log_file(self, app):
        if app not in self.logs:
            path = self.home / "logs" / f"{app}.log"
            path.parent.mkdir(exist_ok=True)
            self.logs[app] = RotatingFileHandler(path, maxBytes=LOG_SIZE, backupCount=LOGS_KEPT, encoding="utf-8")
        return self.logs[app]

    @servers.bind_in("logs", "rep", obj=LogRequest)
    def tell_logs(self, socket, received):
        """The last lines that an app has logged."""
        path = self.home / "logs" / f"{checked_name(received.obj.app)}.log"
        if not path.exists():
            raise Unusable(f"{received.obj.app} has logged nothing here: see `dploy ps`")
        lines = deque(maxlen=received.obj.lines)
        for one in (path.with_suffix(".log.1"), path):
            if one.exists():
                with one.open() as file:
                    lines.extend(line.rstrip("\n") for line in file)
        return list(lines)

    @servers.bind_in("apps", "rep")
    def tell_apps(self, socket, received):
        """All apps, and what runs of them."""
        return [self.described(row) for row in self.database.execute("SELECT * FROM apps ORDER BY app").fetchall()]

    def described(self, row):
        app = row["app"]
        running = self.deployments.get(app)
        if running is None:
            return {"app": app, "version": None, "url": None, "processes": []}
        processes = [
            {"name": name, "pid": one.pid, "seconds": round(one.seconds), "starts": one.starts, "ended": one.ended}
            for name, one in running.processes.items()
        ]
        return {"app": app, "version": running.release.version, "url": self.url_of(app), "processes": processes}


class ZoneTemplate(ServiceTemplate):
    servers = {"zone": Zone}


service = Service(templates=[ZoneTemplate])

"""What the build center and the zone have in common: they take jobs from a queue, and tell what becomes of each."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
from gevent.lock import BoundedSemaphore

from dploylib import servers
from dploylib.errors import InvalidData, InvalidMessage, PeerError, TransportError
from dploylib.messages import BroadcastMessage, BroadcastOutputData, BroadcastStatusData
from dploylib.servers.generic import Worker
from dploylib.transport import Problem

from .files import Unusable

log = logging.getLogger(__name__)

TRIES = 5  # of a job that fails because of us, as a full disk makes it


def open_database(path, schema):
    """Open a file of SQLite. Each statement is on the disk when it returns, and says all or nothing."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    database.row_factory = sqlite3.Row
    database.executescript(schema)
    return database


class HomeSettings(msgspec.Struct, frozen=True, kw_only=True):
    home: str  # the directory for what is kept


class JobWorker(Worker):
    """Works on jobs, broadcasts how they go under their ids, and remembers how each ended.

    A job may come a second time, when somebody was killed in the middle of it. Then what is known is told again, or it
    is done from its beginning.
    """

    settings_type = HomeSettings
    broadcast = servers.connect("broadcast", "push")
    schema = "CREATE TABLE IF NOT EXISTS outcomes (id TEXT PRIMARY KEY, type TEXT NOT NULL, data TEXT NOT NULL);"

    def setup(self):
        super().setup()
        self.home = Path(self.own.home).absolute()
        self.database = open_database(self.home / "state.db", JobWorker.schema + self.schema)
        self.locks = WeakValueDictionary()

    def teardown(self):
        self.database.close()
        super().teardown()

    def do(self, id, job):
        """Work on a job, and return the message that says that it is completed; None when somebody else goes on."""
        raise NotImplementedError

    def lock(self, name):
        """What lets only one at a time work on something of this name, in the order in which they come."""
        return self.locks.setdefault(name, BoundedSemaphore())

    def work(self, received):
        if not received.id:
            raise InvalidData("a job needs an id, which its broadcasts have")
        with self.lock(received.id):  # a queue that was killed hands out again what we are working on
            known = self.outcome_of(received.id) or self._done(received)
        if known is not None:
            self.tell(received.id, known)

    @servers.bind_in("outcome", "rep")
    def outcome(self, socket, received):
        """How the job with the id in the body ended: a BroadcastMessage, or null if it has not."""
        known = self.outcome_of(received.text)
        return b"null" if known is None else known

    def on_error(self, socket, received, error):
        if isinstance(error, (Unusable, InvalidMessage)):
            return Problem("urn:example:unusable", "This cannot be used", 422, str(error))
        return None

    def outcome_of(self, id):
        row = self.database.execute("SELECT type, data FROM outcomes WHERE id = ?", [id]).fetchone()
        return row and BroadcastMessage("status", BroadcastStatusData(row["type"], row["data"]))

    def _done(self, received):
        try:
            completed = self.do(received.id, received.obj)
        except (Unusable, PeerError) as error:
            outcome = BroadcastStatusData("error", str(error))
        except Exception as error:
            if received.metadata.attempt < TRIES:
                self.info(received.id, f"{self.name} has failed ({error}), and tries again")
                raise  # the queue lets it wait a little
            log.exception("%s: job %s has failed %d times", self.name, received.id, TRIES)
            outcome = BroadcastStatusData("error", f"{self.name} has failed {TRIES} times: {error}")
        else:
            if completed is None:
                return None
            outcome = BroadcastStatusData("completed", completed)
        self.database.execute("REPLACE INTO outcomes VALUES (?, ?, ?)", [received.id, outcome.type, outcome.data])
        return BroadcastMessage("status", outcome)

    # Broadcasts ------------------------------------------------------------------------------------------------
    # They are for the eyes: one that cannot be sent is left out. How a job ended, its outcome tells.

    def tell(self, id, message):
        with contextlib.suppress(TransportError):
            self.sockets.broadcast.send_obj(message, id, timeout=0)

    def info(self, id, text):
        self.tell(id, BroadcastMessage("status", BroadcastStatusData("info", text)))

    def line(self, id, text):
        self.tell(id, BroadcastMessage("output", BroadcastOutputData("line", text)))

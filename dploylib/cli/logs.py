"""The log of a service: to stderr, as text or as an object of JSON a line."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys

from .failures import Failure, users_traceback

__all__ = ["LEVELS", "JSONFormatter", "configure", "drop_what_cannot_be_written", "log_failure"]

LEVELS = ("debug", "info", "warning", "error", "critical")
"""The names of the levels."""

_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON. It is ASCII, so that no encoding of stderr can damage it."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        entry = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry)


def configure(level: str, form: str) -> None:
    """Log to stderr from this level on, in this form: 'text' or 'json'. Warnings and dying greenlets are logged too."""
    from ..services.logs import log_all_by

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if form == "json" else logging.Formatter(_TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    log_all_by(handler)


def drop_what_cannot_be_written() -> None:
    """Let what stderr still holds go if its disk is full: else Python would exit with status 120, whatever ours is."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def log_failure(failure: Failure) -> None:
    """Log why a command fails, for whom reads the log by machine."""
    log = logging.getLogger("dploylib")
    cause = failure.cause
    exc_info = None if cause is None else (type(cause), cause, users_traceback(cause))
    for message in failure.messages:
        log.critical(message.removeprefix("Error: "), exc_info=exc_info)

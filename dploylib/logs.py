"""The lines of a log."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

__all__ = ["JSONFormatter", "formatter"]

_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TEXT_FORMAT_OF_ONE = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception`.

    With `process` it also has the id of the process.
    """

    def __init__(self, process: bool = False) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON. It is ASCII, so that no encoding of stderr can damage it."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        entry: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            entry["process"] = record.process
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry)


def formatter(form: str, process: bool = False) -> logging.Formatter:
    """What makes lines of records: of 'text' or of 'json'; with the id of the `process`, where there are several."""
    if form == "json":
        return JSONFormatter(process)
    return logging.Formatter(_TEXT_FORMAT_OF_ONE if process else _TEXT_FORMAT)

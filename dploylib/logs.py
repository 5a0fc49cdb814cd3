"""The lines of a log, and what they say of the message that is handled where something is logged."""

from __future__ import annotations

import copy
import datetime
import json
import logging
import os
from collections.abc import Callable
from typing import Any, TextIO

from .handling import Trace, handled

__all__ = ["FIELDS", "JSONFormatter", "MessageFields", "TextFormatter", "formatter", "may_colour"]

FIELDS = ("service", "server", "socket", "request_id", "trace_id")
"""What `MessageFields` says of a message, as attributes of a record: each a str, '' for what is not known."""

_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TEXT_FORMAT_OF_ONE = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}  # of a record
_LONGEST = 64  # characters of what a peer calls its request

_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "1;31", "DEBUG": "2"}
_DIM = "2"


class MessageFields(logging.Filter):
    """Says in each record which message is handled where it is logged: it sets the attributes `FIELDS`.

    It is added to a handler, `handler.addFilter(MessageFields())`, and lets every record pass. A record has what there
    is from elsewhere already, by `extra=` or by another process. `service` returns what the service of the process is
    called, for records that are about no message.
    """

    def __init__(self, service: Callable[[], str] = str) -> None:
        super().__init__()
        self.service = service

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes."""
        has = record.__dict__
        for name, value in zip(FIELDS, _fields(), strict=True):
            has.setdefault(name, value)
        has["service"] = has["service"] or self.service()
        return True


def _fields() -> tuple[str, str, str, str, str]:
    message = handled()
    if message is None:
        return ("", "", "", "", "")
    where, metadata = message
    if metadata is None:
        return (*where, "", "")
    place = Trace.parse(metadata.traceparent) if metadata.traceparent else None
    return (*where, _shown(metadata.request_id), place.trace_id if place else "")


def _shown(request_id: object) -> str:
    """What a peer calls its request, which may be anything: on one line, and not too long."""
    text = "" if request_id is None else str(request_id)[:_LONGEST]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception`.

    Behind them comes what a record has besides: the `FIELDS` of a message, and what was given with `extra=`. With
    `process` there is also the id of the process.
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
        for name, value in record.__dict__.items():
            if name not in _USUAL and not (value == "" and name in FIELDS):
                entry.setdefault(name, value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # it was logged in another process
            entry["exception"] = record.exc_text
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text, with what `MessageFields` says in brackets at its end.

    With `process` it has the id of the process, with `colours` those of a terminal.
    """

    def __init__(self, process: bool = False, colours: bool = False) -> None:
        super().__init__(_TEXT_FORMAT_OF_ONE if process else _TEXT_FORMAT)
        self._colours = colours

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, without the traceback."""
        if self._colours and record.levelname in _COLOURS:
            record = copy.copy(record)
            record.levelname = self._coloured(record.levelname, _COLOURS[record.levelname])
        line = super().formatMessage(record)
        fields = _summary(record)
        return f"{line} {self._coloured(fields, _DIM)}" if fields else line

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _summary(record: logging.LogRecord) -> str:
    """What is known of the message, short: the service is the same in all lines."""
    server, socket, request_id, trace_id = (getattr(record, name, "") for name in FIELDS[1:])
    if not server:
        return ""
    parts = [f"{server}.{socket}"]
    if request_id:
        parts.append(f"request={request_id}")
    if trace_id:
        parts.append(f"trace={trace_id}")
    return f"[{' '.join(parts)}]"


def may_colour(stream: TextIO) -> bool:
    """Whether what is written there may be coloured: on a terminal, unless the environment says otherwise.

    NO_COLOR (no-color.org) and FORCE_COLOR (force-color.org) count if they are not empty, the first one first.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def formatter(form: str, process: bool = False, colours: bool = False) -> logging.Formatter:
    """What makes lines of records: of 'text' or of 'json'; with the id of the `process`, where there are several."""
    return JSONFormatter(process) if form == "json" else TextFormatter(process, colours)

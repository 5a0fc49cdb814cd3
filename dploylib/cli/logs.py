"""The log of a service: to stderr, as text or as an object of JSON a line."""

from __future__ import annotations

import logging
import os
import sys

from ..logs import MessageFields, formatter, may_colour
from .failures import Failure, users_traceback

__all__ = ["LEVELS", "configure", "drop_what_cannot_be_written", "log_failure"]

LEVELS = ("debug", "info", "warning", "error", "critical")
"""The names of the levels."""


def configure(level: str, form: str) -> MessageFields:
    """Log to stderr from this level on, in this form: 'text' or 'json'. Warnings and dying greenlets are logged too.

    Returns what says of each record what it is about.
    """
    from ..services.logs import log_all_by

    handler = logging.StreamHandler()
    fields = MessageFields()
    handler.addFilter(fields)
    handler.setFormatter(formatter(form, colours=may_colour(sys.stderr)))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    log_all_by(handler)
    return fields


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

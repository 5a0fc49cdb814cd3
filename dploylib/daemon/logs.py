"""The log of a daemon: that of gunicorn, of dploylib and of the user's code, to one place."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
from typing import Any

from gunicorn import glogging

from ..errors import ConfigurationError, ConfigurationProblem
from ..logs import MessageFields, formatter, may_colour

__all__ = ["Logger"]

_SYSLOG_FORMAT = "[%(process)d]: %(levelname)s %(name)s: %(message)s"


class Logger(glogging.Logger):
    """gunicorn's logger, whose handlers have what everybody else logs, too.

    It opens the files, again when they were moved away, and talks to syslog.
    """

    def setup(self, cfg: Any) -> None:
        """Log as the settings say."""
        ours = set(self.error_log.handlers)
        try:
            super().setup(cfg)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigurationError([ConfigurationProblem("daemon", f"the log cannot be opened: {error}")]) from error
        root = logging.getLogger()
        for handler in [one for one in root.handlers if one in ours]:
            root.removeHandler(handler)
        root.setLevel(self.loglevel)
        for handler in self.error_log.handlers:
            handler.addFilter(MessageFields(lambda: str(cfg.proc_name)))
            if type(handler) is logging.FileHandler:
                handler.setFormatter(formatter(cfg.log_format, process=True))
            elif type(handler) is logging.StreamHandler:
                handler.setFormatter(formatter(cfg.log_format, process=True, colours=may_colour(handler.stream)))
            elif isinstance(handler, logging.handlers.SysLogHandler):
                # Who it is, first, and without what would end that to syslog (RFC 3164, 4.1.3).
                tag = re.sub(r"[^\w.-]", "_", cfg.syslog_prefix or cfg.proc_name)
                handler.setFormatter(logging.Formatter(f"{tag}{_SYSLOG_FORMAT}"))
            root.addHandler(handler)
        self.error_log.name = "dploylib.daemon"  # who it is, is nothing that whoever reads the log needs to know

    def reopen_files(self) -> None:
        """Open the log files again, for the user of the workers, too, where we are root."""
        super().reopen_files()
        for handler in self.error_log.handlers:
            if isinstance(handler, logging.FileHandler):
                with contextlib.suppress(OSError):
                    os.chown(handler.baseFilename, self.cfg.user, self.cfg.group)

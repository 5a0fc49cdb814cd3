"""The log of a daemon: that of gunicorn, of dploylib and of the user's code, to one place."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn import glogging

from ..logs import formatter

__all__ = ["Logger"]


class Logger(glogging.Logger):
    """gunicorn's logger, whose handlers have what everybody else logs, too.

    It opens the files, again when they were moved away, and talks to syslog.
    """

    def setup(self, cfg: Any) -> None:
        """Log as the settings say."""
        ours = set(self.error_log.handlers)
        super().setup(cfg)
        root = logging.getLogger()
        for handler in [one for one in root.handlers if one in ours]:
            root.removeHandler(handler)
        root.setLevel(self.loglevel)
        for handler in self.error_log.handlers:
            if type(handler) in (logging.StreamHandler, logging.FileHandler):
                handler.setFormatter(formatter(cfg.log_format, process=True))
            root.addHandler(handler)
        self.error_log.name = "dploylib.daemon"  # who it is, is nothing that whoever reads the log needs to know

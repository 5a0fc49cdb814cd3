"""The application that gunicorn runs: the settings of a daemon, as gunicorn has them, and what to run by them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.errors import ConfigError

from ..config.daemon import size_of
from ..errors import ConfigurationError, ConfigurationProblem
from .arbiter import Arbiter
from .checking import Command
from .logs import Logger
from .planning import Plan
from .worker import Code, Worker

__all__ = ["Application"]

# What gunicorn has no setting for, or another one.
_OURS = ("balance", "hooks", "log_format", "max_memory", "name", "run_dir", "servers")


class Application(BaseApplication):
    """A daemon, for gunicorn.

    `plan` says what to run, and `code` is what runs it. `checking` is the command by which a child makes the plan anew:
    see `Checking`. Its directory is that in which a second arbiter starts, too.
    """

    def __init__(self, plan: Plan, code: Code, checking: Command) -> None:
        self.plan = plan
        self.code = code
        self.checking = checking
        super().__init__(prog="dploylib serve")

    def do_load_config(self) -> None:
        """Make gunicorn's settings of those of the plan. Raises `ConfigurationError`."""
        self.cfg = _config_of(self.plan)

    def load(self) -> Any:
        """The service. It is what workers run, and what is loaded before they fork with `preload_app`."""
        return self.code.load()

    def run(self) -> None:
        """Run the daemon. Returns by `SystemExit`."""
        arbiter = Arbiter(self)
        if self.checking.directory is not None:
            arbiter.START_CTX["cwd"] = self.checking.directory
        arbiter.open()
        try:
            if self.cfg.daemon:
                util.daemonize(self.cfg.enable_stdio_inheritance)
            arbiter.run()
        except Exception:  # from its start: whatever comes later, and all that is of a child, ends by SystemExit
            arbiter.give_up()
            raise


def _config_of(plan: Plan) -> Config:
    cfg = Config(prog="dploylib serve")
    daemon = plan.daemon
    settings = {name: value for name in daemon.__struct_fields__ if (value := getattr(daemon, name)) is not None}
    cfg.set("worker_class", Worker)
    cfg.set("logger_class", Logger)
    cfg.set("bind", [])  # the endpoints are the arbiter's own
    cfg.set("control_socket_disable", True)
    cfg.set("disable_redirect_access_to_syslog", True)  # there are no accesses
    cfg.set("proc_name", daemon.name or "dploylib")
    cfg.log_format = daemon.log_format or "text"
    cfg.max_memory = size_of(str(daemon.max_memory)) if daemon.max_memory else 0
    for name, value in settings.items():
        if name not in _OURS:
            _set(cfg, name, value)
    for hook, function in daemon.hooks.items():
        _set(cfg, hook, _function(hook, function), f"hooks.{hook}")
    return cfg


def _set(cfg: Config, name: str, value: Any, path: str = "") -> None:
    try:
        if isinstance(value, float):  # seconds, which gunicorn takes whole
            cfg.settings[name].value = value
        else:
            cfg.set(name, value)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigurationError([ConfigurationProblem(f"daemon.{path or name}", str(error))]) from error


def _function(hook: str, path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            [ConfigurationProblem(f"daemon.hooks.{hook}", f"{path} cannot be loaded: {error}")]
        ) from error
    function: Callable[..., Any] = found
    return function

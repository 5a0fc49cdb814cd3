"""The testing kit: real services inside tests, handlers without sockets, networks that fail; and a plugin for pytest.

For example::

    from dploylib.testing import running

    def test_it_echoes():
        with running(service) as it:
            assert it.client("echo.request").request("hello").text == "hello"

The names here are loaded when they are first used, since the plugin is loaded into every run of pytest.
"""

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from typing import Any

    from .harness import RunningService, running
    from .leaks import LeakCheck
    from .memory import HandlerResult, InMemoryServer, call_handler, in_memory
    from .proxy import FlakyProxy

__all__ = [
    "FlakyProxy",
    "HandlerResult",
    "InMemoryServer",
    "LeakCheck",
    "RunningService",
    "call_handler",
    "in_memory",
    "running",
]

_HOMES = {
    "FlakyProxy": "proxy",
    "HandlerResult": "memory",
    "InMemoryServer": "memory",
    "LeakCheck": "leaks",
    "RunningService": "harness",
    "call_handler": "memory",
    "in_memory": "memory",
    "running": "harness",
}


def __getattr__(name: str) -> "Any":
    """Load a name from its module when it is first used (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> "list[str]":
    """List what is loaded and what can be."""
    return sorted({*globals(), *_HOMES})

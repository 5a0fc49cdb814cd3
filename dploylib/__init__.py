"""A runtime for services made of greenlets that talk over ZeroMQ.

Declare a server as a class, its sockets as decorated methods and its endpoints in YAML::

    from dploylib import Server, Service, bind_in

The names here are loaded from their modules when they are first used. Importing `dploylib` imports next to
nothing, and it never monkey-patches.
"""

TYPE_CHECKING = False  # what type checkers take for true; `typing` itself would be the largest import of this file
if TYPE_CHECKING:
    from typing import Any

    from dploylib import errors
    from dploylib.clients import ListeningClient, ObservableServiceClient, PushClient, RequestClient
    from dploylib.errors import DployError
    from dploylib.security import Peer, Security
    from dploylib.servers import Handler, Server, bind, bind_in, connect, connect_in, every, offload
    from dploylib.services import Service
    from dploylib.transport import Context, Envelope, ReceivedData, Socket

__all__ = [
    "Context",
    "DployError",
    "Envelope",
    "Handler",
    "ListeningClient",
    "ObservableServiceClient",
    "Peer",
    "PushClient",
    "ReceivedData",
    "RequestClient",
    "Security",
    "Server",
    "Service",
    "Socket",
    "__version__",
    "bind",
    "bind_in",
    "connect",
    "connect_in",
    "errors",
    "every",
    "offload",
]

__version__ = "0.1.0"

_HOMES = {
    "Context": "transport",
    "DployError": "errors",
    "Envelope": "transport",
    "Handler": "servers",
    "ListeningClient": "clients",
    "ObservableServiceClient": "clients",
    "Peer": "security",
    "PushClient": "clients",
    "ReceivedData": "transport",
    "RequestClient": "clients",
    "Security": "security",
    "Server": "servers",
    "Service": "services",
    "Socket": "transport",
    "bind": "servers",
    "bind_in": "servers",
    "connect": "servers",
    "connect_in": "servers",
    "every": "servers",
    "offload": "servers",
}
# So that `import dploylib` is enough for `dploylib.errors.DployError`.
_SUBMODULES = frozenset(
    {
        *(
            "cli",
            "clients",
            "config",
            "connecting",
            "control",
            "daemon",
            "errors",
            "handling",
            "ipc_lock",
            "logs",
            "messages",
        ),
        *("security", "servers", "services", "statistics", "targets", "testing", "tracing", "transport"),
    }
)


def __getattr__(name: str) -> "Any":
    """Load a name from its module when it is first used (PEP 562)."""
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> "list[str]":
    """List what is loaded and what can be."""
    return sorted({*globals(), *_HOMES, *_SUBMODULES})

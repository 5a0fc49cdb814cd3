"""Which endpoints can be reached from other machines, or lead there."""

from __future__ import annotations

import ipaddress
from typing import Final

__all__ = ["leaves_machine"]

_LOCAL: Final = ("inproc", "ipc", "vmci")  # VMCI is between a virtual machine and its host
_ENCRYPTED: Final = ("wss",)


def leaves_machine(uri: str) -> bool:
    """Whether what goes over this endpoint may be read and changed on its way, outside of this machine.

    No name is looked up but `localhost`: which host a name stands for may be another one tomorrow.
    """
    transport, _, address = uri.partition("://")
    if transport in _LOCAL or transport in _ENCRYPTED:
        return False
    if transport not in ("tcp", "ws"):
        return True
    # Before the semicolon stands where it comes from, and behind the slash what a WebSocket asks for.
    host = address.partition("/")[0].rpartition(";")[2].rpartition(":")[0].strip("[]").partition("%")[0]
    if host.lower() == "localhost":
        return False
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback

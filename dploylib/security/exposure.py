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
    host = address.rpartition(";")[2].partition("/")[0].rpartition(":")[0].strip("[]").partition("%")[0]
    if host.lower() in ("localhost", "lo"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True

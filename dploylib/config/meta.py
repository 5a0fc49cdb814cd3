"""What the types of a configuration say besides: names, and words of which one is chosen."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

__all__ = ["BY_NAME", "Name", "ServiceName", "one_of", "service_name_flaw"]

_NAME = r"[^\s/.\x00-\x1f\x7f-\x9f]+"


def _name_flaw(name: object) -> str | None:
    if not isinstance(name, str) or re.fullmatch(_NAME, name):
        return None
    return "a name has at least one character, and no '.', '/', whitespace or control characters"


def service_name_flaw(name: object) -> str | None:
    """Why a service cannot be called so; None where it can: commands print it on terminals."""
    return None if not isinstance(name, str) or name.isprintable() else "a name has no control characters"


def one_of(*words: str) -> Meta:
    """What a string may be, one of a few words."""

    def flaw(word: object) -> str | None:
        return None if word in words or not isinstance(word, str) else f"expected {' or '.join(words)}"

    return Meta(extra={"flaw": flaw}, extra_json_schema={"enum": list(words)})


Name: TypeAlias = Annotated[str, Meta(extra={"flaw": _name_flaw})]
"""The name of a server or a socket."""

ServiceName: TypeAlias = Annotated[str, Meta(extra={"flaw": service_name_flaw})]
"""The name of a service."""

BY_NAME: Final = {"propertyNames": {"pattern": f"^{_NAME}$"}}
"""What a JSON Schema says of a mapping by such names."""

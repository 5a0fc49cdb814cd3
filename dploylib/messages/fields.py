"""What the fields of messages can be. The types are all that there is of it: checks, errors and schemas come from them.

The patterns mean the same to Python and to ECMA-262, which JSON Schema goes by.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

__all__ = [
    "AppName",
    "BroadcastId",
    "Commit",
    "Name",
    "OutputType",
    "StatusType",
    "Text",
    "Uri",
    "Value",
    "VariableName",
    "Version",
]

_END = r"(?!\n)$"  # Python's $ alone also matches before a newline at the end
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_SHA1 = "[0-9a-fA-F]{40}"
# RFC 3986, but for where which of its characters may stand: a scheme, an IPv6 address in brackets, and the rest.
_URI_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*:(?=.)(?://(?:{_URI_CHARACTER}*@)?\[[0-9A-Fa-f:.]+\])?{_URI_CHARACTER}*(?:#{_URI_CHARACTER}*)?"


def _string(expected: str, pattern: str, **extra: object) -> Meta:
    return Meta(pattern=pattern, extra={"expected": expected, **extra})


Name: TypeAlias = Annotated[str, _string("a name: at least one character, none of them NUL", r"^[^\x00]+$")]
AppName: TypeAlias = Annotated[Name, Meta(description="The name of the app.")]
Commit: TypeAlias = Annotated[
    str,
    _string("a SHA-1 commit: 40 hex digits", f"^{_SHA1}{_END}"),
    Meta(description="The SHA-1 commit of the app."),
]
BroadcastId: TypeAlias = Annotated[
    str,
    _string("UUID:COMMIT: a UUID and a SHA-1 commit of 40 hex digits", f"^{_UUID}:{_SHA1}{_END}"),
    Meta(description="The id that broadcasts about this have: a random UUID, a colon and the commit."),
]
Uri: TypeAlias = Annotated[
    str,
    _string("a URI with a scheme, as in https://example.org/app.tar.gz", f"^{_URI}{_END}"),
    Meta(extra_json_schema={"format": "uri"}),
]
Version: TypeAlias = Annotated[
    int,
    # The largest integer that JSON means the same by everywhere (RFC 7493, 2.2).
    Meta(ge=0, le=2**53 - 1, extra={"expected": "an integer from 0 to 2**53 - 1"}),
]
OutputType: TypeAlias = Literal["line", "raw"]
StatusType: TypeAlias = Literal["info", "error", "completed"]

# What the environment of a process can hold (`environ` in POSIX). Values are often secrets: no error shows one.
VariableName: TypeAlias = Annotated[
    str, _string("the name of a variable: at least one character, none of them = or NUL", r"^[^=\x00]+$")
]
Value: TypeAlias = Annotated[str, _string("a string without NUL", r"^[^\x00]*$", secret=True)]
Text: TypeAlias = Annotated[str, _string("a string without NUL", r"^[^\x00]*$")]

"""The messages that the services of dploy exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from ..errors import InvalidMessage
from .base import FrozenDict, Message, Record
from .explaining import flaw_in
from .fields import (
    AppName,
    BroadcastId,
    Commit,
    Name,
    OutputType,
    StatusType,
    Text,
    Uri,
    Value,
    VariableName,
    Version,
)

__all__ = [
    "MESSAGES",
    "AppBuildRequest",
    "AppRelease",
    "BroadcastMessage",
    "BroadcastOutputData",
    "BroadcastStatusData",
    "BuildRequest",
    "EnvVars",
    "ZoneDeployOrder",
    "ZoneStopDeploy",
    "new_broadcast_id",
]


def new_broadcast_id(commit: str) -> str:
    """A broadcast id for a build of this commit: a random UUID, a colon and the commit."""
    return f"{uuid4()}:{commit}"


class BuildRequest(Record, frozen=True):
    """A job for the build queue: build this commit of an app."""

    broadcast_id: BroadcastId
    app: AppName
    archive_uri: Annotated[Uri, Meta(description="Where the app is, as a tar.gz.")]
    commit: Commit
    update_message: Annotated[str, Meta(description="A message about the update.")]
    release_version: Annotated[Version, Meta(description="The release version to use. 0 is the latest one.")]


class BroadcastOutputData(Record, frozen=True, omit_defaults=True):
    """The body of a broadcast that passes output on."""

    type: Annotated[OutputType, Meta(description="Whether the data is a line, or raw output.")]
    data: Annotated[str | None, Meta(description="The output.")] = None


class BroadcastStatusData(Record, frozen=True, omit_defaults=True):
    """The body of a broadcast that tells how something goes. After `completed` or `error` comes nothing more."""

    type: Annotated[StatusType, Meta(description="How it goes.")]
    data: Annotated[str | None, Meta(description="A message about the status.")] = None


_BODIES: Final[dict[str, type[Record]]] = {"output": BroadcastOutputData, "status": BroadcastStatusData}

_Variables: TypeAlias = dict[Name, dict[VariableName, Value]]


class EnvVars(Message, FrozenDict[str, Mapping[str, str]]):
    """The environment variables of an app: by the name of a service, the variables that it gives to the app, by name.

    It is a dictionary, which does not change: `EnvVars({"postgres": {"DATABASE_URL": "postgresql://..."}})`. It does
    not show values, which are often secrets.
    """

    __slots__ = ()
    _wire = _Variables

    def __init__(self, variables: Mapping[str, Mapping[str, str]] | None = None) -> None:
        given = {} if variables is None else variables
        try:
            checked = msgspec.convert(given, _Variables)
        except msgspec.ValidationError as error:
            raise InvalidMessage(flaw_in(given, _Variables, "EnvVars") or f"EnvVars: {error}") from error
        super().__init__({service: FrozenDict(values) for service, values in checked.items()})

    @classmethod
    def _made_of(cls, decoded: Any) -> EnvVars:
        return cls(decoded)

    def __repr__(self) -> str:
        names = {service: sorted(values) for service, values in self.items()}
        return f"<EnvVars {names}>"


# What is checked on the way from and to the wire is what msgspec knows of these types, and what they are afterwards is
# what everybody else does.
if TYPE_CHECKING:
    _Env: TypeAlias = EnvVars
    _Body: TypeAlias = BroadcastOutputData | BroadcastStatusData
    _Commands: TypeAlias = Mapping[str, str]
else:
    _Env = _Variables
    _Body = Any
    _Commands = dict[Name, Text]


class BroadcastMessage(Record, frozen=True):
    """What clients are told about a job while it is done."""

    type: Annotated[Literal["output", "status"], Meta(description="What the body is.")]
    body: Annotated[
        _Body,
        Meta(
            description="BroadcastOutputData if the type is output, BroadcastStatusData if it is status.",
            extra_json_schema={"type": "object"},
        ),
    ]

    def _keep(self, checked: Any) -> None:
        kind = _BODIES[self.type]
        if not isinstance(self.body, kind):
            try:
                force_setattr(self, "body", msgspec.convert(self.body, kind))
            except msgspec.ValidationError as error:
                self._refuse(error)

    @classmethod
    def _dependent_types(cls, data: Mapping[Any, Any]) -> dict[str, Any]:
        """The type of the body, which the field `type` tells."""
        kind = data.get("type")
        return {"body": _BODIES[kind]} if isinstance(kind, str) and kind in _BODIES else {}

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the message."""
        _, definitions = msgspec.json.schema_components(_BODIES.values(), ref_template="#/$defs/{name}")
        bodies = [
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"properties": {"body": {"$ref": f"#/$defs/{body.__name__}"}}},
            }
            for kind, body in _BODIES.items()
        ]
        return {**super().json_schema(), "allOf": bodies, "$defs": definitions}


class AppRelease(Record, frozen=True):
    """A snapshot of an app: what runs, of which commit, in which environment. Cargo files are made of it."""

    version: Annotated[Version, Meta(description="The number of the release.")]
    app: AppName
    commit: Commit
    env: Annotated[_Env, Meta(description="The environment variables of the app (EnvVars): by service, and by name.")]
    processes: Annotated[_Commands, Meta(description="The commands of the available processes, by the process's name.")]

    def _keep(self, checked: Any) -> None:
        force_setattr(self, "env", EnvVars(checked.env))
        force_setattr(self, "processes", FrozenDict(checked.processes))


class AppBuildRequest(Record, frozen=True):
    """A job for the build center: build this release."""

    app_release: Annotated[AppRelease, Meta(description="The current release of the app.")]
    archive_uri: Annotated[Uri, Meta(description="Where the repository of the app is, as a tar.gz.")]

    def _keep(self, checked: Any) -> None:
        force_setattr(self, "app_release", checked.app_release)


class ZoneDeployOrder(Record, frozen=True):
    """Tells a zone to deploy an app."""

    app: AppName
    cargo_uri: Annotated[Uri, Meta(description="Where the cargo file of the app can be downloaded.")]


class ZoneStopDeploy(Record, frozen=True):
    """Tells a zone to stop running apps. An app that does not run there needs no stop, and is no error."""

    apps: Annotated[tuple[Name, ...], Meta(description="The names of the apps to stop.")]

    def _keep(self, checked: Any) -> None:
        force_setattr(self, "apps", checked.apps)

    def serialize(self) -> Any:
        """The message as plain data: dicts, lists, strings and numbers."""
        return {"apps": list(self.apps)}


MESSAGES: Final[Mapping[str, type[Message]]] = {
    message.__name__: message
    for message in (
        BuildRequest,
        BroadcastMessage,
        BroadcastOutputData,
        BroadcastStatusData,
        AppBuildRequest,
        AppRelease,
        EnvVars,
        ZoneDeployOrder,
        ZoneStopDeploy,
    )
}
"""Every message by its name."""

"""What a reload has changed, and what it could not."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .planning import Plan

__all__ = ["Change", "changes", "kept"]

# What the arbiter has done once and for all, or decided for all of its processes.
_FOR_A_RESTART = (
    "capture_output",
    "daemon",
    "group",
    "initgroups",
    "name",
    "pidfile",
    "preload_app",
    "run_dir",
    "umask",
    "user",
)
_DIFFERENT = "needs a restart: it stays as it was until the service is stopped and started"
# What the front has set its sockets to.
_OF_A_LANE = ("options", "max_frames", "security")


class Change(NamedTuple):
    """A setting that has changed, by its dotted path."""

    path: str
    applied: bool

    def __str__(self) -> str:
        done = "applied" if self.applied else _DIFFERENT
        return f"{self.path} has changed: {done}"


def changes(before: Plan, after: Plan) -> list[Change]:
    """What is different, in the order of the paths."""
    paths = sorted(
        path for path in {*before.digests, *after.digests} if before.digests.get(path) != after.digests.get(path)
    )
    lanes = {(lane.server, lane.socket) for lane in before.lanes}
    return [Change(path, not _needs_restart(path.split("."), lanes)) for path in paths]


def kept(before: Plan, after: Plan) -> Plan:
    """The new plan, with the settings as they were that need a restart."""
    same = {name: getattr(before.daemon, name) for name in _FOR_A_RESTART}
    return msgspec.structs.replace(after, daemon=msgspec.structs.replace(after.daemon, **same))


def _needs_restart(path: list[str], lanes: set[tuple[str, str]]) -> bool:
    section, *rest = path
    if section == "daemon":
        return rest[0] in _FOR_A_RESTART
    if section == "security":  # which says for all sockets, or for those of a server, what those of the front are
        server = rest[1] if rest[0] == "servers" and len(rest) > 1 else None
        return any(server in (None, lane) for lane, _ in lanes)
    return section == "servers" and len(rest) > 2 and (rest[0], rest[1]) in lanes and rest[2] in _OF_A_LANE

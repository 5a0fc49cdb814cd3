"""Messages of every kind, made by hypothesis, and the data of one of each, made by hand from the reference."""

from typing import Any

from hypothesis import strategies as st

from dploylib.messages import (
    AppBuildRequest,
    AppRelease,
    BroadcastMessage,
    BroadcastOutputData,
    BroadcastStatusData,
    BuildRequest,
    EnvVars,
    Message,
    ZoneDeployOrder,
    ZoneStopDeploy,
)

COMMIT = "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed"
BROADCAST_ID = f"9b2c1a34-6f0e-4d8a-8c55-0f3d1e7a2b90:{COMMIT}"

BUILD_REQUEST = {
    "broadcast_id": BROADCAST_ID,
    "app": "shop",
    "archive_uri": "https://archives.example.org/shop.tar.gz",
    "commit": COMMIT,
    "update_message": "a new basket",
    "release_version": 0,
}
ENV_VARS = {"postgres": {"DATABASE_URL": "postgresql://db/shop"}, "web": {"PORT": "8080", "DEBUG": ""}}
APP_RELEASE = {
    "version": 3,
    "app": "shop",
    "commit": COMMIT,
    "env": ENV_VARS,
    "processes": {"web": "gunicorn shop", "worker": "python -m shop.worker"},
}

VALID: list[tuple[type[Message], Any]] = [
    (BuildRequest, BUILD_REQUEST),
    (BroadcastMessage, {"type": "output", "body": {"type": "raw", "data": "\x1b[1mBuilding"}}),
    (BroadcastMessage, {"type": "status", "body": {"type": "completed"}}),
    (BroadcastOutputData, {"type": "line", "data": "Building"}),
    (BroadcastOutputData, {"type": "raw"}),
    (BroadcastStatusData, {"type": "error", "data": "no such file"}),
    (AppBuildRequest, {"app_release": APP_RELEASE, "archive_uri": "file:///srv/shop.tar.gz"}),
    (AppRelease, APP_RELEASE),
    (EnvVars, ENV_VARS),
    (ZoneDeployOrder, {"app": "shop", "cargo_uri": "https://cargo.example.org/shop-3"}),
    (ZoneStopDeploy, {"apps": ["shop", "blog"]}),
]
"""Data of each message."""

VALID_IDS = [message.__name__ for message, _ in VALID]

texts = st.text(st.characters(codec="utf-8"))
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
variables = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1)
commits = st.text("0123456789abcdefABCDEF", min_size=40, max_size=40)
broadcast_ids = st.builds("{}:{}".format, st.uuids(), commits)
uris = st.builds(
    "{}:{}{}".format,
    st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]*", fullmatch=True),
    st.sampled_from(["//example.org/", "//user:secret@[::1]:80/", "/", ""]),
    st.from_regex(r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})+(#[a-z?]*)?", fullmatch=True),
)
versions = st.integers(0, 2**53 - 1)
optional_texts = st.none() | texts

outputs = st.builds(BroadcastOutputData, st.sampled_from(["line", "raw"]), optional_texts)
statuses = st.builds(BroadcastStatusData, st.sampled_from(["info", "error", "completed"]), optional_texts)
environments = st.dictionaries(names, st.dictionaries(variables, values, max_size=3), max_size=3)
releases = st.builds(
    AppRelease, versions, names, commits, environments.map(EnvVars), st.dictionaries(names, values, max_size=3)
)

MESSAGES_OF: dict[type[Message], st.SearchStrategy[Message]] = {
    BuildRequest: st.builds(BuildRequest, broadcast_ids, names, uris, commits, texts, versions),
    BroadcastMessage: st.builds(BroadcastMessage, st.just("output"), outputs)
    | st.builds(BroadcastMessage, st.just("status"), statuses),
    BroadcastOutputData: outputs,
    BroadcastStatusData: statuses,
    AppBuildRequest: st.builds(AppBuildRequest, releases, uris),
    AppRelease: releases,
    EnvVars: environments.map(EnvVars),
    ZoneDeployOrder: st.builds(ZoneDeployOrder, names, uris),
    ZoneStopDeploy: st.builds(ZoneStopDeploy, st.lists(names).map(tuple)),
}
"""What makes messages of each kind."""

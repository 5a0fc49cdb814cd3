"""A configuration as text, for people to read: with all that it was filled from, and without its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from ..security.masked import MASK
from ..security.settings import Security
from .daemon import DaemonSettings
from .model import Settings
from .problems import Path, is_secret, segment

__all__ = ["as_yaml"]

_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")  # the password in postgres://name:password@host


def as_yaml(settings: Settings, daemon: DaemonSettings | None = None) -> str:
    """The configuration as YAML: templates, placeholders and single values are in it, and `***` stands for secrets.

    `daemon` is what is used instead of that section.
    """
    configuration = settings.configuration
    if daemon is not None:
        configuration = msgspec.structs.replace(configuration, daemon=daemon)
    return yaml.safe_dump(_plain(configuration, ()), sort_keys=False, allow_unicode=True)


def _plain(value: Any, path: Path) -> Any:
    if isinstance(value, msgspec.Struct):
        said = {
            field.encode_name: getattr(value, field.name)
            for field in msgspec.structs.fields(value)
            if getattr(value, field.name) != field.default
        }
        if isinstance(value, Security):  # its paths and public keys are no secrets, and its password masks itself
            servers = {name: _plain(one, path) for name, one in said.pop("servers", {}).items()}
            shown = {key: MASK if str(one) == MASK else one for key, one in said.items()}
            return shown | ({"servers": servers} if servers else {})
        return {key: _plain(one, (*path, key)) for key, one in said.items() if one != {}}
    if isinstance(value, Mapping):
        return {key: _plain(one, (*path, segment(key))) for key, one in value.items()}
    if isinstance(value, tuple) and len(value) == 2:  # a socket option
        return [value[0], _plain(value[1], (*path, str(value[0])))]
    if isinstance(value, list | tuple):
        return [_plain(one, path) for one in value]
    if value is not None and is_secret(path):
        return MASK
    return _IN_URL.sub(rf"\1{MASK}", value) if isinstance(value, str) else value

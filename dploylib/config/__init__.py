"""Configuration: a file, text or dict in, typed and checked `Settings` out.

For example::

    settings = YAMLConfigMapper().process("config.yaml")
    settings.socket_info("echo", "request").uris

The way of a configuration: `reading` (YAML to plain data) -> `environment` (placeholders) -> `checking` (against
the types in `model`) -> `Settings`. `loading` leads through it, `problems` says where a value was written.
"""

from .loading import Defaults, YAMLConfigMapper
from .model import (
    Configuration,
    Declared,
    OptionValue,
    ServerSettings,
    Settings,
    SocketSettings,
    Supervision,
    json_schema,
)
from .monitoring import MonitoringSettings
from .placement import Place, Placement
from .printing import as_yaml

__all__ = [
    "Configuration",
    "Declared",
    "Defaults",
    "MonitoringSettings",
    "OptionValue",
    "Place",
    "Placement",
    "ServerSettings",
    "Settings",
    "SocketSettings",
    "Supervision",
    "YAMLConfigMapper",
    "as_yaml",
    "json_schema",
]

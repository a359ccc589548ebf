"""The server's settings: environment variables and the configuration file, checked all at once.

:class:`ServerConfig` is the only list of the variables; their names, defaults and meanings, and
the documentation's tables, come from it.
"""

from ._kinds import MOST_WORKERS
from ._readers import read_jwks
from ._relations import EVENTS
from .choices import (
    ClusterRole,
    DatabaseTls,
    EventLoop,
    IdentityKind,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    ShortSecret,
    WhenFull,
)
from .cluster_settings import ClusterSettings
from .file import ConfigurationFile, RelationRule
from .reference import SETTING_NAMES, Variable, print_config, variables
from .room_settings import MESSAGES_PUBLICATION
from .settings import ServerConfig
from .webhooks import Webhook

__all__ = [
    # .choices
    "ClusterRole",
    "DatabaseTls",
    "EventLoop",
    "IdentityKind",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "OutputPlugin",
    "ReplicationMode",
    "RlsDelete",
    "ShortSecret",
    "WhenFull",
    # .cluster_settings
    "ClusterSettings",
    # .file
    "ConfigurationFile",
    "RelationRule",
    # ._kinds
    "MOST_WORKERS",
    # ._readers
    "read_jwks",
    # ._relations
    "EVENTS",
    # .reference
    "SETTING_NAMES",
    "Variable",
    "print_config",
    "variables",
    # .room_settings
    "MESSAGES_PUBLICATION",
    # .settings
    "ServerConfig",
    # .webhooks
    "Webhook",
]

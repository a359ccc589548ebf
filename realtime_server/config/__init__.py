"""What the server can be told: environment variables, checked all at once.

:class:`ServerConfig` is the one list of them; names, defaults, meanings and the
documentation's tables come from it.
"""

from ._kinds import (
    DatabaseTls,
    EventLoop,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    ShortSecret,
    read_jwks,
)
from .file import EVENTS, ConfigurationFile, RelationRule, Webhook
from .reference import Variable, print_config, variables
from .settings import SETTING_NAMES, ServerConfig

__all__ = [
    # ._kinds
    "DatabaseTls",
    "EventLoop",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "OutputPlugin",
    "ReplicationMode",
    "RlsDelete",
    "ShortSecret",
    "read_jwks",
    # .file
    "EVENTS",
    "ConfigurationFile",
    "RelationRule",
    "Webhook",
    # .reference
    "Variable",
    "print_config",
    "variables",
    # .settings
    "SETTING_NAMES",
    "ServerConfig",
]

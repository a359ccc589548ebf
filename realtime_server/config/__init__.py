"""The server's settings: environment variables and the configuration file, checked all at once.

:class:`ServerConfig` is the only list of the variables; their names, defaults and meanings, and
the documentation's tables, come from it.
"""

from ._readers import read_jwks
from .choices import (
    DatabaseTls,
    EventLoop,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    ShortSecret,
)
from .file import EVENTS, ConfigurationFile, RelationRule, Webhook
from .reference import Variable, print_config, variables
from .settings import SETTING_NAMES, ServerConfig

__all__ = [
    # .choices
    "DatabaseTls",
    "EventLoop",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "OutputPlugin",
    "ReplicationMode",
    "RlsDelete",
    "ShortSecret",
    # .file
    "EVENTS",
    "ConfigurationFile",
    "RelationRule",
    "Webhook",
    # ._readers
    "read_jwks",
    # .reference
    "Variable",
    "print_config",
    "variables",
    # .settings
    "SETTING_NAMES",
    "ServerConfig",
]

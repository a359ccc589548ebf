"""What the server can be told: environment variables, checked all at once.

:class:`ServerConfig` is the one list of them; names, defaults, meanings and the
documentation's tables come from it.
"""

from ._kinds import DatabaseTls, IpVersion, LogFormat, LogLevel, ReplicationMode, read_jwks
from .file import ConfigurationFile, RelationRule, Webhook
from .reference import Variable, variables
from .settings import ServerConfig

__all__ = [
    # ._kinds
    "DatabaseTls",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "ReplicationMode",
    "read_jwks",
    # .file
    "ConfigurationFile",
    "RelationRule",
    "Webhook",
    # .reference
    "Variable",
    "variables",
    # .settings
    "ServerConfig",
]

"""``python -m realtime_server migrate``: set up the database's schema ``realtime``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ...config import ServerConfig
from ...config.database.addresses import make_dsn
from ...config.database.connections import connect
from ...messages.partitions import keep_partitions
from .migrations import LOCK, migrate, pending
from .privileges import missing_privileges
from .type_schemas import hidden_schemas, open_schemas

__all__ = ["run_migrate"]


async def run_migrate(
    environ: Mapping[str, str], *, dev: bool, dry_run: bool, tell: Callable[[str], None]
) -> None:
    """Apply the missing migrations, or only list them; then list the missing privileges.

    Args:
        environ: the environment variables. Only those of the database and the publications are
            read, since tokens are not needed here.
        dev: whether to take the defaults of ``--dev``.
        dry_run: whether to change nothing.
        tell: prints a line for the operator.

    Raises:
        ConfigError: if the variables are invalid; it has every problem.
        SourceError: if the database cannot be reached, or refuses the changes.
    """
    wanted = {
        name: value
        for name, value in environ.items()
        if name.startswith("DB_") or name == "PUBLICATIONS"
    }
    config = ServerConfig.from_env({**wanted, "SECURE_CHANNELS": "false"}, dev=dev)
    async with await connect(make_dsn(config), name="migrate") as connection:
        if dry_run:
            for migration in await pending(connection):
                tell(f"would apply {migration}")
            for schema in await hidden_schemas(connection, config.publications):
                if schema.can_open:
                    tell(f"would let realtime_nobody use the schema {schema.name}")
        else:
            for migration in await migrate(connection):
                tell(f"applied {migration}")
            for name in await open_schemas(connection, config.publications, lock=LOCK):
                tell(f"realtime_nobody may use the schema {name} from now on")
            upkeep = await keep_partitions(connection, datetime.now(UTC))
            for name in () if upkeep is None else upkeep.made:
                tell(f"made the partition realtime.{name}")
            for failure in () if upkeep is None else upkeep.failed:
                tell(f"a partition of realtime.messages is left for later: {failure}")
        if not await pending(connection):
            tell("the schema realtime is up to date")
        missing = await missing_privileges(connection, config.publications)
        if missing.every:
            tell(f"{config.db_user} lacks privileges for RLS mode, which an administrator grants:")
            for grant in missing.every:
                tell(f"    {grant}")

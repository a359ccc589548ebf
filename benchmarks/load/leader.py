"""Reads the database for servers that share a log, and serves no clients.

    NATS_URL=nats://127.0.0.1:4222 SLOT_NAME=shop … python -m benchmarks.load.leader

The variables are the server's.
"""

from __future__ import annotations

import asyncio
import logging
import os

from realtime_server.cluster.feed import LogFeed
from realtime_server.cluster.setup import make_node
from realtime_server.config import ServerConfig


async def lead() -> None:
    # Nobody opens the feed, so the log is not read.
    node = make_node(ServerConfig.from_env(os.environ, dev=True), LogFeed)
    async with node:
        await asyncio.gather(*node.running)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(lead())

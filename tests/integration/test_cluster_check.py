"""What ``--check`` says of NATS, on real servers: whatever is missing is named, with what to do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import nats
import pytest

from realtime_core import Finding, Severity
from realtime_server.cluster.check import cluster_findings
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.errors import LogError
from realtime_server.cluster.log import Log, LogSettings, stream_config
from realtime_server.cluster.permissions import publish_permissions, subscribe_permissions
from realtime_server.cluster.setup import log_settings
from realtime_server.config import ClusterSettings
from tests.nats_server import DEBIAN, LATEST, NatsCluster, NatsServer, free_port, user

pytestmark = pytest.mark.integration

Start = Callable[..., NatsServer]

COVERED = {"log_ack_delay": 130_000}


def settings(server: NatsServer, name: str, **more: Any) -> ClusterSettings:
    values = {"nats_url": server.url, "slot_name": "s", "cluster_name": name, **COVERED, **more}
    return ClusterSettings(**values)


async def make_stream(server: NatsServer, name: str, **login: str) -> None:
    """Make the stream as a server does that is set up as `settings` says."""
    async with await nats.connect(server.url, **login) as client:
        config = json.dumps(stream_config(LogSettings(name=name)))
        reply = await client.request(f"$JS.API.STREAM.CREATE.{name}", config.encode())
        assert "error" not in json.loads(reply.data)


async def streams(server: NatsServer) -> dict[str, int]:
    """Return the names of all streams, and how many messages each has."""
    async with await nats.connect(server.url) as client:
        infos = await client.jetstream().streams_info()
    return {str(info.config.name): info.state.messages for info in infos}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.1)


async def only(config: ClusterSettings) -> Finding:
    (finding,) = await cluster_findings(config)
    return finding


async def test_before_the_first_start_nothing_is_made(nats: NatsServer) -> None:
    finding = await only(settings(nats, "check_before"))
    assert finding.severity is Severity.OK
    assert "the first server to start makes the stream 'check_before'" in finding.message
    assert "check_before" not in await streams(nats)


async def test_a_stream_that_is_there_is_looked_at_and_left_alone(nats: NatsServer) -> None:
    await make_stream(nats, "check_there")
    finding = await only(settings(nats, "check_there"))
    assert finding == Finding.ok("cluster", "NATS is reached, and keeps the stream 'check_there'")
    assert (await streams(nats))["check_there"] == 0


async def test_a_log_that_is_full_before_the_window_is_over_is_named(nats: NatsServer) -> None:
    name = "check_full"
    config = settings(nats, name, log_max_bytes=1 << 24)
    async with await NatsConnection.open(config, name="test") as connection:
        log = Log(connection, LogSettings(name=name, max_bytes=1 << 24))
        await log.prepare()
        for number in range(18):
            await connection.request(f"{name}.log", bytes(1_000_000 - 1000))
            assert len(await cluster_findings(config, replay_window=300.0)) == 1 + (number > 14)
    assert len(await cluster_findings(config)) == 1
    found = await cluster_findings(config, replay_window=300.0)
    assert re.match(r"the log has the changes of \d+ s, as its 16777216 bytes", found[1].message)


async def test_a_stream_that_differs_is_not_changed_but_named(nats: NatsServer) -> None:
    await make_stream(nats, "check_other")
    config = settings(nats, "check_other", log_max_age=900_000, log_max_bytes=1 << 24)
    found = await cluster_findings(config)
    assert [finding.severity for finding in found] == [
        Severity.OK,
        Severity.WARNING,
        Severity.WARNING,
    ]
    told = " ".join(finding.message for finding in found)
    assert "LOG_MAX_BYTES is 16777216 bytes, and the stream check_other has 1073741824" in told
    assert "LOG_MAX_AGE is 900000 ms, and the stream check_other has 600000 ms" in told
    assert "nats stream edit check_other --max-age=900s" in told


async def test_one_copy_and_a_short_delay_may_lose_changes(nats: NatsServer) -> None:
    found = await cluster_findings(settings(nats, "check_copies", log_ack_delay=10_000))
    assert found[-1].severity is Severity.WARNING
    assert "when its machine loses power" in found[-1].message
    assert "LOG_ACK_DELAY=130000" in str(found[-1].remedy)
    three = settings(nats, "check_copies", log_ack_delay=10_000, nats_replicas=3)
    assert "power" not in " ".join(one.message for one in await cluster_findings(three))


async def test_nobody_is_there() -> None:
    config = ClusterSettings(nats_url=f"nats://127.0.0.1:{free_port()}", slot_name="s")
    finding = await only(config)
    assert finding.severity is Severity.PROBLEM
    assert finding.message.startswith("no connection to NATS: nats://127.0.0.1:")


async def test_each_server_that_does_not_accept_the_connection_is_named(nats: NatsServer) -> None:
    gone = f"nats://127.0.0.1:{free_port()}"
    config = attrs.evolve(settings(nats, "check_gone"), nats_url=f"{gone},{nats.url}")
    found = await cluster_findings(config)
    assert [finding.severity for finding in found] == [Severity.OK, Severity.WARNING]
    assert found[1].message.startswith(f"no connection to NATS: {gone}: nothing listens there")
    assert found[1].remedy is not None


async def test_copies_that_cannot_be_are_named_and_one_alone_too(
    new_nats: Start, nats_cluster: NatsCluster
) -> None:
    config = settings(new_nats(), "check_alone", nats_replicas=3)
    alone = await cluster_findings(config)
    assert "NATS_REPLICAS is 3, and NATS tells of one server only" in alone[1].message
    cluster = attrs.evolve(config, nats_url=nats_cluster.url)
    assert [one.severity for one in await cluster_findings(cluster)] == [Severity.OK]
    single = await cluster_findings(attrs.evolve(cluster, nats_replicas=1))
    assert "names 3 servers, and one of them alone keeps the log" in single[1].message
    async with await NatsConnection.open(cluster, name="tests") as connection:
        await Log(connection, log_settings(cluster)).prepare()

    async def is_whole() -> bool:
        found = await cluster_findings(attrs.evolve(cluster, nats_replicas=1))
        # Three copies are there, and one is wanted; all of them keep up.
        return [one.severity for one in found] == [Severity.OK, Severity.WARNING]

    await until(is_whole)


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_without_jetstream_there_is_no_log(new_nats: Start, program: Path) -> None:
    config = settings(new_nats(program=program, jetstream=False), "shop")
    finding = await only(config)
    assert finding.severity is Severity.PROBLEM
    assert finding.message.startswith("JetStream does not answer; enable it")
    async with await NatsConnection.open(config, name="tests") as connection:
        with pytest.raises(LogError, match="JetStream does not answer; enable it"):
            await Log(connection, log_settings(config)).prepare()


async def test_messages_have_to_be_large_enough_for_the_largest_rows(new_nats: Start) -> None:
    nats = new_nats(more="max_payload: 20000")
    found = await cluster_findings(settings(nats, "shop"), broadcast_bytes=20_000)
    severities = [finding.severity for finding in found]
    assert severities == [Severity.PROBLEM, Severity.OK, Severity.WARNING]
    assert "set max_payload to 32768 or more" in found[0].message
    assert "clients may broadcast 20000 (MAX_PAYLOAD_BYTES)" in found[-1].message


@pytest.mark.parametrize(
    ("wanted", "remedy"),
    [
        (LogSettings(name="shop"), "set a larger max_file_store in the configuration of NATS"),
        (LogSettings(name="shop", max_bytes=1 << 24, replicas=3), "set NATS_REPLICAS=1, or use"),
    ],
)
@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_stream_that_cannot_be_made_is_said_with_what_to_do(
    new_nats: Start, program: Path, wanted: LogSettings, remedy: str
) -> None:
    server = new_nats(program=program, max_file_store="100MB")
    config = settings(server, "shop")
    async with await NatsConnection.open(config, name="tests") as connection:
        with pytest.raises(LogError, match=remedy):
            await Log(connection, wanted).prepare()


# Permissions

ALL = [
    *(("publish", subject) for subject in publish_permissions("shop")),
    *(("subscribe", subject) for subject in subscribe_permissions("shop")),
]


def documented() -> str:
    """Return what the page about several servers has of users, with a password."""
    page = (Path(__file__).parents[2] / "docs/howto/several-servers.md").read_text(encoding="utf-8")
    block = page.partition('```text title="nats.conf"\n')[2].partition("```")[0]
    return block[block.index("authorization") :].replace('"…"', "pw")


def allowed(verb: str, without: str) -> str:
    publish, subscribe = publish_permissions("shop"), subscribe_permissions("shop")
    (publish if verb == "publish" else subscribe).remove(without)
    return f"authorization {{ users: [ {user('me', 'pw', publish, subscribe)} ] }}"


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_the_permissions_that_are_documented_are_enough(
    new_nats: Start, program: Path
) -> None:
    server = new_nats(program=program, more=documented())
    config = settings(server, "shop", nats_user="realtime", nats_password="pw")
    assert (await only(config)).severity is Severity.OK
    await make_stream(server, "shop", user="realtime", password="pw")
    assert (await only(config)).severity is Severity.OK


async def test_of_another_name_all_permissions_are_missing(new_nats: Start) -> None:
    config = settings(
        new_nats(more=documented()), "other", nats_user="realtime", nats_password="pw"
    )
    finding = await only(config)
    assert finding.message.startswith("NATS does not let its user use the stream 'other'; permit")
    assert "set CLUSTER_NAME" in str(finding.remedy)


def test_the_permissions_that_are_documented_are_those_that_the_check_names() -> None:
    named = re.findall(r'"([^"\n]*[.>][^"\n]*)"', documented())
    assert named == [*publish_permissions("shop"), *subscribe_permissions("shop")]


@pytest.mark.parametrize(("verb", "missing"), ALL)
@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_permission_that_is_missing_is_named(
    new_nats: Start, program: Path, verb: str, missing: str
) -> None:
    server = new_nats(program=program, more=allowed(verb, missing))
    finding = await only(settings(server, "shop", nats_user="me", nats_password="pw"))
    assert finding.severity is Severity.PROBLEM
    said, _, advice = finding.message.partition("; permit it there: ")
    assert said == f"NATS does not let its user {verb} {missing}"
    assert missing in advice

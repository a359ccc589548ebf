"""The rules of the house, read off the imports; nothing is imported for it.

1. The library never imports the server; the server uses the library's public modules only.
2. Decoding, filtering and the replication protocol know no sockets, no event loop, no clock
   and no database.
3. What speaks Phoenix and what fans out knows no websockets and no psycopg.
4. What webhooks decide, from answers and clocks that they are given, knows no I/O; nor does what
   replay keeps and decides, and what packs changes for other servers.
5. Sockets are on top: what is decided for clients, the changes' ways and the modes never import
   `net`, which imports them.
6. Each third-party package has one home.

Besides, imports make no circles.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

import attrs
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("realtime_core", "realtime_server")

SANS_IO = (
    "realtime_core.pgoutput",
    "realtime_core.wal2json",
    "realtime_core.filters",
    "realtime_core.payloads",
    "realtime_core.replication",
    "realtime_core.snapshot",
    "realtime_core.types",
)
# It calls psycopg's loaders, which need no connection, and imports them at the first conversion.
CONVERTERS = ("realtime_core.types.python_values",)
IO = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "selectors", "select", "signal"),
    *("http", "socket", "socketserver", "ssl", "subprocess", "threading"),
    *("sched", "time"),
    *("random", "secrets"),
    *("dbm", "psycopg", "psycopg_pool", "sqlite3"),
    *("h11", "websockets"),
}
CLOCK = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}

FAN_OUT = ("realtime_server.phoenix", "realtime_server.fanout")
# It puts STREAM mode together: it asks the database and counts, and metrics know the sockets'
# counters.
BESIDES = ("realtime_server.fanout.stream",)

# What replay decides: places, the log, and the journal of who may come back.
REPLAY = (
    "realtime_server.replay.journal",
    "realtime_server.replay.change_log",
    "realtime_server.replay.other_processes",
    "realtime_server.replay.stream_origin",
    "realtime_server.replay.places",
    "realtime_server.replay.process",
    "realtime_server.replay.records",
)

# What webhooks decide: answers, pauses, bodies and signatures, from what they are given.
DECISIONS = (
    "realtime_server.webhooks.body",
    "realtime_server.webhooks.progress",
    "realtime_server.webhooks.request",
    "realtime_server.webhooks.signature",
    "realtime_server.webhooks.retries",
)

# What `net` uses, and what uses no sockets.
BELOW_SOCKETS = (
    "realtime_server.auth",
    "realtime_server.config",
    "realtime_server.fanout",
    "realtime_server.messages",
    "realtime_server.phoenix",
    "realtime_server.replay",
    "realtime_server.rls",
    "realtime_server.webhooks",
)

# What passes between a reader and servers: bytes in, events out.
CLUSTER = (
    "realtime_server.cluster.chain",
    "realtime_server.cluster.envelope",
    "realtime_server.cluster.nodes",
    "realtime_server.cluster.packer",
    "realtime_server.cluster.presence_messages",
    "realtime_server.cluster.room_messages",
    "realtime_server.cluster.shared_presence",
    "realtime_server.cluster.unpacker",
    "realtime_server.workers.frames",
    "realtime_server.workers.in_flight",
    "realtime_server.workers.pieces",
    "realtime_server.workers.room_frames",
)

HOMES: dict[str, tuple[str, ...]] = {
    "attrs": PACKAGES,
    "authlib": ("realtime_server.auth",),
    "cattrs": (
        "realtime_core._structure",
        "realtime_core.config",
        "realtime_server.config",
        "realtime_server.phoenix.join_shape",
        "realtime_server.phoenix.joins",
    ),
    "h11": ("realtime_server.net.http", "realtime_server.net.listener"),
    "httpx": ("realtime_server.webhooks.client",),
    "joserfc": ("realtime_server.auth",),
    "nats": (
        "realtime_server.cluster.check",
        "realtime_server.cluster.client",
        "realtime_server.cluster.connection",
        "realtime_server.cluster.login",
    ),
    "opentelemetry": ("realtime_core.opentelemetry",),
    "orjson": (
        "realtime_core.payloads",
        "realtime_server.fanout.payloads",
        "realtime_server.messages.policies",
        "realtime_server.phoenix",
    ),
    "prometheus_client": (
        "realtime_server.cluster.collector",
        "realtime_server.metrics",
        "realtime_server.net.broadcast_metrics",
        "realtime_server.workers.collector",
        "realtime_server.workers.metric_sums",
    ),
    "pyarrow": ("realtime_core._arrow_columns", "realtime_core.arrow"),
    "psycopg": (
        "realtime_core.doctor",
        "realtime_core.sources",
        "realtime_core.targets",
        "realtime_core._structure_texts",
        "realtime_core.types.python_values",
        "realtime_server.config.database",
        "realtime_server.demo",
        "realtime_server.fanout.stream",
        "realtime_server.messages",
        "realtime_server.replay.second_slot",
        "realtime_server.replay.wal_messages",
        "realtime_server.rls",
    ),
    # For type checkers, which bring it along; nothing imports it when it runs.
    "typing_extensions": ("realtime_core.changes", "realtime_core.sources.base"),
    "psycopg_pool": (
        "realtime_server.config.database",
        "realtime_server.messages",
        "realtime_server.rls",
    ),
    "re2": ("realtime_core.filters",),
    # The compiled parts of the library, where its own distribution of them is installed.
    "realtime_core_c": (
        "realtime_core._implementation",
        "realtime_core._row_loader",
        "realtime_core.pgoutput._tuples",
        "realtime_core.pgoutput.change_decoder",
        "realtime_core.snapshot.row_events",
        "realtime_core.sources._copy_data",
        "realtime_core.sources._live_stream",
        "realtime_core.sources._queue",
        "realtime_core.types.python_values",
    ),
    "uvloop": ("realtime_server.cli",),
    "websockets": (
        "realtime_server.net.connection",
        "realtime_server.net.cycles",
        "realtime_server.net.frame_limits",
        "realtime_server.net.idle_timer",
        "realtime_server.net.listener",
        "realtime_server.net.outbox",
        "realtime_server.server",
    ),
}

When = Literal["load", "call", "typing"]


@attrs.frozen
class Import:
    """One import: of a module of ours, or of anything else's dotted name."""

    target: str
    when: When
    """As the module loads, when a function is called, or for the type checker alone."""


@attrs.frozen
class Module:
    name: str
    imports: tuple[Import, ...]
    reads_clock: tuple[str, ...]


class House:
    """All modules by name, from their source."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._names = set(sources)
        self.modules = {name: self._read(name, source) for name, source in sources.items()}

    def in_rooms(self, *rooms: str) -> Iterator[Module]:
        """Yield the modules that are in one of the packages, or are one of the modules."""
        for name, module in sorted(self.modules.items()):
            if is_in(name, rooms):
                yield module

    def loaded_by(self, name: str) -> set[str]:
        """Return all that is imported when the module is: its own imports', and so on."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            # The packages around a module are loaded before it.
            parts = current.split(".")
            todo += [".".join(parts[:depth]) for depth in range(1, len(parts))]
            if (module := self.modules.get(current)) is not None:
                todo += [item.target for item in module.imports if item.when == "load"]
        return seen - {name}

    def _is_package(self, name: str) -> bool:
        return any(other.startswith(f"{name}.") for other in self._names) or name in PACKAGES

    def _read(self, name: str, source: str) -> Module:
        tree = ast.parse(source)
        clock = tuple(
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in CLOCK
        )
        return Module(name, tuple(self._imports(name, tree, "load")), clock)

    def _imports(self, name: str, node: ast.AST, when: When) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, when)
            elif isinstance(child, ast.ImportFrom):
                yield from self._imports_from(name, child, when)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from self._imports(name, child, "call" if when == "load" else when)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from self._imports(name, ast.Module(child.body, []), "typing")
                yield from self._imports(name, ast.Module(child.orelse, []), when)
            else:
                yield from self._imports(name, child, when)

    def _imports_from(self, name: str, node: ast.ImportFrom, when: When) -> Iterator[Import]:
        base = node.module or ""
        if node.level:
            parts = name.split(".")
            up = node.level - 1 if self._is_package(name) else node.level
            base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
        for alias in node.names:
            target = f"{base}.{alias.name}"
            if is_in(base, PACKAGES) and (target in self._names or alias.name.startswith("_")):
                yield Import(target, when)
            else:
                yield Import(base, when)


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@cache
def read_house() -> House:
    sources = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text(encoding="utf-8")
    return House(sources)


# The rules. Each returns a sentence for every import that breaks it.


def library_without_server(house: House) -> list[str]:
    return [
        f"{module.name} imports {item.target}: the library stands alone"
        for module in house.in_rooms("realtime_core")
        for item in module.imports
        if is_in(item.target, ("realtime_server",))
    ]


def server_through_the_front_door(house: House) -> list[str]:
    return [
        f"{module.name} imports {item.target}, which is private"
        for module in house.in_rooms("realtime_server")
        for item in module.imports
        if is_in(item.target, ("realtime_core",))
        and any(is_private(part) for part in item.target.split("."))
    ]


def is_private(name: str) -> bool:
    """Tell `_name` from `name`, and from `__version__`, which is anybody's."""
    return name.startswith("_") and not name.endswith("__")


def decoding_without_io(house: House) -> list[str]:
    return [
        *_without(house, SANS_IO, IO, besides=CONVERTERS),
        *(
            f"{module.name} reads the clock: {call}"
            for module in house.in_rooms(*SANS_IO)
            for call in module.reads_clock
        ),
    ]


def fan_out_without_network_and_database(house: House) -> list[str]:
    return _without(house, FAN_OUT, {"psycopg", "psycopg_pool", "websockets"}, besides=BESIDES)


def webhooks_decide_without_io(house: House) -> list[str]:
    return _without(house, DECISIONS, IO | {"httpx"})


def replay_decides_without_io(house: House) -> list[str]:
    return _without(house, REPLAY, IO)


def sockets_on_top(house: House) -> list[str]:
    return [
        f"{module.name} imports {item.target}: the packages below it do not know net"
        for module in house.in_rooms(*BELOW_SOCKETS)
        for item in module.imports
        if is_in(item.target, ("realtime_server.net",))
    ]


def envelopes_without_io(house: House) -> list[str]:
    return [
        *_without(house, CLUSTER, IO),
        *(
            f"{module.name} reads the clock: {call}"
            for module in house.in_rooms(*CLUSTER)
            for call in module.reads_clock
        ),
    ]


def one_home_for_each_package(house: House) -> list[str]:
    problems = []
    for module in house.in_rooms(*PACKAGES):
        for item in module.imports:
            package = item.target.partition(".")[0]
            if package in PACKAGES or package in sys.stdlib_module_names:
                continue
            homes = HOMES.get(package, ())
            if not is_in(module.name, homes):
                at = ", ".join(homes) or "nowhere: give it a home in test_architecture.py"
                problems.append(f"{module.name} imports {item.target}, at home in {at}")
    return problems


def no_circles(house: House) -> list[str]:
    graph = {
        name: {
            item.target
            for item in module.imports
            if item.when == "load" and item.target in house.modules
        }
        for name, module in house.modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"imports in a circle: {' <- '.join(error.args[1])}"]
    return []


def _without(
    house: House, rooms: tuple[str, ...], unknown: set[str], besides: tuple[str, ...] = ()
) -> list[str]:
    problems = []
    for module in house.in_rooms(*rooms):
        if is_in(module.name, besides):
            continue
        direct = {item.target for item in module.imports}
        for target in sorted(direct | house.loaded_by(module.name)):
            if target.partition(".")[0] in unknown:
                how = "imports" if target in direct else "loads, through others,"
                problems.append(f"{module.name} {how} {target}")
    return problems


Rule = Callable[[House], list[str]]

RULES: list[Rule] = [
    library_without_server,
    server_through_the_front_door,
    decoding_without_io,
    fan_out_without_network_and_database,
    webhooks_decide_without_io,
    replay_decides_without_io,
    sockets_on_top,
    one_home_for_each_package,
    no_circles,
]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    assert rule(read_house()) == []


def test_the_top_of_the_server_stays_small() -> None:
    """A newcomer looks through it for what is to be changed."""
    below = {
        tuple(name.split(".")[1:])
        for name in read_house().modules
        if name.startswith("realtime_server")
    }
    packages = {parts[0] for parts in below if len(parts) > 1}
    assert len(packages) <= 12, sorted(packages)
    # With __init__.
    modules = {parts[0] for parts in below if parts} - packages | {"__init__"}
    assert len(modules) <= 7, sorted(modules)


def test_every_home_and_room_that_exists_is_spelled_right() -> None:
    house = read_house()
    for present in (
        *("realtime_core.pgoutput", "realtime_core.replication", "realtime_core.sources"),
        *("realtime_core.doctor", "realtime_core.types"),
        *(
            "realtime_core.types.python_values",
            "realtime_server.phoenix",
            "realtime_server.fanout.hub",
        ),
        *(
            "realtime_server.fanout.topic_parser",
            "realtime_server.fanout.payloads.row_payload",
            "realtime_server.config",
        ),
    ):
        assert present in house.modules


@pytest.mark.parametrize(
    ("rule", "sources", "problem"),
    [
        (
            library_without_server,
            {"realtime_core.lsn": "from realtime_server.fanout.hub import Hub"},
            "realtime_core.lsn imports realtime_server.fanout.hub: the library stands alone",
        ),
        (
            library_without_server,
            {"realtime_core.lsn": "def f():\n    import realtime_server"},
            "realtime_core.lsn imports realtime_server: the library stands alone",
        ),
        (
            server_through_the_front_door,
            {"realtime_server.fanout.hub": "from realtime_core.sources._attach import Slot"},
            "realtime_server.fanout.hub imports realtime_core.sources._attach, which is private",
        ),
        (
            server_through_the_front_door,
            {"realtime_server.fanout.hub": "from realtime_core.sources import _attach"},
            "realtime_server.fanout.hub imports realtime_core.sources._attach, which is private",
        ),
        (
            decoding_without_io,
            {"realtime_core.filters.index": "def f():\n    import asyncio"},
            "realtime_core.filters.index imports asyncio",
        ),
        (
            decoding_without_io,
            {
                "realtime_core.filters": "from .index import FilterIndex",
                "realtime_core.filters.index": "from .. import clock",
                "realtime_core.clock": "from time import monotonic",
            },
            "realtime_core.filters.index loads, through others, time",
        ),
        (
            decoding_without_io,
            {
                "realtime_core.pgoutput.decoder": "import struct",
                "realtime_core": "import psycopg",
            },
            "realtime_core.pgoutput.decoder loads, through others, psycopg",
        ),
        (
            decoding_without_io,
            {"realtime_core.wal2json": "from datetime import datetime\nx = datetime.now()"},
            "realtime_core.wal2json reads the clock: datetime.now",
        ),
        (
            fan_out_without_network_and_database,
            {
                "realtime_server.fanout.hub": (
                    "from typing import TYPE_CHECKING\n"
                    "if TYPE_CHECKING:\n    from websockets.asyncio.server import ServerConnection"
                )
            },
            "realtime_server.fanout.hub imports websockets.asyncio.server",
        ),
        (
            fan_out_without_network_and_database,
            {
                "realtime_server.fanout.topic_parser": "from ..net.connection import Connection",
                "realtime_server.net.connection": "import websockets",
            },
            "realtime_server.fanout.topic_parser loads, through others, websockets",
        ),
        (
            webhooks_decide_without_io,
            {"realtime_server.webhooks.retries": "from time import time"},
            "realtime_server.webhooks.retries imports time",
        ),
        (
            sockets_on_top,
            {"realtime_server.replay.proofs": "def f():\n    from ..net.outbox import Outbox"},
            "realtime_server.replay.proofs imports realtime_server.net.outbox: "
            "the packages below it do not know net",
        ),
        (
            one_home_for_each_package,
            {"realtime_server.fanout.hub": "import orjson"},
            "realtime_server.fanout.hub imports orjson, "
            "at home in realtime_core.payloads, realtime_server.fanout.payloads, "
            "realtime_server.messages.policies, realtime_server.phoenix",
        ),
        (
            one_home_for_each_package,
            {"realtime_server.config": "import psycopg"},
            "realtime_server.config imports psycopg, at home in realtime_core.doctor, "
            "realtime_core.sources, realtime_core.targets, realtime_core._structure_texts, "
            "realtime_core.types.python_values, "
            "realtime_server.config.database, realtime_server.demo, "
            "realtime_server.fanout.stream, realtime_server.messages, "
            "realtime_server.replay.second_slot, realtime_server.replay.wal_messages, "
            "realtime_server.rls",
        ),
        (
            one_home_for_each_package,
            {"realtime_core.lsn": "try:\n    import numpy.linalg\nexcept ImportError:\n    pass"},
            "realtime_core.lsn imports numpy.linalg, "
            "at home in nowhere: give it a home in test_architecture.py",
        ),
        (
            no_circles,
            {
                "realtime_core.lsn": "from .positions import Position",
                "realtime_core.positions": "from .lsn import LSN",
            },
            "imports in a circle: realtime_core.lsn <- realtime_core.positions"
            " <- realtime_core.lsn",
        ),
    ],
)
def test_a_broken_rule_is_found(rule: Rule, sources: dict[str, str], problem: str) -> None:
    assert problem in rule(House(sources))


@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        (
            server_through_the_front_door,
            {
                "realtime_server.fanout.hub": (
                    "from realtime_core.pgoutput import Decoder\nfrom ._x import y"
                )
            },
        ),
        (
            decoding_without_io,
            {
                "realtime_core.pgoutput.decoder": "from ..values import make_converter",
                "realtime_core.types.python_values": "def f():\n    import psycopg",
            },
        ),
        (
            no_circles,
            {
                "realtime_core": "from . import lsn",
                "realtime_core.lsn": (
                    "from typing import TYPE_CHECKING\n"
                    "if TYPE_CHECKING:\n    from .positions import Position"
                ),
                "realtime_core.positions": "from .lsn import LSN",
            },
        ),
    ],
)
def test_what_keeps_the_rule_is_left_alone(rule: Rule, sources: dict[str, str]) -> None:
    assert rule(House(sources)) == []


def test_the_files_that_the_page_of_the_architecture_names_are_there() -> None:
    """A file behind the first one of a row may be named from its folder, or from the server's."""
    page = (ROOT / "docs" / "project" / "architecture.md").read_text(encoding="utf-8")
    _, page = page.split("\n## I want to change")
    named, missing = 0, []
    for row in page.splitlines():
        folders = [ROOT, ROOT / "realtime_server"]
        for name in re.findall(r"`([\w/.-]+(?:\.py|\.yml|\.toml|\.service|/))`", row):
            named += 1
            found = [folder / name for folder in folders if (folder / name).exists()]
            if found:
                folders = [found[0].parent, found[0].parent.parent, *folders]
            else:
                missing.append(name)
    assert named > 100
    assert missing == []


def test_one_process_loads_nothing_of_what_several_need() -> None:
    several = ("realtime_server.workers", "realtime_server.cluster")
    loaded = read_house().loaded_by("realtime_server.__main__")
    loaded |= read_house().loaded_by("realtime_server.cli")
    assert [name for name in loaded if is_in(name, several)] == []
    assert is_in("realtime_server.workers.supervisor", several)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "whose", "needed"),
    [
        (
            {"NATS_URL": "nats://127.0.0.1:1", "SLOT_NAME": "shop"},
            ("nats", "realtime_server.cluster"),
            {"nats", "realtime_server.cluster.connection"},
        ),
        (
            {"SECURE_CHANNELS": "true", "JWT_SECRET": "x" * 32},
            ("authlib", "cryptography", "joserfc"),
            {"authlib", "cryptography", "joserfc"},
        ),
    ],
    ids=["a shared log", "tokens"],
)
def test_a_server_loads_what_it_needs_and_not_what_is_off(
    settings: dict[str, str], whose: tuple[str, ...], needed: set[str]
) -> None:
    program = (
        "import asyncio, sys\n"
        "import realtime_server.cli\n"
        "from realtime_server.config import ServerConfig\n"
        "from realtime_server.server import RealtimeServer\n"
        "async def main():\n"
        f"    for settings in ({{}}, {settings!r}):\n"
        "        RealtimeServer(ServerConfig.from_env(settings, dev=True))\n"
        f"        print(*(name for name in sys.modules if name.startswith({whose!r})))\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    without, having = done.stdout.splitlines()
    assert without == ""
    assert needed <= set(having.split())


@pytest.mark.slow
def test_to_import_the_library_or_the_decoder_loads_no_driver_and_little_else() -> None:
    """What takes longer to import than all of the decoder is imported when it is first needed."""
    heavy = {"asyncio", "attr", "attrs", "cattrs", "inspect", "json", "orjson", "psycopg"}
    heavy |= {"realtime_core.sources", "socket", "tempfile", "urllib.parse", "websockets"}
    program = (
        "import sys; import realtime_core, realtime_core.pgoutput, realtime_core.snapshot;"
        f" print(sorted({heavy!r}.intersection(sys.modules)));"
        " realtime_core.PgoutputSource; print('psycopg' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.splitlines() == ["[]", "True"]

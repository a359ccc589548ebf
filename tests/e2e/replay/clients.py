"""Stock clients in programs of their own, each behind a wire of its own, and what it is told."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from tests.e2e.browser import Page
from tests.e2e.program import NodeProgram, Program
from tests.e2e.replay.frames import text_frame
from tests.e2e.replay.rows import parse_place
from tests.e2e.replay.verdict import Away, Gap, GaveUp, Joined, Positioned, Row, Told
from tests.e2e.replay.wire import Wire
from tests.tokens import make_token

__all__ = ["CLIENTS", "Identity", "StockClient", "start_page", "start_program", "until_joined"]

CLIENTS: Final = ("js", "js-vsn1", "js-1", "py", "phoenix")
"""All but the one in a browser."""

Identity = Literal["session", "claims", "tab", "address"]
"""What the server can know a client by. Several tabs have the same token."""

BINDING: Final = {"event": "INSERT", "schema": "public", "table": "item"}
HEARTBEAT: Final = 2000
"""Milliseconds. A client that gets no reply until the next one closes by itself."""


def identify(identity: Identity) -> dict[str, str]:
    """Return the parameters of the connections of one client."""
    match identity:
        case "session":
            return {"apikey": "anon", "session": str(uuid.uuid4())}
        case "claims":
            return {"apikey": make_token({"role": "anon", "session_id": str(uuid.uuid4())})}
        case "tab":
            return {"apikey": make_token({"role": "anon", "session_id": "of several tabs"})}
        case "address":
            return {"apikey": "anon"}


class StockClient:
    """One client with one channel of the table ``item``.

    Args:
        name: of the library, and what it is known by.
        wire: that its connections take.
        topic: of its channel, on the wire.
        vsn: of the protocol.
        is_named: whether its connections name its session.
        comes_back: whether it always joins again.
        may_see: whether it may see a row.
    """

    def __init__(
        self,
        name: str,
        wire: Wire,
        *,
        topic: str,
        vsn: str,
        is_named: bool,
        comes_back: bool = True,
        may_see: Callable[[int], bool] = lambda row: True,
    ) -> None:
        self.name = name
        self.may_see = may_see
        self.wire = wire
        self.is_named = is_named
        self.comes_back = comes_back
        self.told: list[Told] = []
        """All that :meth:`look` has found."""
        self.highest = 0
        """The last of the rows that it got."""
        self.is_joined = False
        error: Any = {"topic": topic, "event": "phx_error", "payload": {}, "ref": None}
        if vsn == "2.0.0":
            error = [None, None, topic, "phx_error", {}]
        self.channel_error = text_frame(json.dumps(error, separators=(",", ":")).encode())
        """What has it join again on the same connection."""

    async def look(self) -> None:
        """Take note of what it was told."""
        for event in await self.read():
            self.told.append(event)
            match event:
                case Row(row):
                    self.highest = max(self.highest, row)
                case Joined():
                    self.is_joined = True
                case Away():
                    self.is_joined = False

    async def read(self) -> list[Told]:
        """Return what it was told since the last time."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Have it do nothing until :meth:`go`, as when a laptop sleeps."""
        raise NotImplementedError

    async def go(self) -> None:
        raise NotImplementedError


class ProgramClient(StockClient):
    """A client in a process of its own."""

    def __init__(self, name: str, wire: Wire, program: Program, **details: Any) -> None:
        super().__init__(name, wire, **details)
        self._program = program
        self._count = 0

    async def read(self) -> list[Told]:
        lines = self._program.said[self._count :]
        self._count += len(lines)
        return [event for line in lines for event in understand(line)]

    async def stop(self) -> None:
        self._program.signal(signal.SIGSTOP)

    async def go(self) -> None:
        self._program.signal(signal.SIGCONT)


class PageClient(StockClient):
    """A client in a page of a browser. It is stopped by blocking the page's main thread."""

    def __init__(self, name: str, wire: Wire, page: Page, **details: Any) -> None:
        super().__init__(name, wire, **details)
        self._page = page
        # It answers one call at a time.
        self._calls = asyncio.Lock()

    async def read(self) -> list[Told]:
        lines = await self._call("said.splice(0)")
        return [event for line in lines for event in understand(line)]

    async def stop(self) -> None:
        await self._call("block(1000)")

    async def go(self) -> None:
        # It goes on by itself.
        pass

    async def stay_busy(self, milliseconds: int) -> None:
        """Have its main thread blocked for so long, again and again, until the end."""
        await self._call(f"stayBusy({milliseconds})")

    async def _call(self, expression: str) -> Any:
        async with self._calls:
            return await asyncio.to_thread(self._page.evaluate, expression)


def start_program(
    name: str,
    number: int,
    wire: Wire,
    identity: Identity,
    *,
    folder: Path,
    python: Path,
    token: str | None = None,
    may_see: Callable[[int], bool] = lambda row: True,
    **more: Any,
) -> tuple[Program, Callable[[], ProgramClient]]:
    """Return a client's program, which is to be entered, and then what makes a client of it.

    Args:
        name: one of CLIENTS.
        number: tells it from others.
        wire: that its connections take.
        identity: what the server can know it by.
        folder: of the programs.
        python: of the environment that has the Python client.
        token: of its connections and its joins; None: what is usual for the identity.
        may_see: whether the token shows a row.
        more: options of the programs.
    """
    url = f"ws://127.0.0.1:{wire.port}/socket"
    params = identify(identity)
    if token is not None:
        params["apikey"] = token
    options: dict[str, Any] = {"params": params, "heartbeatIntervalMs": HEARTBEAT, **more}
    topic, vsn = "realtime:room", "2.0.0"
    subscribe: dict[str, Any] = {"subscribe": "room", "bindings": [BINDING]}
    program: Program
    match name:
        case "js":
            program = NodeProgram(folder / "realtime_js_2.mjs", url, json.dumps(options))
        case "js-vsn1":
            vsn = options["vsn"] = "1.0.0"
            program = NodeProgram(folder / "realtime_js_2.mjs", url, json.dumps(options))
        case "phoenix":
            program = NodeProgram(folder / "phoenix_1.mjs", url, json.dumps(options))
        case "js-1":
            topic, vsn = "realtime:public:item", "1.0.0"
            subscribe = {"join": topic}
            program = NodeProgram(folder / "lifecycle.mjs", url, json.dumps(options))
        case "py":
            vsn = "1.0.0"
            options = {"apikey": params["apikey"], "params": params, "max_retries": 1000}
            if more.get("reconnectAfter"):
                options["initial_backoff"] = more["reconnectAfter"] / 1000
            if "timeout" in more:
                options["timeout"] = more["timeout"] // 1000
            if "slow" in more:
                options["slow"] = more["slow"]
            source = str(folder / "realtime_py.py")
            program = Program(str(python), source, url, json.dumps(options))

    def make() -> ProgramClient:
        if token is not None or identity in ("claims", "tab"):
            program.tell(token=params["apikey"])
        program.tell(**subscribe)
        return ProgramClient(
            f"{number}: {name} by {identity}",
            wire,
            program,
            topic=topic,
            vsn=vsn,
            is_named=identity == "session",
            # Version 1.7.5 may take its own channel, while that is joining, for another one of
            # the same topic, leave it, and stay away.
            comes_back=name != "js-1",
            may_see=may_see,
        )

    return program, make


def start_page(page: Page, wire: Wire, **more: Any) -> PageClient:
    """Start supabase-js in a page that has loaded it."""
    page.wait_for("window.start")
    options = {"params": identify("session"), "heartbeatIntervalMs": HEARTBEAT, **more}
    url = f"http://127.0.0.1:{wire.port}"
    page.evaluate(f"start({json.dumps(url)}, {json.dumps(options)}, {json.dumps(BINDING)})")
    return PageClient(
        "chromium by session", wire, page, topic="realtime:room", vsn="2.0.0", is_named=True
    )


def understand(line: dict[str, Any]) -> Iterator[Told]:
    """Yield what a line that a client's program says means."""
    match line:
        case {"change": change}:
            data = change.get("data", change)
            yield Row(int(data.get("new", data.get("record"))["id"]))
        case {"type": "INSERT", "id": row}:
            yield Row(int(row))
        case {"status": "SUBSCRIBED"} | {"joined": _}:
            yield Joined()
        case {"status": "TIMED_OUT"}:
            yield GaveUp()
        case {"status": _} | {"refused": _} | {"socket": "open" | "closed"}:
            yield Away()
        case {"system": system}:
            yield from understand_system(system)


def understand_system(system: Any) -> Iterator[Told]:
    if isinstance(system, str):
        # The Python client's library keeps the message alone.
        if found := re.search(r"'Gap: (\w+)'", system):
            yield Gap(found[1])
        return
    match system:
        case {"gap": {"reason": reason, "after": after, "until": until}}:
            yield Gap(reason, after and parse_place(after), parse_place(until))
        case {"resumed": bool(resumed)}:
            yield Positioned(resumed)


async def until_joined(clients: Sequence[StockClient], *, within: float) -> None:
    """Return when every one is joined."""
    deadline = time.monotonic() + within
    while True:
        for client in clients:
            await client.look()
        absent = [client.name for client in clients if not client.is_joined]
        if not absent:
            return
        assert time.monotonic() < deadline, f"not joined within {within} s: {absent}"
        await asyncio.sleep(0.02)

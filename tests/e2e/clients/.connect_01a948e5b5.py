import asyncio
import contextlib

from realtime import AsyncRealtimeClient


def on_change(change):
    data = change["data"]
    print(data["type"].value, data.get("record"))


def on_system(event):
    if event.message.startswith("Gap: "):
        print("read the table again:", event.message.removeprefix("Gap: "))


def on_status(status, error):
    print(f"{status.value}: {error}" if error else status.value)


async def main():
    client = AsyncRealtimeClient(
        "ws://127.0.0.1:45403/socket", "anon", max_retries=10**6, initial_backoff=0
    )
    channel = client.channel("kitchen")
    channel.on_postgres_changes(
        "*", on_change, schema="public", table="todos", filter="done=is.false"
    )
    channel.on_system(on_system)
    await channel.subscribe(on_status)
    await asyncio.Event().wait()


with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C
    asyncio.run(main())

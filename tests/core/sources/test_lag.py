import pytest

from realtime_core.sources._lag import LagGuard
from realtime_core.sources.stream_options import StreamSettings
from tests.waiting import eventually


async def test_it_goes_on_when_it_cannot_be_told_where_to_look(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    async def dsn() -> str:
        nonlocal asked
        asked += 1
        raise ValueError("the vault is sealed")

    settings = StreamSettings(dsn=dsn, max_lag_bytes=1, lag_interval=0.001)
    guard = LagGuard(settings, lambda: "etl", lambda: None)
    guard.start()
    await eventually(lambda: asked >= 3)
    await guard.aclose()
    assert "cannot check the lag of slot 'etl'" in caplog.text
    assert "the vault is sealed" in caplog.text

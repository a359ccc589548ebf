"""How long a snapshot holds back VACUUM, and when that is said."""

from __future__ import annotations

import asyncio

import pytest

from realtime_core import SnapshotTimeoutError
from realtime_core.sources._snapshot_age import SnapshotAge
from tests.virtual_time import run_in_virtual_time


def test_a_snapshot_that_lasts_is_mentioned_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        age = SnapshotAge(None, lambda: "5 rows read", [].append)
        age.start()
        await asyncio.sleep(3 * 3600)
        age.stop()
        await asyncio.sleep(24 * 3600)

    run_in_virtual_time(main())
    assert [record.args for record in caplog.records] == [
        (minutes, "5 rows read") for minutes in (10, 20, 40, 80, 160)
    ]
    assert "held back VACUUM for 10 minutes, 5 rows read: until its last row" in caplog.text


def test_a_snapshot_ends_once_it_is_too_old(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[SnapshotTimeoutError] = []

    async def main() -> None:
        age = SnapshotAge(700, str, ends.append)
        age.start()
        with pytest.raises(SnapshotTimeoutError):
            async with age.within():
                await asyncio.sleep(3600)
        assert asyncio.get_running_loop().time() == 700
        # One that is done in time has no end.
        age = SnapshotAge(700, str, ends.append)
        age.start()
        async with age.within():
            await asyncio.sleep(500)
        age.stop()
        await asyncio.sleep(3600)

    run_in_virtual_time(main())
    assert [(end.seconds, str(end).count("700 s")) for end in ends] == [(700, 1)]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("timeout", [None, 700])
def test_the_limits_of_others_are_no_end_of_a_snapshot(timeout: float | None) -> None:
    async def main() -> None:
        age = SnapshotAge(timeout, str, [].append)
        age.start()
        with pytest.raises(TimeoutError) as caught:
            async with age.within(), asyncio.timeout(60):
                await asyncio.sleep(3600)
        assert type(caught.value) is TimeoutError
        age.stop()

    run_in_virtual_time(main())

"""Log: what a stream is to be; what one does is tried with real servers of NATS."""

from __future__ import annotations

from realtime_server.cluster.log import LogSettings, differences, stream_config

SETTINGS = LogSettings(name="shop", replicas=3, max_bytes=1000, max_age=60_000)


def test_a_stream_as_it_is_wanted_has_no_differences() -> None:
    assert differences({**stream_config(SETTINGS), "description": "ours"}, SETTINGS) == []


def test_each_difference_is_a_sentence() -> None:
    config = {**stream_config(SETTINGS), "num_replicas": 1, "max_age": 0}
    assert differences(config, SETTINGS) == [
        "num_replicas of the stream shop is 1, not 3",
        "max_age of the stream shop is 0, not 60000000000",
    ]

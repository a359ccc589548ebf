"""Log: what a stream is to be; what one does is tried with real servers of NATS."""

from __future__ import annotations

from realtime_server.cluster.log import LogSettings, differences, stream_config

SETTINGS = LogSettings(name="shop", replicas=3, max_bytes=1000, max_age=60_000)


def test_a_stream_as_it_is_wanted_has_no_differences() -> None:
    assert differences({**stream_config(SETTINGS), "description": "ours"}, SETTINGS) == []


def test_each_difference_names_the_variable_in_its_unit_and_the_command() -> None:
    config = {**stream_config(SETTINGS), "num_replicas": 1, "max_age": 600_000_000_000}
    assert differences(config, SETTINGS) == [
        "NATS_REPLICAS is 3, and the stream shop has 1; set both alike, the stream by nats stream "
        "edit shop --replicas=3",
        "LOG_MAX_AGE is 60000 ms, and the stream shop has 600000 ms; set both alike, the stream by "
        "nats stream edit shop --max-age=60s",
    ]


def test_a_stream_that_somebody_else_has_made_is_said_to_be_one() -> None:
    config = {**stream_config(SETTINGS), "storage": "memory"}
    assert differences(config, SETTINGS) == [
        "storage of the stream shop is 'memory', not 'file': another program has made or changed "
        "it; set another CLUSTER_NAME, or use nats stream edit shop"
    ]

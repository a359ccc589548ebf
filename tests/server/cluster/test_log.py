"""Log: what a stream is to be; what one does is tried with real servers of NATS."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"max_msgs": 10}, "max_msgs of the stream shop is 10, so that the log lets go of changes"),
        ({"max_msgs_per_subject": 5}, "lets go of changes long before"),
        ({"max_msg_size": 1000}, "so that larger messages are refused"),
        ({"max_consumers": 1}, "so that no more servers than these can read the log"),
        ({"no_ack": True}, "so that whoever appends is not answered"),
        ({"sealed": True}, "so that nothing can be appended"),
        ({"republish": {"src": ">", "dest": "seen.>"}}, "where others may read them"),
        ({"subject_transform": {"src": "", "dest": "x"}}, "have another subject"),
    ],
)
def test_what_a_stream_has_besides_is_named_if_it_is_in_the_way(
    more: dict[str, object], told: str
) -> None:
    config = {**stream_config(SETTINGS), "max_msgs_per_subject": -1, "sealed": False, "no_ack": 0}
    assert differences(config, SETTINGS) == []
    (difference,) = differences({**config, **more}, SETTINGS)
    assert told in difference
    assert difference.endswith(f"or make the stream anew without {next(iter(more))}")


def test_a_stream_that_somebody_else_has_made_is_said_to_be_one() -> None:
    config = {**stream_config(SETTINGS), "storage": "memory"}
    assert differences(config, SETTINGS) == [
        "storage of the stream shop is 'memory', not 'file': another program has made or changed "
        "it; set another CLUSTER_NAME, or use nats stream edit shop"
    ]

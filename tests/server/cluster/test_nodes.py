"""Nodes: what servers say of themselves, and whom a leader waits for."""

from __future__ import annotations

import json

import pytest

from realtime_core import LSN, SourceStats, StreamIdentity
from realtime_server.cluster.envelope import VERSION
from realtime_server.cluster.nodes import Beat, Nodes

LEADING = SourceStats(connected=True, confirmed_lsn=LSN(7), stream=StreamIdentity(1, 2, ("shop",)))


@pytest.mark.parametrize(
    "beat",
    [
        Beat("a", 7),
        Beat("b", 0, LEADING),
        Beat("b", 0, LEADING, slot="realtime"),
        Beat("c", None),
        Beat("d", None, LEADING),
        Beat("e", None, is_last=True),
        Beat("f", 7, writers=("0123456789abcdef", "f" * 16)),
        Beat("g", 7, version=2),
    ],
)
def test_a_beat_comes_as_it_was_sent(beat: Beat) -> None:
    assert Beat.from_json(beat.to_json()) == beat


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"node": 1}',
        b'{"node":"a","sequence":1,"source":{}}',
        b"[" * 100_000,
        Beat("a", 1, LEADING).to_json().replace(b'"gaps": 0', b'"gaps": "none"'),
    ],
    ids=range(6),
)
def test_what_is_no_beat_is_passed_over(data: bytes) -> None:
    assert Beat.from_json(data) is None


@pytest.mark.parametrize("version", ["-1", "0", "1e99", "true"])
def test_a_version_that_is_none_changes_nothing(version: str) -> None:
    nodes = Nodes(100)
    beat = Beat.from_json(
        b'{"node": "a", "sequence": 1, "source": null, "version": %b}' % version.encode()
    )
    if beat is not None:
        nodes.hear(beat, 0.0)
    assert nodes.version(5.0) == VERSION


def test_what_is_written_is_what_the_oldest_server_reads_of_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.cluster.nodes.VERSION", 3)
    nodes = Nodes(100)
    assert nodes.version(0.0) == 1
    nodes.hear(Beat("own", 1, version=3), 0.0)
    nodes.hear(Beat("own", 1, version=3), 2.0)
    assert nodes.version(2.9) == 1, "another may not have been heard yet"
    assert nodes.version(3.0) == 3
    nodes.hear(Beat("older", 1, version=2), 4.0)
    nodes.hear(Beat("newer", 1, version=4), 4.0)
    assert nodes.version(4.0) == 2
    says_nothing_of_it = Beat.from_json(b'{"node": "oldest", "sequence": 1, "source": null}')
    assert says_nothing_of_it is not None
    nodes.hear(says_nothing_of_it, 5.0)
    assert nodes.version(5.0) == 1
    nodes.hear(Beat("oldest", None, is_last=True), 6.0)
    for second in range(6, 15):
        nodes.hear(Beat("own", 1, version=3), float(second))
    assert nodes.version(14.0) == 2
    assert nodes.version(14.1) == 3, "the older one is not heard any more"


def test_who_has_lost_nats_writes_nothing_that_an_older_server_may_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.cluster.nodes.VERSION", 2)
    nodes = Nodes(100)
    own, older = Beat("own", 1, version=2), Beat("older", 1, version=1)
    for second in range(4):
        nodes.hear(own, float(second))
    assert nodes.version(3.0) == 2
    # A server that it does not know yet may be there by then.
    assert nodes.version(6.1) == 1, "nothing is heard"
    nodes.hear(own, 20.0)
    assert nodes.version(20.0) == 1, "the other one may not have been heard yet"
    nodes.hear(older, 20.5)
    for second in range(21, 24):
        nodes.hear(own, float(second))
    assert nodes.version(23.0) == 1, "the other one is there"


def test_a_server_that_is_not_heard_is_forgotten() -> None:
    nodes = Nodes(100)
    nodes.hear(Beat("a", 1), 0.0)
    nodes.hear(Beat("b", 1, LEADING), 5.0)
    assert (nodes.count(10.0), nodes.leader(10.0)) == (2, LEADING)
    assert (nodes.count(10.1), nodes.leader(10.1)) == (1, LEADING)
    assert (nodes.count(15.1), nodes.leader(15.1)) == (0, None)


def test_a_server_that_ends_is_forgotten_at_once_but_its_leading_counts_for_a_while() -> None:
    """Clients may connect to the others until one of them leads."""
    nodes = Nodes(100)
    nodes.hear(Beat("a", 1, LEADING), 0.0)
    nodes.hear(Beat("b", 1), 0.0)
    nodes.begin_term()
    nodes.appended(2, 60)
    assert nodes.holding_back(1.0) == "a"
    nodes.hear(Beat("a", None, is_last=True), 1.0)
    assert (nodes.count(1.0), nodes.leader(1.0)) == (1, LEADING)
    assert nodes.holding_back(1.0) == "b"
    nodes.hear(Beat("b", None, is_last=True), 2.0)
    assert (nodes.count(2.0), nodes.holding_back(2.0)) == (0, None)
    assert (nodes.leader(10.0), nodes.leader(10.1)) == (LEADING, None)


def test_a_leader_waits_for_a_server_that_is_behind_by_half_of_the_log() -> None:
    nodes = Nodes(100)
    nodes.hear(Beat("a", 0), 0.0)
    nodes.begin_term()
    nodes.appended(1, 30)
    nodes.appended(2, 20)
    assert nodes.holding_back(0.0) is None
    nodes.appended(3, 1)
    assert nodes.holding_back(0.0) == "a"
    nodes.hear(Beat("a", 1), 1.0)
    assert nodes.holding_back(1.0) is None


def test_a_leader_does_not_wait_for_a_server_without_progress() -> None:
    nodes = Nodes(100)
    nodes.begin_term()
    nodes.appended(1, 10)
    for second in range(40):
        # It has handed out everything that there was.
        nodes.hear(Beat("a", 1), float(second))
    nodes.appended(2, 60)
    # It gets its time from when there was something to do.
    for second in range(40, 71):
        assert nodes.holding_back(float(second)) == "a"
        nodes.hear(Beat("a", 1), float(second))
    assert nodes.holding_back(71.0) is None
    nodes.hear(Beat("a", 2), 71.0)
    nodes.appended(3, 60)
    assert nodes.holding_back(71.5) == "a"


def test_a_server_that_is_further_behind_than_the_log_counts_with_all_of_it() -> None:
    nodes = Nodes(100)
    nodes.hear(Beat("a", 5), 0.0)
    nodes.begin_term()
    for sequence in range(10, 100):
        nodes.appended(sequence, 10)
    assert nodes.holding_back(0.0) == "a"
    nodes.hear(Beat("a", 98), 1.0)
    assert nodes.holding_back(1.0) is None


def test_a_leader_does_not_wait_for_servers_that_have_not_begun_to_read() -> None:
    nodes = Nodes(100)
    nodes.begin_term()
    nodes.appended(1, 60)
    # They end before they can read anything, and are started again and again.
    for second in range(100):
        nodes.hear(Beat(f"a{second}", None), float(second))
        assert nodes.holding_back(float(second)) is None
    nodes.hear(Beat("b", None), 100.0)
    nodes.hear(Beat("b", 0), 101.0)
    assert nodes.holding_back(101.0) == "b"


def test_whoever_writes_into_the_journal_is_known_by_the_names_of_its_processes() -> None:
    """A supervisor has several processes that do, and a server without clients has none."""
    nodes = Nodes(1000)
    nodes.hear(Beat("a", 1, writers=("1" * 16, "2" * 16)), 0.0)
    nodes.hear(Beat("b", 1), 0.0)
    nodes.hear(Beat("c", 1, writers=("3" * 16,)), 5.0)
    assert nodes.count(5.0) == 3
    assert nodes.writers(5.0) == {"1" * 16, "2" * 16, "3" * 16}
    assert nodes.writers(11.0) == {"3" * 16}


def test_what_is_no_name_is_not_taken_for_one() -> None:
    for writers in (7, ["x", "g" * 16, 5, "1" * 16, "1" * 17, None], "1" * 16):
        said = json.dumps({"node": "a", "sequence": 1, "source": None, "writers": writers})
        beat = Beat.from_json(said.encode())
        assert beat is not None
        assert beat.writers == (("1" * 16,) if isinstance(writers, list) else ())

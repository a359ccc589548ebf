"""Viewers: what a token's claims say is written once, and never taken for another token's."""

from __future__ import annotations

import pytest

from realtime_server.auth.grant import Grant
from realtime_server.errors import RefusedError
from realtime_server.rls.viewers import Viewer, Viewers


def test_a_token_has_the_viewer_of_its_claims_without_those_that_are_ignored() -> None:
    viewers = Viewers(["exp"])
    claims = {"role": "reader", "sub": "ann"}
    ann = viewers.of(Grant({**claims, "exp": 1}, token="a"))
    assert ann is Viewer.of(claims)
    assert viewers.of(Grant({**claims, "exp": 2}, token="later")) is ann
    # It is not looked at again.
    assert viewers.of(Grant({}, token="a")) is ann


def test_without_a_token_the_claims_count_each_time() -> None:
    viewers = Viewers()
    seen = [viewers.of(Grant({"role": "reader", "sub": sub})).claims for sub in ("ann", "bob")]
    assert ["ann" in one for one in seen] == [True, False]


def test_a_token_without_a_role_is_refused_each_time() -> None:
    viewers = Viewers()
    for _ in range(2):
        with pytest.raises(RefusedError):
            viewers.of(Grant({}, token="a"))

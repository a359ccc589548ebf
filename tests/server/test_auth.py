"""The seam for authorization, as long as everybody is let in."""

from __future__ import annotations

from realtime_server.auth import AllowAll, Authorizer, ConnectRequest, JoinRequest


async def test_everybody_may_connect_and_join() -> None:
    authorizer: Authorizer = AllowAll()
    request = ConnectRequest("/socket/websocket", {"vsn": "1.0.0"}, {"x-api-key": "nonsense"})
    await authorizer.connect(request)
    await authorizer.join(JoinRequest(request, "realtime:*", {"user_token": "nonsense"}))

"""The one message of the protocol."""

from __future__ import annotations

from realtime_server.phoenix.messages import Message


def test_a_reply_carries_topic_and_both_refs_back() -> None:
    message = Message("realtime:*", "phx_join", {"any": 1}, ref="7", join_ref="7")
    assert message.reply("ok", {}) == Message(
        "realtime:*", "phx_reply", {"status": "ok", "response": {}}, ref="7", join_ref="7"
    )


def test_a_message_without_refs_gets_a_reply_without_refs() -> None:
    message = Message("phoenix", "heartbeat", {})
    assert message.reply("error", {"reason": "x"}) == Message(
        "phoenix", "phx_reply", {"status": "error", "response": {"reason": "x"}}
    )

"""Signatures, against the standard's own example and another implementation of HMAC."""

from __future__ import annotations

import base64
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, hmac

from realtime_server.webhooks.request import Request
from realtime_server.webhooks.signature import sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def independently(secret: str, signed: bytes) -> str:
    digest = hmac.HMAC(base64.b64decode(secret[6:]), hashes.SHA256())
    digest.update(signed)
    return "v1," + base64.b64encode(digest.finalize()).decode()


def test_the_specifications_example_is_signed_as_it_says() -> None:
    signature = sign((SECRET,), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_another_implementation_comes_to_the_same() -> None:
    body = "{“ä”}".encode()
    assert sign((SECRET,), "msg_1", 5, body) == independently(SECRET, b"msg_1.5." + body)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_comes_to_the_same() -> None:
    key = base64.b64decode(SECRET[6:]).hex()
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary"]
    done = subprocess.run(command, input=b"msg_1.5.{}", capture_output=True, check=True)
    assert sign((SECRET,), "msg_1", 5, b"{}") == "v1," + base64.b64encode(done.stdout).decode()


def test_while_a_secret_is_replaced_both_sign() -> None:
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    both = sign((SECRET, other), "a", 1, b"{}")
    assert both == " ".join(independently(each, b"a.1.{}") for each in (SECRET, other))


def test_without_a_secret_there_is_no_signature() -> None:
    request = Request("msg_1", "0/1:0", b"{}", 2, False, 0.0)
    assert request.headers((), 1614265330.9) == {
        "idempotency-key": "msg_1",
        "x-realtime-position": "0/1:0",
        "x-realtime-part": "2",
        "x-realtime-last-part": "false",
        "webhook-id": "msg_1",
        "webhook-timestamp": "1614265330",
    }
    signed = request.headers((SECRET,), 1614265330.9)
    assert signed["webhook-signature"] == independently(SECRET, b"msg_1.1614265330.{}")

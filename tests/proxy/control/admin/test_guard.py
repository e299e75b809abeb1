"""Who gets into the admin server."""

from __future__ import annotations

import pytest

from proxy.control.admin.guard import authorized, by_address


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9181", "10.0.0.1:80", "localhost", "LocalHost:9181", "[::1]", "[::1]:9181"],
)
def test_an_address_is_let_in(host: str) -> None:
    assert by_address(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.test", "evil.test:9181", "127.0.0.1.evil.test", "localhost.evil.test", "127.0.0.1:x", "::1",
     "127.0.0.1:80:80", "0x7f000001", "[::1", "[evil.test]", "[127.0.0.1]", "127.0.0.1@evil.test"],
)  # fmt: skip
def test_a_name_is_not(host: str) -> None:
    """DNS rebinding: evil.test may resolve to 127.0.0.1, but its pages send its own name."""
    assert not by_address(host)


@pytest.mark.parametrize(
    ("header", "token", "expected"),
    [
        ("", "", True),
        ("Bearer anything", "", True),
        ("Bearer s3cret", "s3cret", True),
        ("bearer s3cret", "s3cret", True),
        ("", "s3cret", False),
        ("s3cret", "s3cret", False),
        ("Basic s3cret", "s3cret", False),
        ("Bearer s3cre", "s3cret", False),
        ("Bearer \udcff", "s3cret", False),
    ],
)
def test_the_token(header: str, token: str, expected: bool) -> None:
    assert authorized(header, token) is expected

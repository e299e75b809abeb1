"""Reports go the other way along a link, and are hints: nothing waits for them and nothing breaks on them."""

from __future__ import annotations

import pytest

from discovery.model import BackendKey
from proxy.link import reports, snapshots
from proxy.link.reports import Mistaken, Refused

KEY = BackendKey("arn:aws:ecs:eu-west-1:111122223333:task/prod/4d59", "app", 8080)


def test_a_report_arrives_as_it_was_sent() -> None:
    near, far = snapshots.make_link()
    with near, far:
        reports.send(far, Refused("web", KEY))
        reports.send(far, Mistaken("web", KEY, 'identity mismatch: answered as "shop"'))
        reports.send(far, Refused("api", KEY))

        assert reports.receive(near) == [
            Refused("web", KEY),
            Mistaken("web", KEY, 'identity mismatch: answered as "shop"'),
            Refused("api", KEY),
        ]
        assert reports.receive(near) == []


def test_a_full_link_drops_reports_and_blocks_nobody() -> None:
    """The control process may be stopped; a worker must not notice."""
    near, far = snapshots.make_link()
    with near, far:
        for _ in range(100_000):
            reports.send(far, Refused("web", KEY))

        assert reports.receive(near)


@pytest.mark.parametrize("message", [b"{", b"[]", b'["web"]', b"17", b"\xff", b'["a","b","c",1,"d","e"]'])
def test_a_message_that_is_no_report_is_left_out(message: bytes) -> None:
    near, far = snapshots.make_link()
    with near, far:
        far.send(message)
        reports.send(far, Refused("web", KEY))

        assert reports.receive(near) == [Refused("web", KEY)]

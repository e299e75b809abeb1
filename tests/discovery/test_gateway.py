"""The default route of a container in bridge mode: the instance it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.gateway import default_gateway, read_routes

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LINK = "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"


def test_the_gateway_of_dockers_bridge() -> None:
    assert read_routes(HEAD + LINK + DEFAULT) == "172.17.0.1"


def test_of_two_default_routes_the_better_one() -> None:
    other = "eth1\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    assert read_routes(HEAD + other + DEFAULT) == "172.17.0.1"


@pytest.mark.parametrize(
    "routes",
    [
        "",
        HEAD,
        HEAD + LINK,
        HEAD + DEFAULT.replace("0003", "0002"),  # not up
        HEAD + DEFAULT.replace("010011AC", "00000000"),
        HEAD + DEFAULT.replace("00000000\t0\t0\t0\n", "0000FFFF\t0\t0\t0\n"),  # half of the addresses only
        HEAD + "eth0\t0\n" + "eth0 x x x x x x x\n",
    ],
)
def test_without_a_default_route(routes: str) -> None:
    assert read_routes(routes) == ""


def test_where_there_is_no_such_file(tmp_path: Path) -> None:
    assert default_gateway(tmp_path / "route") == ""
